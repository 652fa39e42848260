"""Strangers' words on a terminal: file names, labels, replies and keys may hold what steers it."""

from __future__ import annotations

import unicodedata

_STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def shown(text: object) -> str:
    """``text`` with control, direction and other invisible characters spelled out (``\\x1b``); lines and tabs stay."""
    said = str(text)
    return said if said.isascii() and said.isprintable() else "".join(map(_visible, said))


def on_one_line(text: object) -> str:
    """As ``shown``, with line breaks and tabs spelled out too."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _STEERING:
        return character
    return character.encode("unicode_escape").decode("ascii")
