"""The captions that packaged pictures bring along: CLDR names of emoji, stamp texts, clip-art titles and keywords."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

VARIATION_SELECTOR = "\ufe0f"
SKIN_TONES = frozenset(range(0x1F3FB, 0x1F400))
KEYWORDS_IN_CAPTION = 4


_CODE_POINTS = re.compile(r"[0-9a-f]{2,6}(?:[-_][0-9a-f]{2,6})*")


def characters(code_points: str) -> str | None:
    """``"1f469-200d-2695-fe0f"`` -> the characters, without U+FE0F (CLDR writes its keys without it).

    None when the text is not a sequence of code points.
    """
    if not _CODE_POINTS.fullmatch(code_points):
        return None
    points = [int(point, 16) for point in re.split("[-_]", code_points)]
    if max(points) > 0x10FFFF:
        return None
    return "".join(map(chr, points)).replace(VARIATION_SELECTOR, "")


def has_skin_tone(text: str) -> bool:
    """Whether an emoji is a toned version of another one (a modifier that stands alone is not)."""
    return len(text) > 1 and any(ord(char) in SKIN_TONES for char in text)


def emoji_groups(file: Path) -> dict[str, str]:
    """Group (``Food & Drink``, ``Flags``, ...) by characters, from the asset ``emoji-groups``."""
    table = json.loads(file.read_text("utf8"))
    return {emoji.replace(VARIATION_SELECTOR, ""): row["group"] for emoji, row in table.items()}


def group_of(text: str, groups: Mapping[str, str]) -> str | None:
    """Group of an emoji, toned or not. What only exists with skin tones is a person, or a tone by itself."""
    base = "".join(char for char in text if ord(char) not in SKIN_TONES)
    return groups.get(base, "People & Body" if base != text else None)


def cldr_names(folder: Path) -> dict[str, str]:
    """English names by characters, from the asset ``cldr-annotations`` (the derived file has the skin tones)."""
    names: dict[str, str] = {}
    for file, key in (("derived.json", "annotationsDerived"), ("annotations.json", "annotations")):
        table = json.loads((folder / file).read_text("utf8"))[key]["annotations"]
        names.update({chars: row["tts"][0] for chars, row in table.items() if row.get("tts")})
    return names


def stamp_caption(text: str) -> str | None:
    """The first line of a stamp's text file: its English description."""
    return text.partition("\n")[0].strip() or None


_TITLE = re.compile(r"<dc:title>([^<]*)</dc:title>")
_KEYWORD = re.compile(r"<rdf:li>([^<]*)</rdf:li>")


def clipart_texts(svg: str) -> tuple[str, list[str]]:
    """Title and keywords in the metadata of an SVG drawing; empty where it has none."""
    title = _TITLE.search(svg)
    keywords = [_plain(word) for word in _KEYWORD.findall(svg)]
    return _plain(title[1]) if title else "", [word for word in keywords if word]


def clipart_caption(title: str, keywords: Iterable[str]) -> str:
    """The title, then the first four keywords: ``"Flying Wasp, insect, animal, wasp"``."""
    return ", ".join([title, *list(keywords)[:KEYWORDS_IN_CAPTION]])


def _plain(text: str) -> str:
    return " ".join(html.unescape(text).split())
