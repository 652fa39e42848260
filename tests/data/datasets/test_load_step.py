from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import build, draw
from pydantic import TypeAdapter

from runner.context import local_context
from runner.data.datasets.content import Content, Picture
from runner.data.datasets.sampling import sample
from runner.data.datasets.specs import SPLITS, DatasetSpecs, SplitCounts
from runner.data.datasets.steps import load, load_cost
from runner.data.images import decode
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.data.sources.folder import Folder
from runner.errors import DataError

# --- draws ------------------------------------------------------------------------------------------------------------


def content(sizes):
    splits = [split for split in SPLITS if split in sizes]
    pictures = [Picture(s, f"{s}/{n}", "source", f"{s}/{n}", n % 4) for s in splits for n in range(sizes[s])]
    return Content(list("abcd"), pictures, [], tuple(splits))


sizes = st.fixed_dictionaries({"train": st.integers(1, 40), "val": st.integers(1, 40), "test": st.integers(1, 40)})


@settings(deadline=None)
@given(sizes, st.integers(1, 30), st.integers(0, 5))
def test_a_larger_limit_only_adds_pictures_and_never_mixes_splits(splits, limit, seed):
    whole = content(splits)
    small, large = (sample("x", whole, n, None, seed) for n in (limit, limit + 3))
    assert set(small) <= set(large) <= set(whole.pictures)
    assert Counter(p.split for p in small) == {split: min(limit, count) for split, count in splits.items()}
    assert small == [p for p in whole.pictures if p in set(small)]  # the order of the split


@settings(deadline=None)
@given(sizes, st.integers(1, 6), st.integers(0, 5))
def test_per_class_takes_the_same_number_of_each_class(splits, per_class, seed):
    whole = content(splits)
    there = Counter((p.split, p.class_index) for p in whole.pictures)
    drawn = Counter((p.split, p.class_index) for p in sample("x", whole, None, per_class, seed))
    assert drawn == {key: min(per_class, count) for key, count in there.items()}


def test_every_picture_is_as_likely_as_any_other():
    whole = content({"test": 20})
    drawn = Counter(p.sample_id for seed in range(2000) for p in sample("x", whole, 5, None, seed))
    # Binomial(2000, 1/4): mean 500, five standard deviations 97.
    assert sorted(drawn) == sorted(p.sample_id for p in whole.pictures)
    assert all(abs(count - 500) < 97 for count in drawn.values())


def test_splits_can_be_left_out_but_not_be_empty():
    whole = content({"train": 5, "test": 5})
    counts = SplitCounts(train=0, test=2)
    assert Counter(p.split for p in sample("x", whole, counts, None, 0)) == {"test": 2}
    with pytest.raises(DataError, match="the split val has no picture"):
        sample("x", whole, SplitCounts(val=2), None, 0)
    with pytest.raises(DataError, match="leave every split out"):
        sample("x", whole, SplitCounts(train=0, val=0, test=0), None, 0)


# --- the step ---------------------------------------------------------------------------------------------------------


def run(folder, specs, **options):
    folder.mkdir(exist_ok=True)
    ctx = local_context(folder, step="data")
    return load(ctx, datasets=TypeAdapter(DatasetSpecs).validate_python(specs), **options), ctx


def test_several_datasets_travel_in_one_artifact(tmp_path):
    specs = [{"name": n, "root": str(build(tmp_path / n, n))} for n in ("dtd", "fgvc_aircraft")]
    made, _ = run(
        tmp_path / "run",
        [
            *specs,
            {
                **specs[0],
                "as": "again",
                "limit": {"train": 1},
                "group": "mine",
                "domain_noun": "cloth",
                "template": "{} cloth.",
            },
        ],
        limit=2,
    )
    table = made.images.to_pylist()
    assert Counter((row["dataset"], row["split"]) for row in table) == {
        **{(name, split): 2 for name in ("dtd", "fgvc_aircraft") for split in ("train", "val", "test")},
        ("again", "train"): 1, ("again", "val"): 6, ("again", "test"): 6,
    }  # fmt: skip
    assert [d["dataset"] for d in made.datasets] == ["dtd", "fgvc_aircraft", "again"]
    assert made.datasets[2] | {"classes": 0, "licence": 0} == {
        "dataset": "again", "known": "dtd", "group": "mine", "classes": 0, "domain_noun": "cloth", "template": "{} cloth.",
        "licence": 0,
    }  # fmt: skip
    assert [row["dataset"] for row in table] == sorted(
        (r["dataset"] for r in table), key=["dtd", "fgvc_aircraft", "again"].index
    )
    for row in table:
        about = next(d for d in made.datasets if d["dataset"] == row["dataset"])
        assert about["classes"][row["class_index"]] == row["target"]
    sources = open_sources(made.corpus)
    assert len(list(read_pictures(sources, [Place(r["source_id"], r["uri"]) for r in table]))) == len(table)


def test_the_first_pictures_get_thumbnails_and_a_damaged_one_a_warning(tmp_path):
    root = build(tmp_path / "dtd", "dtd")
    (root / "dtd/images/banded/banded_0000.jpg").write_bytes(b"no picture")
    draw(root / "dtd/images/banded/banded_0001.jpg", size=(400, 100))
    made, ctx = run(tmp_path / "run", {"name": "dtd", "root": str(root)}, thumbnails=2)
    small = {r["sample_id"]: r["thumbnail"] for r in made.images.to_pylist()}
    assert [name for name, data in small.items() if data] == [
        "banded/banded_0001.jpg", "banded/banded_0002.jpg", "banded/banded_0003.jpg", "banded/banded_0004.jpg", "banded/banded_0005.jpg"
    ]  # fmt: skip
    assert decode(small["banded/banded_0001.jpg"]).size == (96, 24)
    (message,) = ctx.journal.messages
    assert message["item"].endswith("banded_0000.jpg") and "undecodable" in message["text"]


def test_a_picture_that_is_gone_costs_no_other_thumbnail(tmp_path):
    root = build(tmp_path / "dtd", "dtd")
    (root / "dtd/images/banded/banded_0000.jpg").unlink()
    made, ctx = run(tmp_path / "run", {"name": "dtd", "root": str(root)}, check_files=False)
    assert sum(row["thumbnail"] is not None for row in made.images.to_pylist()) == 17
    (message,) = ctx.journal.messages
    assert message["item"] == "dtd/images/banded/banded_0000.jpg" and "cannot be read" in message["text"]


def test_the_same_seed_draws_the_same_and_the_place_of_the_root_does_not_matter(tmp_path):
    roots = [build(tmp_path / place / "dtd", "dtd") for place in "ab"]
    draws = [
        [r["sample_id"] for r in run(tmp_path / f"r{n}", {"name": "dtd", "root": str(root)}, limit=3, seed=seed)[0].images.to_pylist()]
        for n, (root, seed) in enumerate([(roots[0], 7), (roots[1], 7), (roots[0], 8)])
    ]  # fmt: skip
    assert draws[0] == draws[1] != draws[2]


def test_two_datasets_need_two_names(tmp_path):
    spec = {"name": "dtd", "root": str(build(tmp_path / "dtd", "dtd"))}
    with pytest.raises(DataError, match="two datasets are called 'dtd'"):
        run(tmp_path / "run", [spec, spec])


def test_what_was_left_out_is_said(tmp_path):
    for name in ("a/1.jpg", "b/1.jpg", "c/1.jpg", "2.jpg"):
        draw(tmp_path / "x" / name)
    _, ctx = run(tmp_path / "run", {"image_folder": str(tmp_path / "x"), "fractions": {"test": 1.0}})
    assert "outside of class folders" in ctx.journal.messages[0]["text"] and ctx.journal.messages[0]["item"] == "x"


def test_reading_pictures_of_a_public_dataset_lists_no_folder(tmp_path, monkeypatch):
    made, _ = run(tmp_path / "run", {"name": "dtd", "root": str(build(tmp_path / "dtd", "dtd"))})
    places = [Place(r["source_id"], r["uri"]) for r in made.images.to_pylist()[:3]]

    def walk(*_):
        raise AssertionError("the whole tree was listed")

    monkeypatch.setattr(Folder, "_walk", walk)
    assert len(list(read_pictures(open_sources(made.corpus), places))) == 3


def test_the_estimate_counts_thumbnails():
    assert load_cost({"datasets": [1, 2], "thumbnails": 10}).images == 60
    assert load_cost({"datasets": {"name": "dtd"}}).images == 72
