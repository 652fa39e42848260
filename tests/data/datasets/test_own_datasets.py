import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import draw
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from runner.data.datasets.content import dealt
from runner.data.datasets.folders import EMOJI, Deal, Found, assembled
from runner.data.datasets.loading import Options, load
from runner.data.datasets.specs import DatasetSpec, DatasetSpecs, Fractions
from runner.data.datasets.texts import caption_target
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError, SpecError
from runner.spec import compile_text, render_problems

ALL_TEST = {"test": 1.0}


def loaded(spec, **options):
    return load(TypeAdapter(DatasetSpec).validate_python(spec), Options(**options))


def rows(found):
    return [(p.split, p.sample_id, found.content.classes[p.class_index]) for p in found.pictures]


def folders(root, names):
    for number, name in enumerate(names):
        draw(root / name, number)
    return str(root)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_first_folders_are_the_classes(tmp_path):
    root = folders(tmp_path / "pets", ["sea_horse/x/1.jpg", "Cat/1.jpg", "Cat/2.jpg", "dog/1.png", "loose.jpg"])
    found = loaded({"image_folder": root, "fractions": ALL_TEST})
    assert rows(found) == [
        ("test", "Cat/1.jpg", "Cat"), ("test", "Cat/2.jpg", "Cat"), ("test", "dog/1.png", "dog"),
        ("test", "sea_horse/x/1.jpg", "sea horse"),
    ]  # fmt: skip
    assert found.about == {
        "dataset": "pets", "known": None, "group": None, "classes": ["Cat", "dog", "sea horse"], "domain_noun": None,
        "template": "a photo of a {}.", "licence": None,
    }  # fmt: skip
    assert "1 pictures outside of class folders" in found.content.notes[0] and "loose.jpg" in found.content.notes[0]


def test_split_folders_are_taken_as_they_are(tmp_path):
    root = folders(tmp_path / "x", ["train/a/1.jpg", "test/a/1.jpg", "test/b/1.jpg"])
    assert rows(loaded({"image_folder": root})) == [
        ("train", "train/a/1.jpg", "a"), ("test", "test/a/1.jpg", "a"), ("test", "test/b/1.jpg", "b")
    ]  # fmt: skip


def test_split_folders_beside_others_are_refused(tmp_path):
    root = folders(tmp_path / "x", ["train/a/1.jpg", "cat/1.jpg"])
    with pytest.raises(DataError, match="both splits"):
        loaded({"image_folder": root})


@pytest.mark.parametrize(
    ("names", "said"),
    [(["Cat/1.jpg", "cat/1.jpg"], "'Cat', 'cat'"), (["sea_horse/1.jpg", "sea horse/2.jpg"], None), (["nan/1.jpg"], "no class name"), ([], "no labelled picture"), (["1.jpg"], "1 pictures outside")],
)  # fmt: skip
def test_folders_that_are_no_classes(names, said, tmp_path):
    root = folders(tmp_path / "x", names)
    (tmp_path / "x").mkdir(exist_ok=True)
    if said is None:  # two folders, one text: one class
        assert loaded({"image_folder": root, "fractions": ALL_TEST}).content.classes == ["sea horse"]
    else:
        with pytest.raises(DataError, match=said):
            loaded({"image_folder": root, "fractions": ALL_TEST})


def test_a_split_that_no_picture_was_dealt_to_is_an_error_unless_left_out(tmp_path):
    root = folders(tmp_path / "x", ["a/1.jpg", "b/1.jpg"])
    with pytest.raises(DataError, match="has no picture"):
        loaded({"image_folder": root})
    kept = {split for split, _, _ in rows(loaded({"image_folder": root, "fractions": {"train": 1.0}}))}
    assert kept == {"train"}


def test_links_out_of_an_image_folder_are_left_out_and_said(tmp_path):
    root = folders(tmp_path / "x", ["a/1.jpg", "b/1.jpg"])
    draw(tmp_path / "secret.jpg")
    (tmp_path / "x/a/2.jpg").symlink_to(tmp_path / "secret.jpg")
    found = loaded({"image_folder": root, "fractions": ALL_TEST})
    assert len(found.pictures) == 2 and any("link_out_of_root" in note for note in found.content.notes)


@settings(deadline=None)
@given(st.sets(st.text(min_size=1, max_size=8), max_size=60), st.text(min_size=1, max_size=8), st.integers(0, 5))
def test_one_more_picture_moves_no_other_to_another_split(names, extra, seed):
    fractions = Fractions(train=0.5, val=0.2, test=0.3)
    before = {name: dealt(name, fractions, seed) for name in names}
    after = {name: dealt(name, fractions, seed) for name in names | {extra}}
    assert {name: after[name] for name in names} == before


def test_shares_are_met_and_another_seed_is_another_split():
    fractions = Fractions(train=0.5, val=0.2, test=0.3)
    splits = {seed: [dealt(str(n), fractions, seed) for n in range(4000)] for seed in (0, 1)}
    # Binomial: five standard deviations of a share of 4,000 are at most 0.04.
    for split, share in (("train", 0.5), ("val", 0.2), ("test", 0.3)):
        assert abs(splits[0].count(split) / 4000 - share) < 0.04
    assert splits[0] != splits[1]
    assert {dealt(str(n), Fractions(val=1.0), 0) for n in range(50)} == {"val"}


# --- disjoint classes -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["train", "test"]), st.integers(0, 30)), min_size=1, max_size=80),
    st.integers(0, 9),
    st.booleans(),
)
def test_no_class_stands_in_two_splits_in_any_style(drawn, seed, own):
    """``own``: each source stands for a split; else all are one and no picture is lost."""
    found = [Found(split if own else None, split, f"{n}.png", f"class {name}") for n, (split, name) in enumerate(drawn)]
    deal = Deal(Fractions(train=0.5, val=0.2, test=0.3), seed, classes=True)
    try:
        content = assembled(found, [], "x", deal, [])
    except DataError as error:
        assert "no labelled picture" in str(error)
        return
    homes = {}
    for picture in content.pictures:
        homes.setdefault(content.classes[picture.class_index], set()).add(picture.split)
        assert not own or picture.source_id == picture.split  # its own style
    assert all(len(splits) == 1 for splits in homes.values())
    assert set(homes) == set(content.classes)  # no class without pictures
    dropped = len(drawn) - len(content.pictures)
    assert own or not dropped
    assert [f"{dropped} pictures" in note for note in content.notes] == ([True] if dropped else [])


# --- captions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "target"),
    [
        ("A rat.", "rat"), ("An electric kettle.", "electric kettle"), ("the  Moon (full)", "moon"),
        ("Flying Wasp, insect, animal", "flying wasp"), ("\u201cCrossroads\u201d.", "crossroads"),
        ("Chodovian&#39;s Dog by M, dogs", "chodovian's dog by m"), ("AIGA_Symbol_Signs, x", "aiga symbol signs"),
        ("Mercury\u2014the planet", "mercury"), ("Eat your broccoli! It is good.", "eat your broccoli"),
        ("a v1.5 chip", "v1.5 chip"), ("two\nlines", "two lines"), ("", None), (None, None), ("...", None), ("(none)", None),
        ("x" * 300, None),
    ],
)  # fmt: skip
def test_a_caption_begins_with_a_name(caption, target):
    assert caption_target(caption) == target


def test_names_of_emoji_are_kept_whole():
    assert caption_target("family: woman, woman, girl", whole=True) == "family: woman, woman, girl"
    assert {"asset:google-emoji", "asset:fluent-3d"} == EMOJI


# --- other sources ----------------------------------------------------------------------------------------------------


def png(n):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (n, 2 * n, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_source_with_labels_is_a_dataset_and_what_cannot_be_read_is_left_out(tmp_path):
    columns = {"png": [png(1), None, png(3), png(4)], "kind": ["sea_horse", "cat", "cat", None]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    found = loaded(
        {"source": {"parquet": str(tmp_path / "p.parquet"), "label_field": "kind"}, "as": "mine", "fractions": ALL_TEST}
    )
    assert rows(found) == [("test", "p.parquet#0", "sea horse"), ("test", "p.parquet#2", "cat")]
    assert "1 pictures of mine without a label" in found.content.notes[0]


def test_a_source_for_each_split_keeps_the_uris_apart(tmp_path):
    for part in ("a", "b"):
        folders(tmp_path / part, ["cat/1.jpg", "dog/1.jpg"])
    parts = {
        split: {"folder": str(tmp_path / part), "label_from_folder": True}
        for split, part in (("train", "a"), ("test", "b"))
    }
    found = loaded({"source": parts, "as": "two"})
    assert [(p.split, p.sample_id) for p in found.pictures] == [
        ("train", "two:train/cat/1.jpg"), ("train", "two:train/dog/1.jpg"),
        ("test", "two:test/cat/1.jpg"), ("test", "two:test/dog/1.jpg"),
    ]  # fmt: skip
    sources = open_sources([source.spec for source in found.content.sources])
    assert len(dict(read_pictures(sources, [Place(p.source_id, p.uri) for p in found.pictures]))) == 4


def test_captions_of_a_folder_are_targets_and_pictures_without_one_are_counted(tmp_path):
    root = folders(tmp_path / "x", ["1.jpg", "2.jpg", "3.jpg"])
    (tmp_path / "x/1.txt").write_text("A red fox (young)")
    (tmp_path / "x/2.txt").write_text("the red fox, at night")
    found = loaded({"source": {"folder": root, "name": "foxes"}, "target": "caption", "fractions": ALL_TEST})
    assert [target for _, _, target in rows(found)] == ["red fox", "red fox"] and found.name == "foxes"
    assert "1 pictures of foxes without a caption" in found.content.notes[0]


def test_what_a_source_cannot_use_is_said(tmp_path):
    root = folders(tmp_path / "x", ["cat/1.jpg", "dog/1.jpg"])
    (tmp_path / "x/cat/2.jpg").symlink_to(tmp_path / "x/nowhere.jpg")
    found = loaded({"source": {"folder": root, "label_from_folder": True}, "as": "x", "fractions": ALL_TEST})
    assert len(found.pictures) == 2 and found.content.notes == ["left out of x: {'broken_link': 1}"]


def test_captions_are_asked_for_and_there_are_none(tmp_path):
    root = folders(tmp_path / "x", ["cat/1.jpg"])
    spec = {"source": {"folder": root, "label_from_folder": True}, "as": "x", "target": "caption"}
    with pytest.raises(DataError, match="no labelled picture"):
        loaded(spec)


def test_a_source_without_labels_says_what_to_write(tmp_path):
    root = folders(tmp_path / "x", ["cat/1.jpg"])
    with pytest.raises(DataError, match="target: caption"):
        loaded({"source": {"folder": root, "name": "x"}})


# --- specs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"nmae": "dtd", "root": "/tmp"}, "name"), ({"root": "/tmp"}, "name"), ({"image-folder": "/tmp"}, "image_folder"),
        ({"what": 1}, "a dataset is a mapping with one of the keys"), ("dtd", "a dataset is a mapping"), ([], "at least 1 item"),
        ({"image_folder": "/tmp", "fractions": {"train": 0.5}}, "add up to 0.5"), ({"image_folder": "/tmp", "limit": 0}, "greater than"),
        ({"image_folder": "/tmp", "template": "a photo of {} and {}"}, "one {}"), ({"image_folder": "/tmp", "template": "{x.y} {}"}, "one {}"),
        ({"image_folder": "/"}, "`as:`"), ({"image_folder": "/tmp", "as": "a\nb"}, "pattern"),
        ({"packaged": {"train": "google-emoji", "test": "fluent-3d"}}, "`as:`"), ({"packaged": {"train": "google-emoji", "test": "google-emoji"}, "as": "x"}, "two splits"),
        ({"packaged": {"trian": "a"}, "as": "x"}, "packaged"), ({"source": {"folder": "/tmp"}}, "`as:`"),
        ({"image_folder": "/tmp", "limit": {"tset": 3}}, "tset"), ({"image_folder": "/tmp", "domain_noun": "a\nb"}, "pattern"),
    ],
)  # fmt: skip
def test_wrong_specs_are_refused(spec, said):
    with pytest.raises(ValidationError) as error:
        TypeAdapter(DatasetSpecs).validate_python(spec)
    assert said in str(error.value)


def test_the_published_schema_takes_what_pydantic_takes():
    import jsonschema

    schema = TypeAdapter(DatasetSpecs).json_schema()
    good = [
        {"name": "dtd", "root": "/tmp", "as": "d", "limit": 3}, [{"image_folder": "/tmp", "limit": {"test": 3}}],
        {"packaged": "google-emoji+b", "target": "caption"}, {"packaged": {"train": "google-emoji", "test": "fluent-3d"}, "as": "x"},
        {"source": {"parquet": "/tmp", "label_field": "x"}, "as": "p"}, {"source": {"test": {"folder": "/tmp"}}, "as": "p"},
    ]  # fmt: skip
    for spec in good:
        jsonschema.validate(spec, schema)
        TypeAdapter(DatasetSpecs).validate_json(json.dumps(spec), strict=True)
    for spec in ({"name": "dtdd", "root": "/tmp"}, {"nam": "dtd"}, [], 3, {"packaged": {"trian": "a"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(spec, schema)


# --- packaged ---------------------------------------------------------------------------------------------------------


@pytest.mark.assets
def test_cifar_has_its_own_splits_and_ten_classes():
    found = loaded(
        {"packaged": {"train": "cifar10-train-sample", "test": "cifar10-test"}, "as": "cifar10"}, per_class=3
    )
    assert len(found.content.classes) == 10 and "airplane" in found.content.classes
    counts = {(p.split, p.class_index): 0 for p in found.pictures}
    for p in found.pictures:
        counts[p.split, p.class_index] += 1
    assert set(counts.values()) == {3} and len(counts) == 20
    assert found.pictures[0].sample_id.startswith("cifar10:train/0") and found.about["licence"]


@pytest.mark.assets
def test_stamps_are_named_by_their_captions():
    found = loaded({"packaged": "tuxpaint-stamps", "target": "caption"})
    assert {"rat", "electric kettle", "sports car"} <= set(found.content.classes)
    by_id = {p.sample_id: found.content.classes[p.class_index] for p in found.pictures}
    assert by_id["animals/mammals/rodents/rat.png"] == "rat"
    assert {p.split for p in found.pictures} == {"train", "val", "test"}


@pytest.mark.assets
def test_a_concept_of_the_context_is_in_no_query_under_another_style():
    spec = {"packaged": {"train": "google-emoji", "test": "fluent-3d"}, "as": "emoji", "target": "caption"}
    overlapping, apart = loaded(spec), loaded({**spec, "disjoint": "target"})

    def concepts(found, split):
        return {found.content.classes[p.class_index] for p in found.pictures if p.split == split}

    assert len(concepts(overlapping, "train") & concepts(overlapping, "test")) > 1000
    assert not concepts(apart, "train") & concepts(apart, "test")
    assert min(len(concepts(apart, "train")), len(concepts(apart, "test"))) > 300


def test_a_packaged_set_that_does_not_exist_is_told_with_its_place_before_anything_runs(tmp_path):
    text = "name: x\nsteps:\n  images: {uses: datasets.load, datasets: {packaged: cifar10-tst, as: c}}\n"
    with pytest.raises(SpecError) as caught:
        compile_text(text, "x.yaml", tmp_path)
    (problem,) = caught.value.problems
    assert problem.position.line == 3 and "did you mean cifar10-test?" in render_problems(caught.value)
