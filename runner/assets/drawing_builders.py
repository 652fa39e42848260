"""Vector drawings whose parts stand in groups of their own: read as hostile input, packed as they are."""

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
