"""Reading a judge's reply about a concept list: a score from 1 to 5, and a theme where one was asked for.

Lenient about form (markdown, order, further lines, ``3/5``, brackets, reasoning in front), strict about content: only one
whole number from 1 to 5 that stands behind the word "score", or alone, is a score.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from agents.prompting import one_line

THEME_CHARACTERS = 60
_READ_CHARACTERS = 20_000

_THOUGHT = re.compile(r"^.*</think>", re.DOTALL | re.IGNORECASE)
_DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------")
_MARKS = re.compile("[*_`#\"'\u201c\u201d\u2018\u2019]")
_LABEL = r"\bscore(?:[ \t]*\([^()\n]{0,20}\))?(?:\s*[:=]\s*|[ \t]*-(?=\s)[ \t]*|[ \t]+(?:is|of)\b[ \t]*|[ \t]*)"
_NUMBER = r"[\[(<{ \t]*(?P<number>[-+]?\d+(?:[.,]\d+)?)(?:\s*(?:/|out of)\s*(?P<scale>\d+))?"
_SCORE = re.compile(_LABEL + _NUMBER + r"(?P<after>[^\n]{0,12})", re.IGNORECASE)
_ALONE = re.compile(r"\s*" + _NUMBER + r"(?P<after>[\])>}.\s]*)")
_THEME = re.compile(r"\btheme[ \t]*(?:[:=]|-(?=\s))[ \t]*(?P<theme>[^\n]*)", re.IGNORECASE)
_SCORE_BEHIND = re.compile(r"[,;]?\s*\bscore\s*[:=]", re.IGNORECASE)
_GOES_ON = re.compile(r"\s*%|[\])>}]*\s*(?:[-/]|to\b|or\b)\s*\d|\w")
_NO_THEME = frozenset({"", "none", "no", "no theme", "n/a", "na", "null", "nothing", "unclear"})
_SCORES = frozenset("12345")


class Reading(NamedTuple):
    """``score``: 1..5; ``theme``: what the list is about, None where the judge named none."""

    score: int
    theme: str | None


def read_reply(text: str) -> Reading:
    """The score and theme in a reply. Raises ``ValueError`` whose message can be shown to the judge.

    Several scores are read only where they are the same: a judge that says 2 and then 4 has not decided.
    """
    said = unicodedata.normalize("NFKC", _THOUGHT.sub("", text[-_READ_CHARACTERS:]))
    plain = _MARKS.sub("", said.translate(_DASHES))
    found = list(_SCORE.finditer(plain))
    if not found and (alone := _ALONE.fullmatch(plain)):
        found = [alone]
    if not found:
        raise ValueError("there is no whole number from 1 to 5 behind the word Score")
    scores = {_score(match) for match in found}
    if len(scores) > 1:
        raise ValueError(f"there is more than one score: {', '.join(map(str, sorted(scores)))}")
    return Reading(scores.pop(), _theme(plain))


def _score(match: re.Match[str]) -> int:
    """The number of one match, if it is 1, 2, 3, 4 or 5 and not a part of something else."""
    said = one_line(match.group().strip(), 40)
    if match["number"] not in _SCORES or match["scale"] not in (None, "5") or _GOES_ON.match(match["after"]):
        raise ValueError(f"{said!r} is not one whole number from 1 to 5")
    return int(match["number"])


def _theme(plain: str) -> str | None:
    """The first theme named, without brackets and full stop, cut before a score on the same line."""
    match = _THEME.search(plain)
    return None if match is None else clean_theme(_SCORE_BEHIND.split(match["theme"])[0])


def clean_theme(theme: str | None) -> str | None:
    """A theme as results carry it: one line, bounded; None for "none" and its like."""
    text = one_line(theme or "", THEME_CHARACTERS).strip("[](){}<>.,;:| ")
    return None if text.casefold() in _NO_THEME else text
