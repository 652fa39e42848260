"""Target texts: from names in tables, folders and captions to the text of a class."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from runner.data.datasets.content import quoted, some
from runner.data.datasets.known import Known
from runner.errors import DataError

MAX_TEXT = 200
"""Characters of a target text: longer ones are no names."""

_MISSING = frozenset({"", "nan", "null", "n/a"})
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_END_OF_NAME = re.compile(r"[,;(\[{\u2014]|[.!?](?:\s|$)")
_QUOTES = re.compile('["\u201c\u201d\u201e\u00ab\u00bb]')


def one_line(text: str) -> str:
    """White space of any kind, control and format characters between words become one space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def class_name(text: str, where: str) -> str:
    """A class name as a table or folder has it, on one line.

    Raises ``DataError`` for what programs write where a value is missing, and for what is too long to be a name.
    """
    name = one_line(text)
    if name.casefold() in _MISSING:
        raise DataError(f"{where}: {quoted(text)} is no class name", hint="A value seems to be missing; fill it in.")
    if len(name) > MAX_TEXT:
        raise DataError(f"{where}: a class name of {len(name)} characters; at most {MAX_TEXT}: {quoted(name)}")
    return name


def optional_name(text: str, where: str) -> str | None:
    """A name as ``class_name`` gives it, or None for what programs write where a value is missing."""
    return None if one_line(text).casefold() in _MISSING else class_name(text, where)


def target_text(known: Known, name: str) -> str:
    """The text that answers are compared with: rename, ``_`` to space, lower case, each where the dataset's rule says so."""
    text = known.renames.get(name, name)
    if known.spaces:
        text = text.replace("_", " ")
    return class_name(text.lower() if known.lower else text, f"class {quoted(name)}")


def scene_of(folder: str) -> str:
    """SUN397's class key of a folder ``a/abbey`` or ``a/apse/indoor``: the variant comes first (``indoor apse``).

    A scene stands below a folder of one letter; where the folder above has a longer name, that is the scene and the
    lowest folder its variant.
    """
    *above, last = folder.strip("/").split("/")
    return last if not above or len(above[-1]) == 1 else f"{last} {above[-1]}"


def caption_target(caption: str | None, *, whole: bool = False) -> str | None:
    """The name with which a caption begins: up to a comma, bracket or full stop, without article, in lower case.

    ``whole`` keeps all of it, for captions that are names (``family: woman, girl``). None where nothing is left.
    """
    text = one_line(html.unescape(caption or "").replace("_", " "))
    if not whole:
        text = _ARTICLE.sub("", _END_OF_NAME.split(_QUOTES.sub("", text).strip(), maxsplit=1)[0])
    text = text.strip().lower()
    return text if 0 < len(text) <= MAX_TEXT and any(c.isalnum() for c in text) else None


def check_distinct(name: str, texts: Sequence[str], origins: Iterable[str] | None = None) -> None:
    """Raise ``DataError`` naming classes that would be the same text for a reader who ignores case."""
    seen: dict[str, list[str]] = {}
    for text, origin in zip(texts, texts if origins is None else origins, strict=True):
        seen.setdefault(text.casefold(), []).append(origin)
    for text, names in seen.items():
        if len(names) > 1:
            raise DataError(
                f"{name}: the classes {some(names, most=5)} have one and the same text, {quoted(text)}",
                hint="Answers could not tell them apart: merge them, or give each a name of its own.",
            )
