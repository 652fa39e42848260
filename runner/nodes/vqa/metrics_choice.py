"""What a reply chooses: a letter of lettered options, or yes or no. Pure functions on texts.

A reply in which nothing can be read gives None and scores 0 (*ours*: some official scripts then guess at random or take yes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from runner.nodes.vqa.metrics_numbers import after_cue
from runner.nodes.vqa.metrics_text import plain

LETTERS = ascii_uppercase
"""Names of options, in order."""

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_EDGE = re.compile(r"^[\s*_\"'(\[{]*([A-Za-z])[\s*_\"')\]}]*(?:$|[.):,\]](?:\s|$))")
_CUED = re.compile(
    r"(?i:\banswer(?:\s+is)?|\boption|\bchoice|\bchoose)\s*[:=]?\s*(?i:option\s+)?[*_\"'(\[{]*"
    r"([A-Z](?![\w'])|[a-z](?=[\s*_\"')\]}.,]*$|[)\]]))"
)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*\(?([A-Za-z])\)?\s*\}")
_WRAPPED = re.compile(r"[(\[]([A-Z])[)\]]")
_MARKED = re.compile(r"(?<!\w)([A-Z])[.):](?!\w)")
_BARE = re.compile(r"(?<![\w'])(?![AI]\s+[a-z])([A-Z])(?![\w'])")


def yes_or_no(reply: str) -> str | None:
    """``yes`` or ``no``, whichever stands first as a word of its own."""
    found = _YES_NO.search(reply)
    return found[1].lower() if found else None


def letter(reply: str, options: Sequence[str]) -> str | None:
    """The letter of the option that a reply names, or None.

    In this order: an option's text that is the reply, or what follows "answer is"; a letter that is the reply or begins it ("B", "(b)",
    "B. text"); one announced ("the answer is B", a box); one letter in brackets, or before a full stop or colon; one option whose text
    stands in the reply as whole words; one capital on its own (not "A" and "I" as words). Where several of a kind differ, none.
    """
    letters = LETTERS[: len(options)]
    said = plain(reply)
    for text in (said, plain(after_cue(reply))):
        same = [letters[i] for i, option in enumerate(options) if text and plain(option) == text]
        if len(same) == 1 and not (len(text) == 1 and text in letters.lower()):
            return same[0]
    for pattern in (_EDGE, _BOXED, _CUED):
        found: list[str] = [match.upper() for match in pattern.findall(reply) if match.upper() in letters]
        if found:
            return found[-1]
    for pattern in (_WRAPPED, _MARKED):
        named: list[str] = sorted({match for match in pattern.findall(reply) if match in letters})
        if named:
            return named[0] if len(named) == 1 else None
    return _by_text(said, options, letters) or _bare(reply, letters)


def _by_text(said: str, options: Sequence[str], letters: str) -> str | None:
    """The one option whose text stands in the reply; an option that is part of another one found does not count."""
    texts = [plain(option) for option in options]
    there = [i for i, text in enumerate(texts) if text and f" {text} " in f" {said} "]
    held = {j for j in there for i in there if texts[i] != texts[j] and f" {texts[j]} " in f" {texts[i]} "}
    outer = [i for i in there if i not in held]
    return letters[outer[0]] if len(outer) == 1 else None


def _bare(reply: str, letters: str) -> str | None:
    found = {match for match in _BARE.findall(reply) if match in letters}
    return found.pop() if len(found) == 1 else None
