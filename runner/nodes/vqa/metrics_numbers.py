"""Scores of numbers in replies: relaxed accuracy, counts, MathVista's free answers. Pure functions on texts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from runner.nodes.vqa.metrics_text import SMALL_NUMBERS

_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?(?!\d)")
_FRACTION = re.compile(r"\s*([-+]?\d+)\s*/\s*(\d+)\s*")
_CUE = re.compile(r"\banswer\b(?:\s+is|\s*[:=])", re.IGNORECASE)
_WORDS = (
    *SMALL_NUMBERS, "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_COUNT = re.compile(rf"\b(?:\d+|no|none|{'|'.join(_WORDS)})\b", re.IGNORECASE)
_MONEY = "$\u20ac\u00a3\u00a5"
MAX_DIGITS = 300
"""Longer runs of digits are no numbers: neither floats nor Python's integers take them."""


def number(text: str) -> tuple[float, bool] | None:
    """A text that is one number, and whether it is in percent; None where it is none.

    Thousands separators, a currency sign before and a full stop after are overlooked; ``50%`` gives (50, True).
    """
    bare = text.strip().rstrip(".").strip().lstrip(_MONEY).replace("\u2212", "-").replace(" %", "%")
    percent = bare.endswith("%")
    digits = bare.removesuffix("%").strip()
    if not _NUMBER.fullmatch(digits):
        return None
    value = float(digits.replace(",", "")) if len(digits) <= MAX_DIGITS else math.inf
    return (value, percent) if math.isfinite(value) else None


def relaxed_match(answer: str, truth: str, tolerance: float = 0.05, *, strict: bool = False) -> float:
    """ChartQA's relaxed accuracy (Masry et al., 2022): a number within 5 % of the true one, any other text equal.

    *Ours*: a percent sign on one side only is read both ways (42 and 0.42 for 42%); separators, currency signs and a last full
    stop do not matter; a true 0 must be met exactly. ``strict``: as the usual script, percent is a hundredth, nothing is overlooked,
    and a true 0 is compared as text.
    """
    if strict:
        return _strict_match(answer, truth, tolerance)
    said, true = number(answer), number(truth)
    if said is None or true is None:
        return float(_line(answer) == _line(truth))
    readings = [said[0]] if said[1] == true[1] else [said[0], said[0] / 100 if said[1] else said[0] * 100]
    return float(any(abs(value - true[0]) <= tolerance * abs(true[0]) for value in readings))


def _strict_match(answer: str, truth: str, tolerance: float) -> float:
    said, true = _strict(answer), _strict(truth)
    if said is not None and true:
        return float(abs(said - true) / abs(true) <= tolerance)
    return float(answer.strip().lower() == truth.strip().lower())


def _strict(text: str) -> float | None:
    try:
        return float(text.strip().rstrip("%")) / 100 if text.strip().endswith("%") else float(text)
    except ValueError:
        return None


def _line(text: str) -> str:
    return " ".join(text.split()).lower().rstrip(".")


def numbers_in(text: str) -> list[float]:
    """All numbers of a text, in order."""
    found = (match.group().replace(",", "").replace("\u2212", "-") for match in _NUMBER.finditer(text))
    values = [float(digits) for digits in found if 0 < len(digits) <= MAX_DIGITS]
    return [value for value in values if math.isfinite(value)]


def count_in(text: str) -> int | None:
    """The count that a reply gives: its first whole number, in digits or in words up to twenty; None without one."""
    found = _COUNT.search(text)
    if found is None:
        return None
    word = found.group().lower()
    if word.isdecimal():
        return int(word) if len(word) <= MAX_DIGITS else None
    return 0 if word in ("no", "none") else _WORDS.index(word)


def count_score(said: int | None, true: int, *, soft: bool = False) -> float:
    """1 for the right count. ``soft`` (*ours*): max(0, 1 - |said - true| / max(true, 1))."""
    if said is None:
        return 0.0
    if not soft:
        return float(said == true)
    # Whole numbers, since a reply may hold one that no float takes.
    return max(0.0, 1 - min(abs(said - true), true + 1) / max(true, 1))


def after_cue(text: str) -> str:
    """What follows the last "answer is" or "answer:", else the whole text."""
    cues = list(_CUE.finditer(text))
    return text[cues[-1].end() :] if cues else text


def free_answer(reply: str, answer_type: str, precision: int | None) -> str | None:
    """What MathVista compares with the truth (Lu et al., 2024), by the type of the answer: ``integer``, ``float``, ``list``, ``text``.

    *Ours*: read by rule (after "answer is", else the last number), where the official script asks a language model to extract.
    """
    said = after_cue(reply)
    if answer_type == "list":
        values = numbers_in(said)
        return str([int(v) if v.is_integer() else v for v in values]) if values else None
    if answer_type not in ("integer", "float"):
        return _line(said) or None
    fraction = _FRACTION.fullmatch(said.strip().rstrip("."))
    if fraction and int(fraction[2][:MAX_DIGITS]) > 0:
        values = numbers_in(fraction[1])[:1]
        divisors = numbers_in(fraction[2])
        values = [values[0] / divisors[0]] if values and divisors else []
    else:
        values = numbers_in(said)
    if not values:
        return None
    value = values[0] if said != reply else values[-1]
    return str(int(value)) if answer_type == "integer" else rounded(value, precision)


def rounded(value: float, precision: int | None) -> str:
    """A float as MathVista writes it: rounded to ``precision`` places (None: 2)."""
    return str(round(value, 2 if precision is None else precision))


def free_match(parsed: str | None, truth: str, answer_type: str, precision: int | None) -> float:
    """1 where what ``free_answer`` read is the truth in the same writing."""
    if parsed is None:
        return 0.0
    if answer_type in ("integer", "float", "list"):
        return float(parsed == free_answer(truth, answer_type, precision))
    return float(parsed == _line(truth))


def open_match(reply: str, accepted: Sequence[str]) -> float:
    """1 where a reply holds an accepted answer: a number (to 2 places), else a text as whole words (MMMU's open questions)."""
    said = {round(value, 2) for value in numbers_in(after_cue(reply))}
    line = f" {_line(reply)} "
    for text in accepted:
        true = number(text)
        if true is not None and round(true[0], 2) in said:
            return 1.0
        if true is None and text.strip() and re.search(rf"(?<!\w){re.escape(_line(text))}(?!\w)", line):
            return 1.0
    return 0.0
