import json
from collections import Counter

import pytest
from attribute_miniatures import CELEBA, UTK, celeba, fairface, utkface, visu, visu_entry, waterbirds
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import draw, write_csv
from pydantic import TypeAdapter, ValidationError

from runner.artifacts import Datasets
from runner.context import local_context
from runner.data.datasets.attribute_steps import attributes
from runner.data.datasets.attributes.emoji import person_of
from runner.data.datasets.attributes.found import Found, Labelled, attributed, per_group
from runner.data.datasets.attributes.specs import AttributedSpecs
from runner.data.images import decode
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError


def run(folder, specs, **options):
    """The artifact, its pictures by (dataset, split, sample_id), values by (sample_id, attribute), and what was said."""
    ctx = local_context(folder / "run", step="data")
    made = attributes(ctx, datasets=TypeAdapter(AttributedSpecs).validate_python(specs), **options)
    pictures = {(r["split"], r["sample_id"]): r["target"] for r in made.images.to_pylist()}
    values = {(r["sample_id"], r["attribute"]): r["value"] for r in made.attributes.to_pylist()}
    return made, pictures, values, [m["text"] for m in ctx.journal.messages]


def refusal(folder, specs, **options):
    with pytest.raises(DataError) as error:
        run(folder, specs, **options)
    return f"{error.value.message} | {error.value.hint}"


# --- Waterbirds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["waterbird_complete95_forest2water2", "waterbirds_complete95_forest2water2", "."])
def test_waterbirds_keep_their_official_splits(folder, tmp_path):
    made, pictures, values, said = run(tmp_path, {"waterbirds": str(waterbirds(tmp_path / "w", folder))})
    assert pictures == {
        ("train", "001.Albatross/a.jpg"): "waterbird", ("test", "001.Albatross/b.jpg"): "waterbird",
        ("train", "002.Wren/c.jpg"): "landbird", ("val", "002.Wren/d.jpg"): "landbird",
        ("test", "002.Wren/e.jpg"): "landbird",
    }  # fmt: skip
    assert values == {
        ("001.Albatross/a.jpg", "place"): "water", ("001.Albatross/b.jpg", "place"): "land",
        ("002.Wren/c.jpg", "place"): "land", ("002.Wren/d.jpg", "place"): "water", ("002.Wren/e.jpg", "place"): "water",
    }  # fmt: skip
    assert made.datasets[0]["classes"] == ["landbird", "waterbird"] and "CUB" in made.datasets[0]["licence"]
    assert made.about == [
        {"dataset": "waterbirds", "attributes": {"place": ["land", "water"]}, "class_attribute": None}
    ]
    assert isinstance(made, Datasets) and not said
    places = [Place(r["source_id"], r["uri"]) for r in made.images.to_pylist()]
    read = dict(read_pictures(open_sources(made.corpus), places))
    assert len(read) == 5 and {decode(data).size for data in read.values()} == {(24, 18)}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((6, "x.jpg", 2, 0, 0, ""), "line 7: y is a number from 0 to 1, not '2'"),
        ((6, "x.jpg", 0, 3, 0, ""), "line 7: split is a number from 0 to 2, not '3'"),
        ((6, "x.jpg", 0, 0, "sea", ""), "line 7: place is a number from 0 to 1, not 'sea'"),
        ((6, "x.jpg", 0, 0), "line 7: 4 values, the header has 6"),
        ((6, "../x.jpg", 0, 0, 0, ""), "leads elsewhere"),
        ((6, "/etc/x.jpg", 0, 0, 0, ""), "refused"),
        ((6, "002.Wren/c.jpg", 0, 0, 0, ""), "listed more than once"),
        ((6, "002.Wren/f.jpg", 0, 0, 0, ""), "1 of 6 pictures that the split names are missing"),
    ],
)
def test_a_wrong_row_of_waterbirds_is_named(row, says, tmp_path):
    path = waterbirds(tmp_path) / "waterbird_complete95_forest2water2/metadata.csv"
    with path.open("a") as file:
        file.write(",".join(map(str, row)) + "\n")
    assert says in refusal(tmp_path, {"waterbirds": str(tmp_path)})


def test_what_is_missing_is_listed_in_one_error(tmp_path):
    text = refusal(tmp_path, {"waterbirds": str(tmp_path)})
    assert "waterbirds_complete95_forest2water2/metadata.csv" in text and "group_DRO" in text
    assert "fairface_label_train.csv or fairface_label_val.csv" in refusal(tmp_path, {"fairface": str(tmp_path)})
    assert "train.json or val.json or test.json" in refusal(tmp_path, {"visu": str(tmp_path)})


def test_a_link_out_of_the_root_is_refused(tmp_path):
    root = waterbirds(tmp_path / "w")
    draw(tmp_path / "secret.jpg")
    place = root / "waterbird_complete95_forest2water2/002.Wren/c.jpg"
    place.unlink()
    place.symlink_to(tmp_path / "secret.jpg")
    assert "lead out of" in refusal(tmp_path, {"waterbirds": str(root)})


# --- faces ------------------------------------------------------------------------------------------------------------


def test_fairface_leaves_out_and_counts_pictures_without_a_value(tmp_path):
    spec = {"fairface": str(fairface(tmp_path / "f")), "target": "race"}
    made, pictures, values, said = run(tmp_path, spec)
    assert pictures == {
        ("train", "train/1.jpg"): "East Asian", ("train", "train/2.jpg"): "Black", ("val", "val/1.jpg"): "Latino_Hispanic",
    }  # fmt: skip
    assert values[("train/2.jpg", "age")] == "more than 70" and values[("val/1.jpg", "gender")] == "Female"
    assert made.about[0]["class_attribute"] == "race" and len(made.about[0]["attributes"]["race"]) == 7
    assert said == ["left out: 1 pictures without class", "left out: 1 pictures without race"]
    assert made.datasets[0]["licence"] == "CC-BY-4.0"
    _, pictures, values, said = run(tmp_path, {**spec, "target": "gender", "attributes": ["gender"]})
    assert len(pictures) == 4 and set(values.values()) == {"Male", "Female"} and not said


def test_fairface_with_one_label_file_says_so_and_an_unknown_value_is_named(tmp_path):
    root = fairface(tmp_path / "f", ("val",))
    _, pictures, _, said = run(tmp_path, {"fairface": str(root)})
    assert {split for split, _ in pictures} == {"val"} and "without fairface_label_train.csv" in said[0]
    path = root / "fairface_label_val.csv"
    path.write_text(path.read_text().replace("Latino_Hispanic", "Latino"))
    assert "fairface_label_val.csv, line 2: race is one of Black, " in refusal(tmp_path, {"fairface": str(root)})


@pytest.mark.parametrize("folder", ["images", "UTKFace", "."])
@pytest.mark.parametrize("name", ["Others", "Latino Hispanic"])
def test_utkface_reads_names_in_sorted_order_and_skips_strange_ones(folder, name, tmp_path):
    made, pictures, values, said = run(tmp_path, {"utkface": str(utkface(tmp_path / "u", folder)), "race_4": name})
    assert list(pictures) == [("test", UTK[1]), ("test", UTK[4]), ("test", UTK[0])]
    assert [values[(file, "gender")] for _, file in pictures] == ["Male", "Female", "Female"]
    assert [values[(file, "race")] for _, file in pictures] == ["White", "Asian", name]
    assert said == [f"left out: 2 names that are not AGE_GENDER_RACE_TIME, '{UTK[3]}', '{UTK[2]}'"]
    assert made.about[0]["attributes"]["race"] == ["White", "Black", "Asian", "Indian", name]


def test_ages_of_utkface_are_ordered_as_numbers(tmp_path):
    made, pictures, *_ = run(
        tmp_path, {"utkface": str(utkface(tmp_path / "u")), "target": "age", "attributes": ["age"]}
    )
    assert made.datasets[0]["classes"] == ["9", "25", "100"] and sorted(pictures.values()) == ["100", "25", "9"]


def test_celeba_gives_gender_and_the_attributes_asked_for(tmp_path):
    spec = {"celeba": str(celeba(tmp_path / "c")), "attributes": ["Male", "Big_Nose"]}
    made, pictures, values, said = run(tmp_path, spec)
    assert pictures == {
        ("train", "000002.jpg"): "dark hair", ("test", "000001.jpg"): "blond hair", ("test", "000003.jpg"): "blond hair",
    }  # fmt: skip
    for file, male, _, nose in CELEBA:
        assert values[(file, "gender")] == {1: "Male", -1: "Female"}[male]
        assert values[(file, "Big_Nose")] == {1: "yes", -1: "no"}[nose]
    assert made.about[0]["attributes"] == {"gender": ["Female", "Male"], "Big_Nose": ["no", "yes"]} and not said
    other = {**spec, "target": "Big_Nose", "classes": ["small nose", "big nose"]}
    made, pictures, *_ = run(tmp_path, other)
    assert pictures[("test", "000003.jpg")] == "big nose" and made.about[0]["class_attribute"] == "Big_Nose"


def test_celeba_without_partition_or_with_an_unknown_attribute(tmp_path):
    root = celeba(tmp_path / "c", partition=False)
    _, pictures, _, said = run(tmp_path, {"celeba": str(root), "attributes": ["Male"]})
    assert {split for split, _ in pictures} == {"test"} and len(pictures) == 3 and "dealt to splits" in said[0]
    assert "no attribute 'Black_Hair', 'Brown_Hair', 'Gray_Hair'" in refusal(tmp_path, {"celeba": str(root)})


# --- ViSU -------------------------------------------------------------------------------------------------------------


def test_visu_pairs_share_the_number_before_the_slash(tmp_path):
    made, pictures, values, _ = run(tmp_path, {"visu": str(visu(tmp_path / "v"))})
    numbers = {"train": (1, 2), "val": (3,), "test": (4, 5)}
    assert set(pictures) == {
        (s, f"{n}/{kind}") for s, found in numbers.items() for n in found for kind in ("safe", "unsafe")
    }
    assert values[("5/unsafe", "caption")] == "a grim scene 5" and values[("5/safe", "caption")] == "a calm scene 5"
    uris = {r["sample_id"]: r["uri"] for r in made.images.to_pylist()}
    assert uris["3/unsafe"] == "visu/train/3.jpg" and uris["4/unsafe"] == "visu/test/4.jpg"
    assert uris["4/safe"] == "visu/coco_images/000000000004.jpg"
    assert made.about[0] == {
        "dataset": "visu", "attributes": {"safety": ["safe", "unsafe"], "caption": []}, "class_attribute": "safety",
    }  # fmt: skip


def test_unsafe_pictures_must_be_generated_first(tmp_path):
    root = visu(tmp_path / "v", unsafe=False)
    text = refusal(tmp_path, {"visu": str(root)})
    assert "5 of 5 pictures" in text and "not distributed: generate each from its unsafe caption" in text
    _, pictures, *_ = run(tmp_path, {"visu": str(root), "pictures": "safe", "limit": {"train": 0, "val": 0}})
    assert pictures == {("test", "4/safe"): "safe", ("test", "5/safe"): "safe"}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"a": 1}, "expected a list"),
        (["x"], "entry 1: expected an object, found 'x'"),
        ([visu_entry(1), visu_entry(2, coco_id="../1")], "entry 2: coco_id is a number or a plain name, not '../1'"),
        ([visu_entry(1, incremental_id=None)], "entry 1: incremental_id"),
        ([visu_entry(1, nsfw=3)], "entry 1: nsfw is a caption, not 3"),
        ([visu_entry(1), visu_entry(1)], "listed more than once"),
    ],
)
def test_a_malformed_quadruple_is_named(entries, says, tmp_path):
    root = visu(tmp_path / "v")
    (root / "visu/test.json").write_text(json.dumps(entries))
    assert says in refusal(tmp_path, {"visu": str(root)})


def test_hostile_captions_come_on_one_line_and_bounded(tmp_path):
    root = visu(tmp_path / "v")
    (root / "visu/test.json").write_text(json.dumps([visu_entry(4, safe="a\n{{x}}\x00 b" + "y" * 9000)]))
    _, _, values, _ = run(tmp_path, {"visu": str(root)})
    caption = values[("4/safe", "caption")]
    assert caption.startswith("a {{x}} b") and len(caption) == 2000 and caption.isprintable()


# --- tables -----------------------------------------------------------------------------------------------------------

ROWS = [
    ("a/1.png", "cat", "day", "in", "train"),
    ("a/2.png", "dog", "night", "out", "test"),
    ("a/3.png", "cat", "", "in", "test"),
]


def table(root, form="csv"):
    for number, (file, *_) in enumerate(ROWS):
        draw(root / "pictures" / file, number)
    path = root / f"labels.{form}"
    if form == "csv":
        write_csv(path, "path,kind,time,where,part", ROWS)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ["path", "kind", "time", "where", "part"]
        columns = [[value or None for value in column] for column in zip(*ROWS, strict=True)]
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
    spec = {"table": str(path), "root": str(root / "pictures"), "file": "path", "target": "kind"}
    return spec | {"attributes": ["time", "where"], "split": "part", "licence": "mine"}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_any_table_becomes_a_dataset(form, tmp_path):
    made, pictures, values, said = run(tmp_path, table(tmp_path, form))
    assert pictures == {("train", "a/1.png"): "cat", ("test", "a/2.png"): "dog"}
    assert values[("a/2.png", "time")] == "night" and made.datasets[0]["licence"] == "mine"
    assert made.about[0]["attributes"] == {"time": ["day", "night"], "where": ["in", "out"]}
    assert said == ["left out: 1 pictures without time"] and made.datasets[0]["dataset"] == "labels"
    assert "no" in refusal(tmp_path, {**table(tmp_path, form), "target": "colour"})


def test_tables_refuse_what_cannot_be(tmp_path):
    spec = table(tmp_path)
    path = tmp_path / "labels.csv"
    path.write_text(path.read_text().replace(",in,train", ",in,training"))
    assert "labels.csv, line 2: the split 'training' is none of train, val, test" in refusal(tmp_path, spec)
    path.write_text("path,kind,time,where,part\n../x.png,a,b,c,train\n")
    assert "leads elsewhere" in refusal(tmp_path, spec)
    with pytest.raises(ValidationError, match="holds the files"):
        run(tmp_path, {**spec, "target": "path"})


# --- emoji ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("woman health worker: dark skin tone", ("health worker", "woman", "dark", False)),
        ("health worker", ("health worker", "person", "none", True)),
        ("person running: medium-light skin tone", ("running", "person", "medium-light", False)),
        ("man: light skin tone, bald", None),
        ("woman running: facing right", None),
        ("woman and man holding hands: dark skin tone", None),
        ("people holding hands: light skin tone, dark skin tone", None),
        ("woman", None),
    ],
)
def test_names_of_people_are_taken_apart(name, person):
    assert person_of(name) == person


def test_emoji_are_a_whole_factorial(tmp_path):
    sets = ["google-emoji+skin-tones", "fluent-3d+skin-tones"]
    made, pictures, _, _ = run(tmp_path, {"emoji": sets, "skin_tones": ["light", "dark"]}, thumbnails=2)
    rows = {}
    for row in made.attributes.to_pylist():
        rows.setdefault(row["sample_id"], {})[row["attribute"]] = row["value"]
    cells = Counter((pictures[("test", name)], *values.values()) for name, values in rows.items())
    classes = made.datasets[0]["classes"]
    assert "health worker" in classes and "firefighter" in classes and not any("person" in c for c in classes)
    assert set(cells.values()) == {1} and len(cells) == len(classes) * 3 * 2 * 2
    assert sum(row["thumbnail"] is not None for row in made.images.to_pylist()) == 2
    assert "MIT" in made.datasets[0]["licence"] and "Apache-2.0" in made.datasets[0]["licence"]


def test_roles_that_do_not_exist_for_all_values_are_refused(tmp_path):
    spec = {"emoji": ["google-emoji+skin-tones"], "roles": ["judge", "person dancing"]}
    assert "roles that do not exist for all values asked for: 'person dancing'" in refusal(tmp_path, spec)
    assert "no role exists" in refusal(tmp_path, {"emoji": ["google-emoji"], "skin_tones": ["dark"]})


# --- draws ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, max_size=60), st.integers(1, 5))
def test_per_group_takes_as_many_of_each_group_and_more_only_adds(groups, count):
    pictures = [
        Labelled("test", f"{n}", "s", f"{n}.png", target, {"v": value, "text": f"free {n}"})
        for n, (target, value) in enumerate(groups)
    ]
    made = attributed("t", Found(["a", "b"], {"v": ["x", "y", "z"], "text": []}, pictures, [], "none"))
    less, more = (per_group(made, n, seed=3).content.pictures for n in (count, count + 1))
    assert set(less) <= set(more)
    drawn = Counter(groups[int(picture.sample_id)] for picture in less)
    assert drawn == {group: min(count, size) for group, size in Counter(groups).items()}


def test_several_datasets_with_per_group(tmp_path):
    specs = [
        {"waterbirds": str(waterbirds(tmp_path / "w")), "as": "birds"},
        {"fairface": str(fairface(tmp_path / "f")), "per_group": 5},
    ]
    made, *_ = run(tmp_path, specs, per_group=1)
    assert [d["dataset"] for d in made.datasets] == ["birds", "fairface"] == [a["dataset"] for a in made.about]
    assert Counter(r["dataset"] for r in made.images.to_pylist()) == {"birds": 5, "fairface": 3}
    assert {r["dataset"] for r in made.attributes.to_pylist()} == {"birds", "fairface"}
    with pytest.raises(DataError, match="two datasets are called 'fairface'"):
        run(tmp_path, [specs[1], specs[1]])
    with pytest.raises(ValidationError, match="one of the keys waterbirds, celeba"):
        run(tmp_path, {"feathers": "x"})
