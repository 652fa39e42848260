import csv
import json
import os
import random

import pytest
from miniatures import MINIS, SPLITS, build, draw, entries, write_csv
from pydantic import TypeAdapter, ValidationError

from runner.data.datasets.known import KNOWN
from runner.data.datasets.loading import Options, load
from runner.data.datasets.specs import DatasetSpec
from runner.data.datasets.texts import scene_of, target_text
from runner.data.images import decode
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError

FORMS = [(name, form) for name in MINIS for form in ("coop", "tables") if name != "fgvc_aircraft" or form == "coop"]


def loaded(name, root, **options):
    spec = TypeAdapter(DatasetSpec).validate_python({"name": name, "root": str(root)})
    return load(spec, Options(**options))


def refusal(name, root, **options):
    with pytest.raises(DataError) as error:
        loaded(name, root, **options)
    return str(error.value)


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_layout_gives_each_picture_its_split_and_target(name, form, tmp_path):
    mini = MINIS[name]
    found = loaded(name, build(tmp_path / "copy", name, form=form))
    assert found.content.classes == [target for _, _, target in mini.classes]
    assert [(p.split, p.sample_id, p.class_index) for p in found.pictures] == entries(mini)
    assert found.about["group"] == mini.group and found.about["domain_noun"] == mini.noun
    assert found.about["dataset"] == name and found.about["licence"] and found.about["template"].count("{}") == 1


@pytest.mark.parametrize("name", MINIS)
def test_every_picture_can_be_read_from_the_corpus(name, tmp_path):
    found = loaded(name, build(tmp_path / "copy", name))
    sources = open_sources([source.spec for source in found.content.sources])
    places = [Place(p.source_id, p.uri) for p in found.pictures]
    read = dict(read_pictures(sources, places))
    assert set(read) == set(places) and len(set(read.values())) == len(places)
    assert {decode(data).size for data in read.values()} == {(24, 18)}


@pytest.mark.parametrize(
    ("name", "home"), [("dtd", "images"), ("food101", "images"), ("fgvc_aircraft", "data"), ("fgvc_aircraft", "")]
)
def test_the_last_part_of_the_unpacked_path_is_enough_and_changes_no_sample_id(name, home, tmp_path):
    full, short = build(tmp_path / "full", name), build(tmp_path / "short", name, home=home)
    ids = [[p.sample_id for p in loaded(name, root).pictures] for root in (full, short)]
    assert ids[0] == ids[1]


def test_groups_and_prompts_are_those_of_the_protocol():
    groups = {}
    for name, known in KNOWN.items():
        groups.setdefault(known.group, set()).add(name)
    assert groups == {
        "prototypical": {"caltech101", "sun397"},
        "non-prototypical": {"dtd", "eurosat", "ucf101"},
        "fine-grained": {"flowers102", "food101", "oxford_pets"},
        "very fine-grained": {"stanford_cars", "fgvc_aircraft"},
    }
    assert KNOWN["ucf101"].template == "a photo of a person doing {}."
    assert {known.template.count("{}") for known in KNOWN.values()} == {1}


@pytest.mark.parametrize(
    ("folder", "key"),
    [
        ("a/abbey", "abbey"),
        ("a/apse/indoor", "indoor apse"),
        ("u/underwater/coral_reef", "coral_reef underwater"),
        ("abbey", "abbey"),
    ],
)
def test_a_scene_is_nested_when_the_folder_above_has_more_than_one_letter(folder, key):
    assert scene_of(folder) == key


def test_every_rename_of_eurosat_and_caltech():
    wanted = {
        "AnnualCrop": "annual crop land", "Forest": "forest", "HerbaceousVegetation": "herbaceous vegetation land",
        "Highway": "highway or road", "Industrial": "industrial buildings", "Pasture": "pasture land",
        "PermanentCrop": "permanent crop land", "Residential": "residential buildings", "River": "river",
        "SeaLake": "sea or lake",
    }  # fmt: skip
    assert {name: target_text(KNOWN["eurosat"], name) for name in wanted} == wanted
    # Names that are renamed already stay as they are.
    assert target_text(KNOWN["eurosat"], "Sea or Lake") == "sea or lake"
    caltech = {
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
        "airplanes": "airplane",
        "yin_yang": "yin yang",
    }
    assert {name: target_text(KNOWN["caltech101"], name) for name in caltech} == caltech


def test_older_tables_of_the_cars_call_the_folders_train_and_test(tmp_path):
    root = build(tmp_path, "stanford_cars", form="tables")
    wanted = [p.uri for p in loaded("stanford_cars", root).pictures]
    for table in ("split_coop.csv", "labels.csv"):
        (root / table).write_text((root / table).read_text().replace("cars_", ""))
    assert [p.uri for p in loaded("stanford_cars", root).pictures] == wanted


def test_tables_win_over_the_published_split_and_extra_columns_do_no_harm(tmp_path):
    root = build(tmp_path, "dtd", form="tables")
    (root / "split_zhou_DescribableTextures.json").write_text("not even JSON")
    rows = [(n, split, path) for n, (split, path, _) in enumerate(entries(MINIS["dtd"]))]
    write_csv(root / "split_coop.csv", ",split,filename", rows)
    assert len(loaded("dtd", root).pictures) == 18


def test_rows_are_sorted_by_split_whatever_the_order_of_the_table(tmp_path):
    root = build(tmp_path, "dtd", form="tables")
    rows = [(split, path) for split, path, _ in entries(MINIS["dtd"])]
    random.Random(3).shuffle(rows)
    write_csv(root / "split_coop.csv", "split,filename", rows)
    assert [(p.split, p.sample_id) for p in loaded("dtd", root).pictures] == sorted(
        rows, key=lambda r: SPLITS.index(r[0])
    )


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MINIS)
def test_an_empty_folder_gives_one_error_with_everything_missing_and_its_origin(name, tmp_path):
    said = refusal(name, tmp_path)
    assert "the pictures, from " + KNOWN[name].obtained_from in said and KNOWN[name].licence in said
    if name == "fgvc_aircraft":
        wanted = ["variants.txt", "images_variant_train.txt", "images_variant_val.txt", "images_variant_test.txt"]
    else:
        wanted = [MINIS[name].split_file, "split_coop.csv", "metadata.csv", "CoOp"]
    wanted += ["labels.csv"] if name in ("flowers102", "stanford_cars") else []
    assert [word for word in wanted if word not in said] == []


def test_only_what_is_missing_is_named(tmp_path):
    root = build(tmp_path, "flowers102", form="tables")
    (root / "labels.csv").unlink()
    said = refusal("flowers102", root)
    assert (
        "1 of what must stand" in said
        and "- labels.csv" in said
        and "- metadata.csv" not in said
        and "- jpg" not in said
    )


@pytest.mark.parametrize(("key", "value", "said"), [("name", "dtdd", "dtd"), ("root", "/no/such/root", "no such file")])
def test_unknown_names_and_roots_are_refused_with_the_spec(key, value, said, tmp_path):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(DatasetSpec).validate_python({"name": "dtd", "root": str(tmp_path)} | {key: value})


def test_missing_pictures_are_counted_and_the_first_named(tmp_path):
    root = build(tmp_path, "dtd")
    for n in range(4):
        (root / f"dtd/images/banded/banded_{n:04d}.jpg").unlink()
    said = refusal("dtd", root)
    assert "4 of 18 pictures" in said and "banded_0000.jpg" in said and "and 1 more" in said and "VGG" in said
    assert len(loaded("dtd", root, check_files=False).pictures) == 18


def test_pictures_of_splits_that_are_left_out_need_not_be_there(tmp_path):
    root = build(tmp_path, "dtd")
    (root / "dtd/images/banded/banded_0000.jpg").unlink()
    from runner.data.datasets.specs import SplitCounts

    assert len(loaded("dtd", root, limit=SplitCounts(train=0)).pictures) == 12


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_absent_from_the_class_table(tmp_path):
    root = build(tmp_path, "ucf101", form="tables")
    write_csv(root / "metadata.csv", "idx,folder_name,class_name", [(0, "Archery", "Archery"), (1, "Yo_Yo", "Yo_Yo")])
    said = refusal("ucf101", root)
    assert "6 pictures" in said and "Apply_Eye_Makeup" in said and "metadata.csv" in said


def test_scenes_that_their_paths_call_the_same(tmp_path):
    root = build(tmp_path, "sun397", form="tables")
    rows = [(0, "a/apse/indoor", "x"), (1, "b/apse/indoor", "y"), (2, "a/airplane_cabin", "z")]
    write_csv(root / "metadata.csv", "idx,folder_name,class_name", rows)
    assert "'a/apse/indoor', 'b/apse/indoor'" in refusal("sun397", root)


def test_a_variant_that_is_absent_from_the_list(tmp_path):
    root = build(tmp_path, "fgvc_aircraft")
    file = root / "fgvc-aircraft-2013b/data/images_variant_val.txt"
    file.write_text(file.read_text().replace("Spitfire Mk V", "Spitfire Mk IX"))
    assert "2 lines have a variant" in (said := refusal("fgvc_aircraft", root)) and "Spitfire Mk IX" in said


def test_caltech_leaves_out_two_folders(tmp_path):
    root = build(tmp_path, "caltech101")
    draw(root / "101_ObjectCategories/Faces_easy/image_0001.jpg")
    edit_json(
        root / "split_zhou_Caltech101.json", lambda c: c["test"].append(["Faces_easy/image_0001.jpg", 3, "Faces_easy"])
    )
    assert "Faces_easy" in refusal("caltech101", root)


def test_classes_with_one_text_are_named(tmp_path):
    root = build(tmp_path, "food101", form="tables")
    rows = [(0, "apple_pie", "apple_pie"), (1, "baklava", "Apple pie"), (2, "hot_and_sour_soup", "soup")]
    write_csv(root / "metadata.csv", "idx,folder_name,class_name", rows)
    assert "'apple_pie', 'Apple pie'" in refusal("food101", root)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(0, "banded", "banded"), (0, "lacelike", "lacelike"), (2, "zigzagged", "zigzagged")], "idx '0' stands more than once"),
        ([(0, "banded", "a"), (1, "banded", "b"), (2, "zigzagged", "c")], "folder_name 'banded'"),
        ([(0, "banded", "a"), (1, "lacelike", "a"), (2, "zigzagged", "c")], "class_name 'a'"),
        ([("nan", "banded", "a")], "'nan' is no whole number"),
        ([("1.0", "banded", "a")], "'1.0' is no whole number"),
        ([(-1, "banded", "a")], "'-1' is no whole number"),
        ([("\u00b2", "banded", "a")], "is no whole number"),
        ([(0, "banded", "nan")], "line 2: 'nan' is no class name"),
        ([(0, "banded", " \t ")], "is no class name"),
        ([(0, "banded", "x" * 5000)], "5000 characters"),
        ([(0, "", "a")], "have no folder_name"),
        ([], "names no class"),
        ([(0, "banded")], "2 values, the header has 3"),
    ],
)  # fmt: skip
def test_class_tables_that_are_wrong(rows, said, tmp_path):
    root = build(tmp_path, "dtd", form="tables")
    write_csv(root / "metadata.csv", "idx,folder_name,class_name", rows)
    assert said in refusal("dtd", root)


@pytest.mark.parametrize(
    ("label", "said"),
    [("NaN", "'NaN' is no whole number"), ("", "'' is no whole number"), ("7", "class_idx without row")],
)
def test_labels_that_are_none(label, said, tmp_path):
    root = build(tmp_path, "flowers102", form="tables")
    rows = list(csv.reader((root / "labels.csv").open()))[1:]
    write_csv(root / "labels.csv", "filename,class_idx", [(rows[0][0], label), *map(tuple, rows[1:])])
    assert said in refusal("flowers102", root)
    write_csv(root / "labels.csv", "filename,class_idx", [tuple(row) for row in rows[2:]])
    assert "2 pictures of the split have no row" in refusal("flowers102", root)
    write_csv(root / "labels.csv", "filename,class_idx", [*map(tuple, rows), (rows[0][0], 2)])
    assert "two labels" in refusal("flowers102", root)


def _twice(content):
    content["test"].append(content["train"][0])


def _within(content):
    content["val"].append(content["val"][0])


def _relabel(content):
    content["val"][0][1] = 1


def _rename(content):
    content["val"][0][2] = "striped"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_twice, "in train and test"),
        (_within, "twice in val"),
        (_relabel, "label 0 is called|has two labels|label 1 is called"),
        (_rename, "label 0 is called 'banded', 'striped'"),
        (lambda c: c["test"].append(["banded/x.jpg", float("nan"), "banded"]), "test, entry 7"),
        (lambda c: c["test"].append(["banded/x.jpg", True, "banded"]), "whole number"),
        (lambda c: c["test"].append(["banded/x.jpg", 0]), "whole number, class name"),
        (lambda c: c["test"].append(["banded/x.jpg", 0, "NaN"]), "no class name"),
        (lambda c: c.update(test={"a": 1}), "test is no list"),
        (lambda c: c.update(extra=[]), "lists named train, val, test"),
        (lambda c: c.update(val=[]), "the split val has no picture"),
    ],
)  # fmt: skip
def test_published_splits_that_are_wrong(change, said, tmp_path):
    root = build(tmp_path, "dtd")
    edit_json(root / "split_zhou_DescribableTextures.json", change)
    text = refusal("dtd", root)
    assert any(part in text for part in said.split("|")), text


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret.jpg", "banded/../../x.jpg", "./banded/x.jpg", "banded//x.jpg", "", "C:/x.jpg", "banded\\x.jpg", "banded/x\n.jpg", "a\x7f.jpg", "x" * 2000])  # fmt: skip
@pytest.mark.parametrize("form", ["coop", "tables"])
def test_hostile_paths_are_refused_before_anything_is_touched(path, form, tmp_path):
    root = build(tmp_path, "dtd", form=form)
    if form == "coop":
        edit_json(root / "split_zhou_DescribableTextures.json", lambda c: c["test"].append([path, 0, "banded"]))
    else:
        rows = [(split, name) for split, name, _ in entries(MINIS["dtd"])]
        write_csv(root / "split_coop.csv", "split,filename", [*rows, ("test", path)])
    said = refusal("dtd", root, check_files=False)
    assert "1 of 19 paths are refused" in said and len(said) < 700


@pytest.mark.parametrize("image", ["../../../secret", "/etc/passwd", "a\\b"])
def test_hostile_image_ids_are_refused(image, tmp_path):
    root = build(tmp_path, "fgvc_aircraft")
    with (root / "fgvc-aircraft-2013b/data/images_variant_test.txt").open("a") as file:
        file.write(f"{image} 707-320\n")
    assert "refused" in refusal("fgvc_aircraft", root, check_files=False)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_out_of_the_root_are_refused(what, tmp_path):
    root = build(tmp_path / "copy", "dtd")
    draw(tmp_path / "elsewhere/banded_0000.jpg")
    if what == "file":
        (root / "dtd/images/banded/banded_0000.jpg").unlink()
        (root / "dtd/images/banded/banded_0000.jpg").symlink_to(tmp_path / "elsewhere/banded_0000.jpg")
    else:
        (root / "dtd/images/banded").rename(tmp_path / "moved")
        (root / "dtd/images/banded").symlink_to(tmp_path / "moved")
    assert "lead out of" in refusal("dtd", root)
    found = loaded("dtd", root, check_files=False)
    sources = open_sources([source.spec for source in found.content.sources])
    with pytest.raises(DataError, match="leads out of"):
        list(read_pictures(sources, [Place(p.source_id, p.uri) for p in found.pictures]))


def test_links_inside_of_the_root_and_a_linked_root_are_fine(tmp_path):
    root = build(tmp_path / "copy", "dtd")
    (root / "dtd/images/banded").rename(root / "kept")
    (root / "dtd/images/banded").symlink_to(root / "kept")
    (tmp_path / "link").symlink_to(root)
    assert len(loaded("dtd", tmp_path / "link").pictures) == 18


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("split,filename\ntest,b\xe9b\xe9.jpg\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8"),
        ("split,filename\n".encode("utf-16"), "not UTF-8"),
        (b"split,filename\ntest,a\0.jpg\n", "NUL"),
        (b"", "no single column 'split'; found nothing"),
        (b"split;filename\ntest;a.jpg\n", "no single column 'split'"),
        (b"split,split,filename\n", "no single column 'split'"),
        (b"split,filename\nvalid,a.jpg\n", "the split 'valid' is none of train, val, test"),
        (b'split,filename\ntest,"a.jpg\n', "line"),
        (b"split,filename\ntest," + b"x" * 200_000, "field larger than"),
    ],
)  # fmt: skip
def test_split_tables_that_are_no_tables(data, said, tmp_path):
    root = build(tmp_path, "dtd", form="tables")
    (root / "split_coop.csv").write_bytes(data)
    assert said in refusal("dtd", root)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    root = build(tmp_path, "dtd", form="tables")
    text = (root / "split_coop.csv").read_text().replace("\n", "\r\n")
    (root / "split_coop.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(loaded("dtd", root).pictures) == 18


@pytest.mark.parametrize("text", ["[" * 100_000, '{"test": [[' + "1" * 5000 + "]]}", "{", '"x"', "{}"])
def test_split_files_that_are_no_split_files(text, tmp_path):
    root = build(tmp_path, "dtd")
    (root / "split_zhou_DescribableTextures.json").write_text(text)
    assert "split_zhou_DescribableTextures.json" in refusal("dtd", root)


def test_huge_files_and_pipes_are_not_read(tmp_path):
    root = build(tmp_path, "dtd")
    file = root / "split_zhou_DescribableTextures.json"
    with file.open("wb") as handle:
        handle.truncate(2**33)
    assert "bytes" in refusal("dtd", root)
    file.unlink()
    os.mkfifo(file)
    assert "no regular file" in refusal("dtd", root)


def test_class_names_with_newlines_become_one_line(tmp_path):
    root = build(tmp_path, "dtd", form="tables")
    rows = [(0, "banded", "ban\nded\u202e {{x}}"), (1, "lacelike", "lacelike"), (2, "zigzagged", "zigzagged")]
    write_csv(root / "metadata.csv", "idx,folder_name,class_name", rows)
    assert loaded("dtd", root).content.classes[0] == "ban ded {{x}}"
