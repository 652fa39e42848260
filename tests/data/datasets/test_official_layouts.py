import pytest
from miniatures import draw
from pydantic import TypeAdapter
from scipy.io import savemat

from runner.data.datasets.loading import Options, load
from runner.data.datasets.specs import DatasetSpec
from runner.errors import DataError


def loaded(name, root):
    return load(TypeAdapter(DatasetSpec).validate_python({"name": name, "root": str(root)}), Options())


def flowers(root, labels=(1, 12, 102, 1, 12, 102), train=(1, 2, 3), val=(4,), test=(6, 5)):
    for number in range(1, len(labels) + 1):
        draw(root / f"jpg/image_{number:05d}.jpg", number)
    savemat(root / "imagelabels.mat", {"labels": [labels]})
    savemat(root / "setid.mat", {"trnid": [train], "valid": [val], "tstid": [test]})
    return root


def textures(root):
    for part, split in enumerate(("train", "val", "test")):
        paths = [f"{name}/{name}_{part:04d}.jpg" for name in ("banded", "zigzagged")]
        (root / "dtd/labels").mkdir(parents=True, exist_ok=True)
        (root / f"dtd/labels/{split}1.txt").write_text("".join(f"{path}\n" for path in paths))
        for path in paths:
            draw(root / "dtd/images" / path, part)
    return root


def test_flowers_come_with_their_makers_numbers(tmp_path):
    found = loaded("flowers102", flowers(tmp_path))
    named = [(p.split, p.uri, found.content.classes[p.class_index]) for p in found.pictures]
    # Classes 1, 12 and 102 by the makers' list.
    first, twelfth, last = "pink primrose", "colt's foot", "blackberry lily"
    assert named == [
        ("train", "jpg/image_00001.jpg", first), ("train", "jpg/image_00002.jpg", twelfth),
        ("train", "jpg/image_00003.jpg", last), ("val", "jpg/image_00004.jpg", first),
        ("test", "jpg/image_00006.jpg", last), ("test", "jpg/image_00005.jpg", twelfth),
    ]  # fmt: skip


def test_textures_come_with_the_first_of_their_splits(tmp_path):
    found = loaded("dtd", textures(tmp_path))
    assert [(p.split, p.sample_id, p.class_index) for p in found.pictures] == [
        (split, f"{name}/{name}_{part:04d}.jpg", index)
        for part, split in enumerate(("train", "val", "test"))
        for index, name in enumerate(("banded", "zigzagged"))
    ]
    assert found.pictures[0].uri == "dtd/images/banded/banded_0000.jpg" and found.about["group"] == "non-prototypical"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": (1, 2, 3, 4, 5, 103)}, r"imagelabels.mat: labels holds 103"),
        ({"labels": (1, 2, 3, 4, 5, 1.5)}, r"holds 1.5; expected whole numbers from 1 to 102"),
        ({"train": (0,)}, r"setid.mat: trnid holds 0"),
        ({"test": (7,)}, r"tstid holds 7; expected whole numbers from 1 to 6"),
        ({"test": (1,)}, r"listed more than once"),
    ],
)
def test_numbers_that_cannot_be_are_refused(change, says, tmp_path):
    with pytest.raises(DataError, match=says):
        loaded("flowers102", flowers(tmp_path, **change))


@pytest.mark.parametrize("data", [b"", b"no matlab file", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_damaged_matlab_file_is_one_error(data, tmp_path):
    (flowers(tmp_path) / "setid.mat").write_bytes(data)
    with pytest.raises(DataError, match=r"setid.mat (cannot be read as a MATLAB file|holds no 'trnid')"):
        loaded("flowers102", tmp_path)


def test_what_is_missing_of_the_makers_split_is_named(tmp_path):
    (flowers(tmp_path / "f") / "setid.mat").unlink()
    with pytest.raises(DataError, match=r"1 of what must stand in .*\n- setid.mat: the makers' split"):
        loaded("flowers102", tmp_path / "f")
    (textures(tmp_path / "d") / "dtd/labels/test1.txt").unlink()
    with pytest.raises(DataError, match=r"dtd/labels/test1.txt: the makers' split"):
        loaded("dtd", tmp_path / "d")


@pytest.mark.parametrize(("line", "says"), [("../x.jpg", "leads elsewhere"), ("x.jpg", "line 2: expected CLASS/FILE")])
def test_lines_that_are_no_pictures_are_refused(line, says, tmp_path):
    path = textures(tmp_path) / "dtd/labels/val1.txt"
    path.write_text(f"banded/banded_0001.jpg\n{line}\n")
    with pytest.raises(DataError, match=says):
        loaded("dtd", tmp_path)
