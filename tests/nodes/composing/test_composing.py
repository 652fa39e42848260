import csv
import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from retrieval.steps import folder_tree
from runner.context import local_context
from runner.data.datasets.attribute_steps import attributes
from runner.data.datasets.attributes.specs import AttributedSpecs
from runner.data.images import decode, decode_cut_out
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError
from runner.nodes.apportioning import apportioned
from runner.nodes.composing.steps import compose
from runner.nodes.cut_outs import matcher
from runner.nodes.dealing import cells, dealt, rounds
from runner.nodes.pasting import Pose, pasted, trimmed
from runner.steps import load_steps

# --- design -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_apportioned_numbers_add_up_and_are_nearest(total, weights):
    shares = {n: weight / sum(weights) for n, weight in enumerate(weights)}
    counts = apportioned(total, shares)
    assert sum(counts.values()) == total
    assert all(abs(counts[n] - total * share) < 1 for n, share in shares.items())


def test_cells_of_a_confounded_split():
    shares = {"land": {"land": 0.95, "water": 0.05}, "sea": {"land": 0.05, "water": 0.95}}
    assert cells(800, shares) == {
        ("land", "land"): 380,
        ("land", "water"): 20,
        ("sea", "land"): 20,
        ("sea", "water"): 380,
    }


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 3))
def test_every_item_is_in_one_split_and_groups_are_spread_alike(sizes, seed):
    groups = [[(g, n) for n in range(size)] for g, size in enumerate(sizes)]
    found = dealt(groups, {"train": 0.5, "test": 0.5}, f"{seed}")
    assert sorted(found["train"] + found["test"]) == [item for group in groups for item in group]
    for group, size in enumerate(sizes):
        assert abs(sum(item[0] == group for item in found["train"]) - size / 2) <= 1
    assert found == dealt(groups, {"train": 0.5, "test": 0.5}, f"{seed}")


def test_rounds_use_each_item_as_often():
    drawn = rounds("abcd", "seed")
    first = [next(drawn) for _ in range(10)]
    assert set(first[:4]) == set(first[4:8]) == {*"abcd"} and first[:8] != first[:4] * 2
    assert first == [item for _, item in zip(range(10), rounds("abcd", "seed"), strict=False)]


# --- cut-outs ---------------------------------------------------------------------------------------------------------


def square(size, box, colour=(255, 0, 0), alpha=255):
    image = Image.new("RGBA", size, (0, 255, 0, 0))  # what is transparent has a colour that must not be seen
    image.paste((*colour, alpha), box)
    return image


def test_a_cut_out_is_cut_to_what_is_visible():
    image = square((200, 100), (50, 20, 90, 80))
    image.paste((0, 0, 0, 0), (50, 20, 60, 30))
    found = trimmed(image)
    assert found.size == (40, 60) and found.getpixel((20, 20)) == (255, 0, 0, 255)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (64, 64), (0, 0, 0, 0)),
        square((64, 64), (0, 0, 64, 64)),  # a rectangular picture
        square((64, 64), (10, 10, 20, 20)),  # too small
        square((64, 64), (10, 10, 50, 50), alpha=20),  # hardly visible
    ],
)
def test_what_is_no_cut_out_is_left_out(image):
    assert trimmed(image) is None


def test_a_cut_out_stands_where_its_pose_says_and_nothing_bleeds():
    ground = Image.new("RGB", (48, 32), (0, 0, 255))
    picture = np.asarray(pasted(ground, square((40, 20), (0, 0, 40, 20)), 64, Pose(32, 1.0, 0.0, mirrored=False)))
    red = (picture == (255, 0, 0)).all(2)
    assert picture.shape == (64, 64, 3) and red[:16, 32:].all() and red.sum() == 32 * 16
    assert (picture[~red] == (0, 0, 255)).all()  # no green anywhere
    half = square((40, 20), (0, 0, 20, 20))
    turned = np.asarray(pasted(ground, half, 64, Pose(32, 0.0, 1.0, mirrored=True)))
    assert (
        (turned[50:62, 17:31] == (255, 0, 0)).all() and (turned[:, :14, 0] == 0).all() and (turned[..., 1] == 0).all()
    )


@pytest.mark.parametrize(
    ("caption", "hit"),
    [("A Duck.", True), ("two ducks", True), ("duckling", False), ("rubber-duck", True), ("x.y", True), ("xzy", False)],
)  # fmt: skip
def test_words_are_whole_and_never_patterns(caption, hit):
    assert bool(matcher(["duck", "x.y"]).search(caption)) == hit


# --- the step ---------------------------------------------------------------------------------------------------------

SETS = ["google-emoji", "fluent-3d"]
BIRDS = {
    "landbird": {"sets": SETS, "captions": ["rooster", "owl", "eagle", "parrot", "turkey", "dove", "peacock", "dodo"]},
    "waterbird": {"sets": SETS, "captions": ["duck", "swan", "penguin", "flamingo", "goose", "auk"]},
}
GROUNDS = {
    "land": {"source": "cifar10-train-sample", "labels": ["horse", "deer"]},
    "water": {"source": {"packaged": "cifar10-train-sample"}, "labels": ["ship"]},
}
SHARES = {"landbird": {"land": 0.9, "water": 0.1}, "waterbird": {"land": 0.1, "water": 0.9}}
SPLITS = {"train": {"pictures": 40, "shares": SHARES}, "test": {"pictures": 40}}


def run(folder, **changes):
    params = load_steps()["datasets.compose"].params
    given_ = {"objects": BIRDS, "backgrounds": GROUNDS, "splits": SPLITS, "name": "birds"} | changes
    values = {k: TypeAdapter(params[k].annotation).validate_python(v) for k, v in given_.items()}
    ctx = local_context(folder, step="birds")
    return compose(ctx, **values), [message["text"] for message in ctx.journal.messages]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run(tmp_path_factory.mktemp("composed"), thumbnails=8)


def test_shares_are_those_asked_for_and_nothing_stands_in_two_splits(made):
    artifact, said = made
    with (artifact.pictures / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    counts = Counter((row["split"], row["y"], row["place"]) for row in rows)
    assert counts == {
        ("0", "0", "0"): 18, ("0", "0", "1"): 2, ("0", "1", "0"): 2, ("0", "1", "1"): 18,
        ("2", "0", "0"): 10, ("2", "0", "1"): 10, ("2", "1", "0"): 10, ("2", "1", "1"): 10,
    }  # fmt: skip
    for column in ("object_filename", "place_filename"):
        train, test = ({row[column] for row in rows if row["split"] == split} for split in "02")
        assert train and test and not train & test
    assert len({row["place_filename"] for row in rows}) == 80  # enough photographs: none is used twice
    for y in "01":  # in a split both backgrounds of a class show the same cut-outs
        seen = [
            Counter(r["object_filename"] for r in rows if (r["split"], r["y"], r["place"]) == ("2", y, place))
            for place in "01"
        ]
        assert seen[0] == seen[1]
    assert said == ["waterbird: no cut-out is taken for 'auk'"]
    assert artifact.summary["pictures"]["test, landbird on water"] == 10


def test_the_set_can_be_read_from_its_corpus_as_waterbirds_and_as_a_tree(made, tmp_path):
    artifact, _ = made
    rows = artifact.images.to_pylist()
    places = [Place(row["source_id"], row["uri"]) for row in rows]
    read = dict(read_pictures(open_sources(artifact.corpus), places))
    assert len(read) == 80 and {decode(data).size for data in read.values()} == {(64, 64)}
    assert Counter(row["split"] for row in rows if row["thumbnail"]) == {"train": 8, "test": 8}
    again = attributes(
        local_context(tmp_path / "a"),
        datasets=TypeAdapter(AttributedSpecs).validate_python({"waterbirds": str(artifact.pictures)}),
    )
    assert {r["sample_id"]: (r["split"], r["target"]) for r in again.images.to_pylist()} == {
        row["sample_id"]: (row["split"], row["target"]) for row in rows
    }
    place = {r["sample_id"]: r["value"] for r in artifact.attributes.to_pylist() if r["attribute"] == "place"}
    assert place == {r["sample_id"]: r["value"] for r in again.attributes.to_pylist()}
    found = folder_tree(local_context(tmp_path / "t"), path=artifact.tree, task="Which bird?")
    kept = {(r["target"], r["attribute"], r["value"]): r["kept"] for r in found.counts.to_pylist()}
    assert kept == {(t, "place", v): 10 for t in BIRDS for v in GROUNDS}


def test_licences_of_all_parts_and_what_it_is_are_said(made):
    (about,) = made[0].datasets
    for name in (*SETS, "cifar10-train-sample"):
        assert f"{name}: " in about["licence"]
    assert "not a published benchmark" in about["description"] and about["classes"] == [*BIRDS]
    assert "not a published benchmark" in (made[0].pictures / "README.txt").read_text()


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(made, tmp_path):
    first = made[0]
    same, _ = run(tmp_path / "same")
    other, _ = run(tmp_path / "other", seed=1)

    def content(artifact):
        return {p.name: p.read_bytes() for p in sorted(artifact.pictures.rglob("*.png"))}

    assert content(first) == content(same) and content(first).keys() == content(other).keys()
    assert sum(a == b for a, b in zip(content(first).values(), content(other).values(), strict=True)) == 0
    assert first.corpus[0]["folder"].rpartition("/")[2] == same.corpus[0]["folder"].rpartition("/")[2]


def test_photographs_of_ones_own(tmp_path):
    for label, colour in (("sea", (0, 0, 200)), ("wood", (0, 120, 0))):
        for n in range(4):
            (tmp_path / "own" / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (*colour[:2], colour[2] + n)).save(tmp_path / f"own/{label}/{n}.png")
    own = {"folder": str(tmp_path / "own"), "label_from_folder": True}
    grounds = {"land": {"source": own, "labels": ["wood"]}, "water": {"source": own, "labels": ["sea"]}}
    artifact, _ = run(tmp_path / "run", backgrounds=grounds, size=32, tree=["train"], attribute="scene")
    assert {p.parts[-3:-1] for p in artifact.tree.rglob("*.png")} == {("scene", "land"), ("scene", "water")}
    assert artifact.about[0]["attributes"]["scene"] == ["land", "water"]
    assert "own: not stated" in artifact.datasets[0]["licence"]
    for path in artifact.tree.rglob("*.png"):
        image = Image.open(path)
        commonest = max(image.getcolors(maxcolors=32 * 32))[1]
        assert image.size == (32, 32)
        assert commonest[:2] == {"land": (0, 120), "water": (0, 0)}[path.parts[-2]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objects": {**BIRDS, "third": {"sets": SETS, "captions": ["zeppelin"]}}}, "no cut-out of 'third'"),
        ({"objects": {**BIRDS, "third": {"sets": SETS, "captions": ["owl"]}}}, "cut-out of 'landbird' and of 'third'"),
        ({"backgrounds": {**GROUNDS, "sky": {"source": "cifar10-train-sample", "labels": ["cloud"]}}}, "no label 'cloud'"),
        ({"backgrounds": {**GROUNDS, "sky": {"source": "cifar10-train-sample", "labels": ["ship"]}}}, "'water' and of 'sky'"),
        ({"backgrounds": {**GROUNDS, "sky": {"source": "fluent-3d", "labels": ["x"]}}}, "has no labels"),
        ({"splits": {"test": {"pictures": 4, "shares": {"landbird": {"sky": 1.0}}}}}, "the shares name 'sky'"),
        ({"fractions": {"train": 1.0}}, "the split test has no share"),
        ({"objects": {**BIRDS, "waterbird": {"sets": ["fluent-3d"], "captions": ["swan"]}}}, "gets no cut-out or photograph of 'waterbird'"),
    ],
)  # fmt: skip
def test_what_cannot_be_composed_is_said_before_anything_is(changes, says, tmp_path):
    with pytest.raises(DataError) as error:
        run(tmp_path, **changes)
    assert says in error.value.message and not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    "changes",
    [
        {"objects": {**BIRDS, "../x": BIRDS["landbird"]}},
        {"attribute": "a/b"},
        {"splits": {"test": {"pictures": 4, "shares": {"landbird": {"land": 0.5}}}}},
        {"splits": {}},
        {"object_size": {"least": 0.9, "most": 0.3}},
        {"objects": {"one": BIRDS["landbird"]}},
    ],
)
def test_specs_that_make_no_sense_are_refused(changes, tmp_path):
    with pytest.raises(ValidationError):
        run(tmp_path, **changes)


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
def test_transparency_is_kept_whatever_way_a_file_says_it(mode):
    image = Image.new("LA", (40, 40), (255, 0))
    image.paste((10, 255), (5, 5, 30, 35))
    buffer = io.BytesIO()
    if mode == "P":
        grey = Image.new("P", (40, 40), 1)
        grey.putpalette([10, 10, 10, 255, 255, 255])
        grey.paste(0, (5, 5, 30, 35))
        grey.save(buffer, "PNG", transparency=1)
    else:
        image.convert(mode).save(buffer, "PNG")
    found = trimmed(decode_cut_out(buffer.getvalue()))
    assert found is None  # a whole rectangle: nothing says that it is a cut-out
    assert np.asarray(decode_cut_out(buffer.getvalue()).getchannel("A")).astype(bool).sum() == 25 * 30
