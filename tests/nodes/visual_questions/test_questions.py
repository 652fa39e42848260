"""Generated questions: what a picture shows is what its answers say, and nothing that is drawn stands in both splits."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runner.context import local_context
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError
from runner.nodes.cut_out_specs import packaged
from runner.nodes.cut_outs import Figure
from runner.nodes.dealing import generator
from runner.nodes.noun_cut_outs import Kit, Stock, depicted
from runner.nodes.nouns import NOUNS
from runner.nodes.visual_questions.making import made
from runner.nodes.visual_questions.scenes import DOMAINS, Canvas, lettering, recoloured, shape, styles_of
from runner.nodes.visual_questions.specs import Counts
from runner.nodes.visual_questions.steps import items, make
from runner.nodes.visual_questions.words import ASKED, COLOURS, SHAPES, TEXTS

YES_NO = ("present", "more_than", "is_colour", "says", "is_at", "is_style")
INK = {"dog": (200, 0, 0), "car": (0, 0, 200), "apple": (0, 200, 0)}
SET = "google-emoji"


def kit(shown=True):
    """Blocks of one colour a noun, on black photographs: what stands where can be read from the pixels."""
    figures = {n: [Figure(Place(SET, n), Image.new("RGBA", (40, 40), (*INK[n], 255)))] for n in INK}
    photograph = (Place("cifar", "0"), "ship", Image.new("RGB", (32, 32)))
    return Kit(figures, [photograph])


def drawn(domain, subject, number=0, size=84):
    return DOMAINS[domain][0](Canvas(generator(f"t/{number}"), kit(), size), subject)


def told(scene, kind):
    return [turn for turn in scene.turns if turn.kind == kind]


def blobs(mask):
    """Connected regions of a mask, by flooding."""
    left, found = {tuple(p) for p in np.argwhere(mask)}, 0
    while left:
        found, edge = found + 1, [left.pop()]
        while edge:
            y, x = edge.pop()
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            edge += near
    return found


def centre(scene, noun):
    pixels = np.asarray(scene.image).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - INK[noun]).sum(-1) < 30)
    return columns.mean(), rows.mean()


# --- what captions depict ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "noun"),
    [
        ("dog face", "dog"), ("guide dog", "dog"), ("A frog.", "frog"), ("cat with tears of joy", "cat"), ("hot dog", None),
        ("dog house", "house"), ("automobile", "car"), ("face", None), ("", None), ("Pine tree, wood, green", "tree"),
        ("teddy bear", None), ("<image>\n dog", "dog"), ("mahjong red dragon", None), ("apple pie", None),
    ],
)  # fmt: skip
def test_the_head_of_a_caption_is_what_is_depicted(caption, noun):
    assert depicted(caption) == noun


@given(st.text(max_size=300))
def test_any_caption_gives_a_noun_or_none(caption):
    assert depicted(caption) in {None, *NOUNS}


# --- scenes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("subject", ["1", "3", "5"])
def test_as_many_objects_as_the_answer_says(subject, number):
    scene = drawn("count", subject, number)
    noun = told(scene, "counted")[0].answer
    pixels = np.asarray(scene.image).astype(int)
    assert blobs(np.abs(pixels - INK[noun]).sum(-1) < 30) == int(subject)
    asked = told(scene, "more_than")[0]
    limit = int(next(c for c in asked.question if c.isdigit()))
    assert asked.answer == ("yes" if int(subject) > limit else "no")


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("place", ["left", "right", "above", "below"])
def test_the_first_stands_where_the_answer_says(place, number):
    scene = drawn("position", place, number)
    first = next(t.answer for t in told(scene, "at") if f" {place} " in t.question)
    second = next(t.answer for t in told(scene, "at") if f" {place} " not in t.question)
    (x1, y1), (x2, y2) = centre(scene, first), centre(scene, second)
    assert {"left": x1 < x2, "right": x1 > x2, "above": y1 < y2, "below": y1 > y2}[place]
    asked = told(scene, "is_at")[0]
    assert asked.answer == ("yes" if f" {place} " in asked.question else "no")
    assert [turn.answer for turn in scene.turns if turn.kind in ("across", "along")] == [place]


@pytest.mark.parametrize("colour", [*COLOURS])
def test_colours_are_those_that_are_seen(colour):
    def nearest(pixel):
        return min(COLOURS, key=lambda name: np.abs(np.asarray(COLOURS[name]) - pixel).sum())

    scene = drawn("colour", colour, 3)
    pixels = np.asarray(scene.image).reshape(-1, 3).astype(int)
    seen = Counter(nearest(pixel) for pixel in pixels[::7])
    said = {told(scene, "colour")[0].answer, told(scene, "background")[0].answer}
    assert colour in said and len(said) == 2
    assert said <= {name for name, count in seen.items() if count > 0.03 * len(pixels) / 7}


def test_a_recoloured_cut_out_has_the_colour_and_its_own_shades():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 4), np.uint8), "RGBA")
    found = np.asarray(recoloured(image, (60, 120, 30))).astype(float)
    assert np.array_equal(found[..., 3], np.asarray(image)[..., 3])
    assert np.abs(found[..., :3] / np.asarray([60, 120, 30]) - found[..., :1] / 60).max() < 0.05
    dark = np.asarray(image.convert("L")).astype(float)
    assert np.corrcoef(dark.ravel(), found[..., 1].ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("name", "share"), [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.325), ("star", 0.31)]
)
def test_shapes_cover_what_geometry_says(name, share):
    covered = np.asarray(shape(name, (1, 2, 3)))[..., 3].astype(bool).mean()
    assert covered == pytest.approx(share, abs=0.03) and name in SHAPES


def test_each_word_is_drawn_in_full_and_differently():
    drawings = [lettering(word, (0, 0, 0)) for word in TEXTS]
    for image in drawings:
        alpha = np.asarray(image)[..., 3]
        assert alpha[2:-2, 2:-2].any() and image.width > image.height / 2
    assert len({(image.size, image.tobytes()) for image in drawings}) == len(TEXTS)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([d for d in DOMAINS if d != "style"]), st.integers(0, 10_000), st.sampled_from([28, 84, 113]))
def test_every_scene_fits_and_answers_in_one_word(domain, number, size):
    draw, about = DOMAINS[domain]
    subjects = [*about(kit())]
    scene = draw(Canvas(generator(f"h/{number}"), kit(), size), subjects[number % len(subjects)])
    assert scene.image.size == (size, size) and scene.image.mode == "RGB"
    for turn in scene.turns:
        assert " " not in turn.answer and "{" not in turn.question and turn.question[-1] in "?."
        assert (turn.kind in YES_NO) == (turn.answer in ("yes", "no"))


def test_questions_have_three_wordings_or_more():
    assert all(len({*wordings}) >= 3 for wordings in ASKED.values())


# --- making -----------------------------------------------------------------------------------------------------------


def stock():
    return Stock({"train": kit(), "eval": kit()}, {}, {})


def flat(found):
    return [(one.file, one.image.tobytes(), one.turns) for one in found]


def test_one_more_picture_changes_no_other_and_seeds_differ():
    few = flat(made(stock(), {"train": {"count": 4, "text": 3}}, 42, 4, 0))
    more = flat(made(stock(), {"train": {"count": 9, "text": 3}}, 42, 4, 0))
    other = flat(made(stock(), {"train": {"count": 4, "text": 3}}, 42, 4, 1))
    assert [*few] == [one for one in more if one[0] in {f for f, _, _ in few}] and few != other


def test_subjects_come_in_turn():
    found = [*made(stock(), {"train": {"count": 15}}, 42, 4, 0)]
    answers = Counter(turn.answer for one in found for turn in one.turns if turn.kind == "count")
    assert answers == {str(n): 3 for n in range(1, 6)}


def test_the_step_gives_conversations_and_items_that_can_be_read(tmp_path):
    counts = {"object": Counts(train=40, eval=12), "style": Counts(train=8, eval=8)}
    sets = [packaged("google-emoji"), packaged("fluent-3d")]
    ctx = local_context(tmp_path / "first", step="questions")
    found = make(ctx, domains=counts, sets=sets, size=56, turns=3, seed=5)
    rows = found.records.to_pylist()
    assert Counter((r["split"], r["domain"]) for r in rows) == {
        ("train", "object"): 40, ("eval", "object"): 12, ("train", "style"): 8, ("eval", "style"): 8,
    }  # fmt: skip
    assert all(len(json.loads(r["turns"])) == 6 for r in rows)
    assert found.about["licences"]["fluent-3d"] == "MIT"
    places = [Place(r["source_id"], uri) for r in rows for uri in r["uris"]]
    read = dict(read_pictures(open_sources(found.corpus), places))
    assert len(read) == 68 and all(data.startswith(b"\x89PNG") for data in read.values())
    again = make(
        local_context(tmp_path / "again", step="questions"), domains=counts, sets=sets, size=56, turns=3, seed=5
    )
    assert again.records.equals(found.records)
    assert all((again.pictures / p.uri).read_bytes() == data for p, data in read.items())
    asked = items(ctx, data=found)
    assert [b["benchmark"] for b in asked.benchmarks] == ["object", "style"] and asked.items.num_rows == 60
    assert not any("<image>" in row["question"] for row in asked.items.to_pylist())
    assert [bool(row["thumbnail"]) for row in asked.items.to_pylist()] == [*[True] * 24, *[False] * 12, *[True] * 24]
    (few,) = [items(ctx, data=found, thumbnails=1).items.to_pylist()]
    assert [row["item_id"] for row in few if row["thumbnail"]] == [few[0]["item_id"], few[36]["item_id"]]
    assert few[0]["thumbnail"].startswith(b"\xff\xd8")


def test_no_drawing_stands_in_both_splits():
    from runner.nodes.noun_cut_outs import stocked

    found = stocked([packaged("google-emoji"), packaged("fluent-3d")], packaged("cifar10-train-sample"),
                    {"train": 0.5, "eval": 0.5}, 56, 0, print, photograph_limit=40)  # fmt: skip
    train, held = ({f.image.tobytes() for fs in found.kits[s].figures.values() for f in fs} for s in ("train", "eval"))
    assert len(train) > 40 and len(held) > 40 and not train & held
    seen = [{place for place, _, _ in found.kits[s].photographs} for s in ("train", "eval")]
    assert not seen[0] & seen[1] and {label for _, label, _ in found.kits["train"].backgrounds} <= {
        "bird",
        "deer",
        "ship",
    }


def test_styles_are_those_of_the_material():
    assert styles_of(kit()) == ["emoji", "photo"]
    assert {told(drawn("style", style, n), "style")[0].answer for style in styles_of(kit()) for n in range(3)} == {
        "emoji",
        "photo",
    }


def test_sets_without_the_nouns_are_refused():
    from runner.nodes.noun_cut_outs import stocked

    with pytest.raises(DataError, match="no noun"):
        stocked(
            [packaged("cifar10-train-sample")],
            packaged("cifar10-train-sample"),
            {"train": 0.5, "eval": 0.5},
            56,
            0,
            print,
        )
