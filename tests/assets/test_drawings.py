"""Vector drawings as hostile input, and the packed set of people."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from runner import assets
from runner.assets.drawing_builders import ICONS, drawing, filled_groups, openmoji, outline_icons
from runner.assets.packing import Index
from runner.errors import AssetError

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
FULL = '<g id="color"><path d="M0 0"/></g><g id="hair"><path/></g><g id="skin"><path/></g><g id="line"/>'


def emoji(hexcode: str, **changes: object) -> dict[str, object]:
    row = {"hexcode": hexcode, "subgroups": "person", "skintone": "", "annotation": "a person"}
    return row | {"openmoji_author": "Ada"} | changes


def staged(tmp_path: Path, drawings: dict[str, str], rows: list[dict[str, object]]) -> tuple[Path, Path]:
    staging, built = tmp_path / "staging", tmp_path / "built"
    (staging / "svg").mkdir(parents=True)
    built.mkdir()
    for name, inner in drawings.items():
        (staging / "svg" / f"{name}.svg").write_text(f"{HEAD}{inner}</svg>")
    (staging / "openmoji.json").write_text(json.dumps(rows))
    return staging, built


def test_only_single_untoned_people_with_all_groups_are_packed(tmp_path: Path) -> None:
    rows = [
        emoji("A"), emoji("B", skintone=3), emoji("C", subgroups="family"), emoji("D"), emoji("E"),
    ]  # fmt: skip
    bald = FULL.replace('<g id="hair"><path/></g>', '<g id="hair"/>')
    staging, built = staged(tmp_path, {"A": FULL, "B": FULL, "C": FULL, "D": bald}, rows)
    openmoji(staging, built, {})
    assert Index.read(built / "index.json").captions == {"A.svg": "a person"}
    assert json.loads((built / "authors.json").read_text()) == {"A.svg": "Ada"}
    with zipfile.ZipFile(built / "images.zip") as archive:
        assert archive.read("A.svg").decode() == f"{HEAD}{FULL}</svg>"


def test_a_package_without_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no person"):
        openmoji(*staged(tmp_path, {"A": "<g/>"}, [emoji("A")]), {})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"<svg", b"<html/>", b"<svg/>", b"\xff\xfe<\0s\0", HEAD.encode() + b"\xff</svg>", b"<svg>" + b" " * 2**20,
        b'<!DOCTYPE svg SYSTEM "file:///etc/hostname"><svg xmlns="http://www.w3.org/2000/svg"/>',
        b'<!DOCTYPE a [<!ENTITY b "bb">]><svg xmlns="http://www.w3.org/2000/svg">&b;</svg>',
        b"<?xml version='1.0' encoding='nonsense'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)  # fmt: skip
def test_what_is_no_plain_drawing_is_refused(data: bytes) -> None:
    with pytest.raises(AssetError):
        drawing(data)


@pytest.mark.assets
def test_the_packed_people() -> None:
    path = assets.ensure("openmoji").path
    authors = json.loads((path / "authors.json").read_text("utf8"))
    with zipfile.ZipFile(path / "images.zip") as archive:
        assert archive.namelist() == sorted(authors) and len(authors) == 155
        for name in archive.namelist():
            assert {"skin", "hair", "color", "line"} <= filled_groups(drawing(archive.read(name))).keys()
    with pytest.raises(AssetError, match="no image set"):
        assets.source_of("openmoji")


def test_chosen_icons_are_packed_with_what_they_depict(tmp_path: Path) -> None:
    names = {name: "<path/>" for held in ICONS.values() for name in held}
    staging, built = staged(tmp_path, {**names, "zzz": "<path/>"}, [])
    outline_icons(staging, built, {})
    captions = Index.read(built / "index.json").captions
    assert captions["teapot.svg"] == "cup" and len(captions) == len(names) and "zzz.svg" not in captions
    assert all(len(held) > 1 for held in ICONS.values())
    (staging / "svg" / "teapot.svg").unlink()
    with pytest.raises(AssetError, match="no icon teapot"):
        outline_icons(staging, built, {})
