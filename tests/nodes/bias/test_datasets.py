"""Readers of CelebA and ImageNet-X: every shape of file, and one clear error with its line for every malformed one."""

import json

import numpy as np
import pytest

from runner.data.datasets.celeba import read_attributes, read_partition
from runner.errors import DataError
from runner.nodes.bias.datasets.celeba import open_celeba
from runner.nodes.bias.datasets.imagenet_x import FACTORS, open_imagenet_x, read_factors

NAMES = ["Smiling", "Eyeglasses", "Young"]
ROWS = {"000001.jpg": [1, -1, 1], "000002.jpg": [-1, -1, 1], "000003.jpg": [-1, 1, -1]}
BODY = "".join(f"{file} {'  '.join(f'{v:2d}' for v in values)}\n" for file, values in ROWS.items())
SHAPES = {
    "count": f"3\n{' '.join(NAMES)} \n{BODY}",
    "header": f"{' '.join(NAMES)}\n{BODY}",
    "named header": f"image_id {' '.join(NAMES)}\n{BODY}",
    "csv": "image_id," + ",".join(NAMES) + "\n" + "".join(f"{f},{','.join(map(str, v))}\n" for f, v in ROWS.items()),
}
SHAPES |= {
    "crlf": SHAPES["count"].replace("\n", "\r\n"),
    "bom": "\ufeff" + SHAPES["csv"],
    "gaps": SHAPES["header"] + "\n\n",
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
def test_all_shapes_of_attribute_files_say_the_same(text, tmp_path):
    path = tmp_path / "list_attr_celeba.txt"
    path.write_bytes(text.encode())
    table = read_attributes(path)
    assert table.files == list(ROWS) and table.names == NAMES
    assert table.present.dtype == bool and table.present.tolist() == [[v == 1 for v in row] for row in ROWS.values()]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("2\nA B\na.jpg 1 -1\nb.jpg 1\n", 4, "2 values"),
        ("A B\na.jpg 1 -1\nb.jpg 1 0\n", 3, "-1 or 1, not '0'"),
        ("A B\na.jpg 1 -1\nb.jpg 1 x\n", 3, "not 'x'"),
        ("A B\na.jpg 1 -1\na.jpg 1 1\n", 3, "already listed in line 2"),
        ("3\nA B\na.jpg 1 -1\n", 1, "announces 3 rows, but 1 follow"),
        ("a.jpg 1 -1\nb.jpg 1 1\n", 1, "names of the attributes"),
        ("A A\na.jpg 1 -1\n", 1, "different names"),
        ("A B\n", 1, "header and rows"),
        ("3\n", 1, "header and rows"),
        ("image_id,A,B\na.jpg,1,-1\nb.jpg,1,-1,1\n", 3, "2 values"),
    ],
)
def test_a_malformed_attribute_file_is_one_error_with_its_line(text, line, says, tmp_path):
    path = tmp_path / "list_attr_celeba.txt"
    path.write_text(text)
    with pytest.raises(DataError) as raised:
        read_attributes(path)
    assert f"list_attr_celeba.txt, line {line}: " in raised.value.message and says in raised.value.message


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_attribute_file_is_refused(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match="is empty"):
        read_attributes(tmp_path / "a.txt")


def test_binary_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="not a text file"):
        read_attributes(tmp_path / "a.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_partition(tmp_path / "none.txt")


@pytest.mark.parametrize("text", ["a.jpg 0\nb.jpg 1\nc.jpg  2\n", "image_id,partition\na.jpg,0\nb.jpg,1\nc.jpg,2\n"])
def test_partitions_with_and_without_a_header(text, tmp_path):
    (tmp_path / "p").write_text(text)
    assert read_partition(tmp_path / "p") == {"a.jpg": 0, "b.jpg": 1, "c.jpg": 2}


@pytest.mark.parametrize(("text", "line"), [("a.jpg 0\nb.jpg 3\n", 2), ("a.jpg 7\n", 1), ("a.jpg 0\nb.jpg\n", 2)])
def test_a_malformed_partition_is_one_error_with_its_line(text, line, tmp_path):
    (tmp_path / "p").write_text(text)
    with pytest.raises(DataError, match=rf"p, line {line}: expected a file name and 0, 1 or 2"):
        read_partition(tmp_path / "p")


def celeba(root, images="img_align_celeba", texts=""):
    (root / texts).mkdir(parents=True, exist_ok=True)
    (root / texts / "list_attr_celeba.txt").write_text(SHAPES["count"])
    (root / texts / "list_eval_partition.txt").write_text("000001.jpg 1\n000002.jpg 0\n000003.jpg 1\n")
    (root / images).mkdir(parents=True, exist_ok=True)
    for file in ROWS:
        (root / images / file).write_bytes(b"never opened here")
    return root


@pytest.mark.parametrize(
    ("images", "texts"),
    [("img_align_celeba", ""), ("img_align_celeba/img_align_celeba", ""), ("Img/img_align_celeba", "Anno"), ("", "")],
)
def test_a_split_of_celeba_is_found_where_copies_put_it(images, texts, tmp_path):
    if texts:
        celeba(tmp_path, images, texts)
        (tmp_path / "Eval").mkdir()
        (tmp_path / texts / "list_eval_partition.txt").rename(tmp_path / "Eval/list_eval_partition.txt")
    found = open_celeba(celeba(tmp_path, images) if not texts else tmp_path)
    assert found.uris == ("000001.jpg", "000003.jpg") and found.kind == "yes_no" and not found.missing
    assert found.root == tmp_path / images
    assert found.biases == tuple(NAMES) and found.present.tolist() == [[True, False, True], [False, True, False]]


def test_splits_limits_and_missing_pictures(tmp_path):
    root = celeba(tmp_path)
    assert open_celeba(root, split="train").uris == ("000002.jpg",)
    assert len(open_celeba(root, split="all").uris) == 3
    assert open_celeba(root, split="all", limit=2).uris == ("000001.jpg", "000002.jpg")
    (root / "img_align_celeba/000001.jpg").unlink()
    found = open_celeba(root)
    assert found.uris == ("000003.jpg",) and found.missing == ("000001.jpg",)
    assert found.present.tolist() == [[False, True, False]]
    with pytest.raises(DataError, match="no picture into the split 'test'"):
        open_celeba(root, split="test")
    (root / "img_align_celeba/000003.jpg").unlink()
    with pytest.raises(DataError, match="holds none of the 2 pictures"):
        open_celeba(root)
    (root / "list_attr_celeba.txt").unlink()
    with pytest.raises(DataError, match=r"holds no list_attr_celeba\.txt"):
        open_celeba(root)


def entry(file, label, *present, **more):
    return {
        "file_name": file,
        "class": label,
        **{f: int(f in present) for f in FACTORS},
        "justification": "",
        "one_word": "",
    } | more


def factor_file(path, *entries):
    path.write_text("".join(json.dumps(e) + "\n" for e in entries))
    return path


def test_factors_are_read_in_file_order(tmp_path):
    path = factor_file(
        tmp_path / "x.jsonl",
        entry("val_1.JPEG", 3, "pose", "darker"),
        entry("n01/val_2.JPEG", 999),
        entry("val_3.JPEG", 0, *FACTORS),
    )
    table = read_factors(path)
    assert table.files == ["val_1.JPEG", "val_2.JPEG", "val_3.JPEG"] and table.classes.tolist() == [3, 999, 0]
    assert [FACTORS[i] for i in np.flatnonzero(table.present[0])] == ["pose", "darker"]
    assert not table.present[1].any() and table.present[2].all() and len(FACTORS) == 16


BAD_ENTRIES = [
    ("{", "not JSON"),
    ("[1]", "expected an object"),
    (json.dumps(entry("", 1)), "expected an object"),
    (json.dumps(entry("a", 1000)), "0 to 999, not 1000"),
    (json.dumps(entry("a", True)), "not True"),
    (json.dumps(entry("a", "3")), "not '3'"),
    (json.dumps({k: v for k, v in entry("a", 1).items() if k != "style"}), "style is missing"),
    (json.dumps(entry("a", 1, pose=2)), "pose is 0 or 1, not 2"),
    (json.dumps(entry("a", 1, pose=None)), "pose is 0 or 1, not None"),
    (json.dumps(entry("first.JPEG", 1)), "already listed in line 1"),
]


@pytest.mark.parametrize(("line", "says"), BAD_ENTRIES)
def test_a_malformed_factor_line_is_one_error_with_its_number(line, says, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(entry("first.JPEG", 1)) + "\n\n" + line + "\n")
    with pytest.raises(DataError) as raised:
        read_factors(path)
    assert "x.jsonl, line 3: " in raised.value.message and says in raised.value.message


def test_pictures_stand_flat_or_in_class_folders(tmp_path):
    path = factor_file(
        tmp_path / "x.jsonl", entry("val_1.JPEG", 0, "pose"), entry("val_2.JPEG", 1), entry("val_3.JPEG", 1)
    )
    flat, nested = tmp_path / "flat", tmp_path / "nested"
    for place in (flat, nested / "n01440764", nested / "n01443537"):
        place.mkdir(parents=True)
    for place in (
        flat / "val_1.JPEG",
        flat / "val_2.JPEG",
        nested / "n01440764/val_1.JPEG",
        nested / "n01443537/val_3.JPEG",
    ):
        place.write_bytes(b"")
    found = open_imagenet_x(path, flat)
    assert found.uris == ("val_1.JPEG", "val_2.JPEG") and found.missing == ("val_3.JPEG",)
    assert found.classes.tolist() == [0, 1] and found.kind == "one_of_many"
    found = open_imagenet_x(path, nested)
    assert found.uris == ("n01440764/val_1.JPEG", "n01443537/val_3.JPEG") and found.present[:, 0].tolist() == [
        True,
        False,
    ]
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match="holds none of the 3 pictures"):
        open_imagenet_x(path, tmp_path / "elsewhere")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="is empty"):
        open_imagenet_x(tmp_path / "empty.jsonl", flat)
