"""Vector drawings: read as hostile input, packed as they are."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from runner.assets.packing import Picture, pack, write_json
from runner.errors import AssetError

AUTHORS = "authors.json"
PEOPLE = frozenset({"person", "person-role", "person-fantasy", "person-gesture", "person-activity"})
GROUPS = ("skin", "hair", "color")
"""Groups that a drawing must have, each with something in it: skin, hair, and what else is coloured."""

SVG = "{http://www.w3.org/2000/svg}"
MOST_BYTES = 1 << 20


def drawing(data: bytes) -> ElementTree.Element:
    """The root of an SVG. Raises ``AssetError`` for what is none, and for document types: they can name files and grow."""
    if len(data) > MOST_BYTES or b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data:
        raise AssetError("refused: a drawing that is huge, not plain text, or has a document type")
    try:
        root = ElementTree.fromstring(data)  # noqa: S314  document types, which the attacks need, are refused above
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AssetError(f"a drawing is damaged: {error}") from error
    if root.tag != f"{SVG}svg":
        raise AssetError("a drawing is no SVG")
    return root


def filled_groups(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """Top groups of a drawing by name, those that hold anything."""
    return {group.get("id", ""): group for group in root if group.tag == f"{SVG}g" and len(group)}


def openmoji(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """Single people of OpenMoji without a skin tone whose skin, hair and clothes are groups of their own, and their authors."""
    rows = json.loads((staging / "openmoji.json").read_text("utf8"))
    pictures, authors = {}, {}
    for row in rows:
        path = staging / "svg" / f"{row['hexcode']}.svg"
        if row["subgroups"] not in PEOPLE or row["skintone"] or not path.is_file():
            continue
        if set(GROUPS) <= filled_groups(drawing(path.read_bytes())).keys():
            pictures[path.name] = Picture(path, row["annotation"])
            authors[path.name] = row["openmoji_author"]
    if not pictures:
        raise AssetError("the package holds no person whose skin, hair and clothes are groups of their own")
    pack(pictures, built)
    write_json(built / AUTHORS, authors)


ICONS: dict[str, tuple[str, ...]] = {
    "airplane": ("plane", "plane-inflight"),
    "ball": ("ball-basketball", "ball-football", "ball-tennis", "ball-volleyball"), "bell": ("bell", "bell-school"),
    "book": ("book", "book-2", "notebook"), "bottle": ("bottle", "milk"), "bus": ("bus", "bus-stop"),
    "cake": ("cake", "cake-roll"), "camera": ("camera", "polaroid"), "car": ("car", "car-suv"),
    "castle": ("building-castle", "building-fortress"),
    "chair": ("armchair", "armchair-2", "chair-director", "rocking-chair"), "clock": ("clock", "alarm", "clock-2"),
    "cloud": ("cloud", "cloud-rain"), "cup": ("cup", "coffee", "mug", "teapot"),
    "egg": ("egg", "egg-fried", "egg-cracked"), "fish": ("fish", "fish-bone"),
    "flag": ("flag", "flag-2", "flag-3", "pennant"), "flask": ("flask", "flask-2"), "flower": ("flower", "plant-2"),
    "ghost": ("ghost", "ghost-2", "ghost-3"), "glass": ("glass", "glass-full", "glass-champagne", "glass-cocktail"),
    "heart": ("heart", "heart-broken"), "helicopter": ("helicopter", "helicopter-landing"),
    "horse": ("horse", "horse-toy"), "hourglass": ("hourglass", "hourglass-empty"),
    "house": ("home", "home-2", "building-cottage"), "ice cream": ("ice-cream", "ice-cream-2"),
    "lamp": ("lamp", "lamp-2"), "leaf": ("leaf", "leaf-2", "leaf-maple"), "lemon": ("lemon", "lemon-2"),
    "medal": ("medal", "medal-2"), "moon": ("moon", "moon-2"), "phone": ("phone", "device-mobile"),
    "pig": ("pig", "pig-money"), "robot": ("robot", "robot-face"), "sailboat": ("sailboat", "sailboat-2"),
    "shirt": ("shirt", "shirt-sport"), "star": ("star", "stars"), "sun": ("sun", "sun-high"),
    "sword": ("sword", "swords"), "tree": ("tree", "trees", "christmas-tree"),
    "truck": ("truck", "firetruck", "rv-truck"), "umbrella": ("umbrella", "umbrella-2", "beach"),
}  # fmt: skip
"""What is taken of the outline icons: their names by what they depict, two or more of each. Ours."""


def outline_icons(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """Outline icons of common things as they are, captioned with what they depict. Raises ``AssetError`` where one is not there."""
    pictures = {}
    for depicted, names in ICONS.items():
        for path in (staging / "svg" / f"{name}.svg" for name in names):
            if not path.is_file():
                raise AssetError(f"the package holds no icon {path.stem}")
            drawing(path.read_bytes())
            pictures[path.name] = Picture(path, depicted)
    pack(pictures, built)
