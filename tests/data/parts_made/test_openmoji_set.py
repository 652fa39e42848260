"""Recoloured people of OpenMoji: masks that hold nothing of their neighbours, colours as labelled, splits that share no drawing."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from runner import assets
from runner.artifacts import PartImages
from runner.context import local_context
from runner.data.datasets.specs import Fractions
from runner.data.parts.made_design import generator
from runner.data.parts.made_specs import DEALT, HEX, Apart, Jitter, Recolour, Tie
from runner.data.parts.made_steps import openmoji
from runner.data.parts.openmoji_parts import PARTS, Person
from runner.data.parts.openmoji_set import Design, designs, drawing_numbers, drawn, people
from runner.data.parts.openmoji_svg import View
from runner.data.parts.reading import PartReader
from runner.errors import DataError, SpecError
from runner.references import ResolvedPath
from runner.spec import compile_text
from runner.steps import load_steps

pytestmark = pytest.mark.assets


@pytest.fixture(scope="module")
def drawings() -> list[Person]:
    return people(assets.ensure("openmoji").path)


def run(folder: Path, **given: Any) -> PartImages:
    params = load_steps()["parts.openmoji"].params
    values = {k: TypeAdapter(params[k].annotation).validate_python(v) for k, v in given.items()}
    return openmoji(local_context(folder), **values)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PartImages:
    return run(tmp_path_factory.mktemp("openmoji"), pictures=60, side=96, thumbnails=2)


def test_hair_and_skin_are_found_in_every_drawing_and_clothes_in_nearly_all(drawings: list[Person]) -> None:
    counts = Counter(part for who in drawings for part in who.mains)
    assert counts["hair"] == counts["skin"] == len(drawings) == 155
    assert counts["clothing"] == 153 and 40 <= counts["headwear"] <= 60
    assert Counter(who.gender for who in drawings) == {"woman": 53, "man": 49, None: 53}
    assert max(Counter(who.role for who in drawings).values()) == 12


@pytest.mark.parametrize("part", PARTS)
def test_no_pixel_of_a_part_knows_another_parts_colour(part: str, drawings: list[Person]) -> None:
    draw = generator(part)
    shown = 0
    for number in draw.permutation(len(drawings))[:12]:
        who = drawings[number]
        first = {name: str(draw.choice([*HEX[name]])) for name in who.mains}
        scale, right, down = draw.uniform((0.8, -0.1, -0.1), (1.1, 0.1, 0.1)).tolist()
        view = View(scale, right, down, mirrored=bool(number % 2))
        design = Design("x.png", "train", who, first, view, 0)
        before = drawn(design, 112)
        others = {name: next(c for c in HEX[name] if c != first[name]) for name in first if name != part}
        after = drawn(dataclasses.replace(design, colours=first | others), 112)
        for name, mask in before.masks.items():
            assert np.array_equal(mask, after.masks[name]) and not (mask & ~before.object).any()
            changed = (before.pixels[mask] != after.pixels[mask]).any(1)
            assert not changed.any() if name == part else changed.mean() > 0.3
            shown += name == part
        assert np.sum([*before.masks.values()], 0).max() == 1
    assert shown >= 3


def nearest(colour: np.ndarray, named: dict[str, str]) -> str:
    """The name of the colour that points the same way: shades and line art change the length only, or nearly."""
    vectors = {name: np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for name, c in named.items()}
    return max(vectors, key=lambda n: float(vectors[n] @ colour) / float(np.linalg.norm(vectors[n])))


def test_each_part_has_the_labelled_colour_and_none_of_the_others(made: PartImages) -> None:
    reader = PartReader(made)
    names, labels = made.about["attributes"], made.labels
    checked = Counter[str]()
    for row, picture in reader.pictures(range(len(reader))):
        pixels, masks = np.asarray(picture), reader.masks(row)
        assert pixels.shape == (96, 96, 3) and (pixels[~masks.object & (pixels < 250).any(2)] >= 100).all()
        for part, mask, visible in zip(reader.parts, masks.masks, masks.visible, strict=True):
            owned = [i for i, name in enumerate(names) if name.startswith(f"{part}: ") and name != "hair: long"]
            assert labels["valid"][row, owned].tolist() == [int(visible)] * len(owned)
            assert labels["value"][row, owned].sum() == visible
            if visible and mask.mean() > 0.02:
                colours = Counter("#{:02x}{:02x}{:02x}".format(*pixel) for pixel in pixels[mask].tolist())
                said = names[owned[int(labels["value"][row, owned].argmax())]].partition(": ")[2]
                seen = {name: colours[colour] for name, colour in HEX[part].items() if colour in colours}
                assert seen.keys() == {said}  # shades besides, but no other colour of the list
                assert nearest(pixels[mask].mean(0), HEX[part]) == said or part in ("hair", "skin")
                checked[part] += 1
    assert checked["hair"] > 40 and checked["skin"] > 50 and checked["clothing"] > 50 and checked["headwear"] > 5


def test_pictures_of_one_drawing_carry_its_number(drawings: list[Person], made: PartImages) -> None:
    found = designs(drawings, 400, Fractions(train=0.5, val=0.0, test=0.5), "role", Recolour(), None, Jitter(), 0)
    numbers = drawing_numbers(found)
    names = [design.person.name for design in found]
    assert len({*numbers}) == len({*names}) == len({*zip(numbers, names, strict=True)}) == len(drawings)
    of_split = {s: {n for n, d in zip(numbers, found, strict=True) if d.split == s} for s in ("train", "test")}
    assert not of_split["train"] & of_split["test"]
    group, woman = made.labels["group"], made.labels["value"][:, made.about["attributes"].index("woman")]
    assert group.shape == (60,) and all(len({*woman[group == g].tolist()}) == 1 for g in group)


def test_colours_are_balanced_and_independent_and_ties_hold_where_asked(drawings: list[Person]) -> None:
    tie = Tie(first="hair", second="skin", strength=0.7)
    found = designs(drawings, 4000, Fractions(train=0.5, val=0.0, test=0.5), "role", Recolour(), tie, Jitter(), 0)
    order = Recolour().by_part()
    for split, expected in (("train", 0.7 + 0.3 / 5), ("test", 1 / 5)):
        rows = [d.colours for d in found if d.split == split]
        numbers = {part: np.array([names.index(row[part]) for row in rows]) for part, names in order.items()}
        assert abs((numbers["hair"] == numbers["skin"]).mean() - expected) < 0.04
        for part in ("hair", "clothing", "headwear"):
            counts = np.bincount(numbers[part])
            assert counts.max() - counts.min() <= 1
        for one, other in (("hair", "clothing"), ("skin", "clothing"), ("hair", "headwear")):
            table = np.zeros((len(order[one]), len(order[other])))
            np.add.at(table, (numbers[one], numbers[other]), 1)
            expected_table = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
            chi2 = ((table - expected_table) ** 2 / expected_table).sum()
            assert chi2 < 40  # 99.9 % of a chi-squared with 16 degrees of freedom: 39.3


@pytest.mark.parametrize("apart", ["role", "drawing"])
def test_no_drawing_stands_in_two_splits_and_all_are_used(apart: Apart, drawings: list[Person]) -> None:
    found = designs(drawings, 400, DEALT, apart, Recolour(), None, None, 5)
    homes = {(d.person.name, d.split) for d in found}
    assert len(homes) == len({name for name, _ in homes}) == 155
    assert Counter(d.split for d in found) == {"train": 240, "val": 40, "test": 120}
    roles = {(d.person.role, d.split) for d in found}
    assert (len(roles) == len({role for role, _ in roles})) == (apart == "role")
    uses = Counter(d.person.name for d in found if d.split == "test")
    assert max(uses.values()) - min(uses.values()) <= 1
    assert {d.view for d in found} == {View()}
    assert [d.colours for d in found] != [
        d.colours for d in designs(drawings, 400, DEALT, apart, Recolour(), None, None, 6)
    ]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_splits_have_long_hair_alike(seed: int, drawings: list[Person]) -> None:
    found = designs(drawings, 1550, DEALT, "role", Recolour(), None, None, seed)
    share = {s: np.mean([d.person.long_hair for d in found if d.split == s]) for s in ("train", "val", "test")}
    assert abs(share["train"] - share["test"]) < 0.1 and 0.1 < share["val"] < 0.4


@pytest.mark.parametrize(
    ("recolour", "says"),
    [
        ("", "hair has 5 colours and headwear has 3"),
        ("recolour: {headwear: null}, ", "headwear is tied but not recoloured"),
    ],
)
def test_a_tie_that_cannot_hold_is_refused_with_the_spec(recolour: str, says: str, tmp_path: Path) -> None:
    text = "name: tie\nsteps:\n  people: {uses: parts.openmoji, %scorrelate: {second: headwear}}\nresults: r.duckdb\n"
    with pytest.raises(SpecError, match=says):
        compile_text(text % recolour, "spec.yaml", tmp_path)
    compile_text(text % "recolour: {hair: [black, red, grey]}, ", "spec.yaml", tmp_path)


def test_another_renderer_means_other_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.data.parts import made_sets

    plan = made_sets.OpenmojiPlan(8, 64, DEALT, "role", Recolour(), None, "white", None, 0)
    folder = assets.ensure("openmoji").path
    before = made_sets._key(plan, folder, None)
    assert made_sets._key(plan, folder, None) == before
    monkeypatch.setattr(made_sets, "version", lambda name: {"resvg_py": "0.0.0"}[name])
    assert made_sets._key(plan, folder, None) != before


def test_the_same_seed_gives_the_same_bytes(made: PartImages, tmp_path: Path) -> None:
    again = run(tmp_path, pictures=60, side=96, thumbnails=2)
    first, second = (
        {p.name: p.read_bytes() for p in Path(a.corpus[0]["folder"]).iterdir()} for a in (made, again)
    )  # fmt: skip
    assert first == second and len(first) == 60
    assert made.masks.equals(again.masks) and made.images.equals(again.images)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("background", ["plain", "photographs"])
def test_what_people_stand_on(background: str, tmp_path: Path) -> None:
    found = run(tmp_path, pictures=10, side=64, background=background, recolour={"clothing": None, "headwear": None})
    assert found.about["parts"] == ["hair", "skin"] and not any("clothing" in a for a in found.about["attributes"])
    reader = PartReader(found)
    corners = set()
    for row, picture in reader.pictures(range(10)):
        colours = {tuple(c) for c in np.asarray(picture)[:6, :6].reshape(-1, 3).tolist()}
        assert not reader.masks(row).object[:6, :6].any()
        assert (len(colours) == 1) == (background == "plain")
        corners |= colours
    assert len(corners) > 5
    licence = found.datasets[0]["licence"]
    assert "CC-BY-SA-4.0" in licence and ("cifar10" in licence) == (background == "photographs")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pictures": 4, "split": {"train": 0.98, "val": 0.01, "test": 0.01}}, "the split val gets no picture"),
        ({"pictures": 8, "recolour": {"headwear": None}, "correlate": {"second": "headwear"}}, "headwear is tied but"),
        ({"pictures": 8, "correlate": {"second": "headwear"}}, "hair has 5 colours and headwear has 3"),
    ],
)
def test_what_cannot_be_drawn_is_said(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        run(tmp_path, **given)


def test_a_folder_without_drawings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the packed drawings"):
        openmoji(local_context(tmp_path), drawings=ResolvedPath(str(tmp_path)))


@pytest.mark.parametrize(
    "given",
    [
        {"recolour": {"hair": ["green", "blue"]}},
        {"recolour": {"hair": ["black"]}},
        {"recolour": {"hair": ["black", "black"]}},
        {"recolour": {"shoes": ["red", "blue"]}},
        {"correlate": {"first": "hair", "second": "hair"}},
        {"correlate": {"strength": 1.5}},
        {"jitter": {"smallest": 1.2, "largest": 0.9}},
        {"split": {"train": 0.5}},
    ],
)
def test_specs_that_make_no_sense_are_refused(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        run(tmp_path, **given)
