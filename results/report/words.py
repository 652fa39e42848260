"""Numbers and names as a reader wants them: rounded honestly, with units, safe beside any other text."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

NARROW = "\u202f"
DASH = NOTHING = "\u2013"
MINUS = "\u2212"
LONGEST = 160
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

VERDICTS = {
    "disfavoured": "worse",
    "favoured": "better",
    "no_evidence": "no evidence",
    "held_back": "held back",
    "not_testable": "not testable",
    "insufficient_data": "too few images",
    "undefined": "undefined",
}
STOPPED = {
    "decided": "a value was found",
    "futile": "gap excluded",
    "used_up": "pictures used up",
    "not_testable": "not testable",
}
AGREEMENTS = {
    "agrees": "agrees",
    "opposite": "opposite",
    "not_confirmed": "not confirmed",
    "missed": "missed",
    "nothing_to_find": "nothing to find",
    "unknown": "unknown",
}


def clean(text: Any, limit: int = LONGEST) -> str:
    """Plain text of at most ``limit`` characters; control and direction characters become a visible mark."""
    marked = "".join("\ufffd" if _steers(c) else c for c in str(text)[: limit + 1])
    return marked if len(marked) <= limit else marked[: limit - 1].rstrip() + "…"


def _steers(character: str) -> bool:
    return character in _DIRECTIONS or (unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t")


def named(text: Any, limit: int = LONGEST) -> Markup:
    """A name or text of others as HTML: escaped, and isolated so that its writing direction stays its own."""
    return Markup("<bdi>{}</bdi>").format(NOTHING if text is None else clean(text, limit))


def listed(texts: Iterable[Any], limit: int = 4) -> Markup:
    """``a, b and c``; beyond ``limit`` names ``a, b, c and 5 more``."""
    names = list(texts)
    shown = [named(name, 60) for name in names[:limit]]
    if len(names) > limit:
        shown.append(Markup("{} more").format(len(names) - limit))
    if len(shown) < 2:
        return shown[0] if shown else escape(NOTHING)
    return Markup("{} and {}").format(Markup(", ").join(shown[:-1]), shown[-1])


def percent(share: float | None) -> str:
    """``61 %``."""
    return NOTHING if share is None else f"{100 * share:.0f}{NARROW}%"


def percent_interval(low: float | None, high: float | None) -> str:
    """``51–70 %``."""
    return NOTHING if low is None or high is None else f"{100 * low:.0f}{DASH}{100 * high:.0f}{NARROW}%"


def score(value: float | None) -> str:
    """``61.3``: a share or cosine times 100, as the papers print scores."""
    return NOTHING if value is None else f"{100 * value:.1f}".replace("-", MINUS)


def score_interval(low: float | None, high: float | None) -> str:
    """``51.2–70.1``."""
    if low is None or high is None:
        return NOTHING
    between = " to " if low < 0 else DASH
    return f"{score(low)}{between}{score(high)}"


def figure(value: float | None) -> str:
    """``0.61``: an AUROC, a share or a distance with two decimals, three where it would else read as nothing; 0 is exactly that."""
    if value is None:
        return NOTHING
    shown = "0" if value == 0 else f"{value:.2f}" if abs(value) >= 0.005 else f"{value:.3f}"
    return shown.replace("-", MINUS)


def figure_interval(low: float | None, high: float | None) -> str:
    """``[0.51, 0.70]``."""
    return NOTHING if low is None or high is None else f"[{figure(low)}, {figure(high)}]"


def points(difference: float | None) -> str:
    """``+12`` or ``−23``: percentage points."""
    return NOTHING if difference is None else _signed(difference)


def points_interval(low: float | None, high: float | None) -> str:
    """``−33 to −12``."""
    return NOTHING if low is None or high is None else f"{_signed(low)} to {_signed(high)}"


def _signed(value: float) -> str:
    rounded = round(100 * value)
    return "0" if rounded == 0 else f"{rounded:+d}".replace("-", MINUS)


def size_of(difference: float | None) -> str:
    """``23 points``, without a sign."""
    if difference is None:
        return NOTHING
    rounded = round(100 * abs(difference))
    return f"{rounded} point{'' if rounded == 1 else 's'}"


def p_value(value: float | None) -> str:
    """``0.034``, or ``< 0.001``."""
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def whole(number: float | None) -> str:
    """``12 345`` with thin spaces."""
    return NOTHING if number is None else f"{number:,.0f}".replace(",", NARROW)


def duration(seconds: float | None) -> str:
    """``3.2 s``, ``6 min 40 s``, ``2 h 5 min``."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(value: datetime | None) -> str:
    """``20 November 2026, 10:15 UTC``."""
    return NOTHING if value is None else f"{value.day} {value:%B %Y, %H:%M} UTC"


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``12 images``."""
    return f"{whole(count)} {one if count == 1 else many or one + 's'}"


def byte_size(count: int | None) -> str:
    """``1.5 GB``, ``284.2 MB``: decimal units."""
    if count is None:
        return NOTHING
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def unpacked(text: str | None) -> Any:
    """The content of a JSON column; the text itself where it is no JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def cell(value: Any) -> Markup:
    """Any value of a results table."""
    if value is None:
        return escape(NOTHING)
    if isinstance(value, bool):
        return escape("yes" if value else "no")
    if isinstance(value, float):
        return escape(f"{value:.4g}")
    if isinstance(value, datetime):
        return escape(moment(value))
    if isinstance(value, (list, tuple)):
        return listed(value, 8)
    return named(value)


FILTERS = {
    f.__name__: f
    for f in (
        clean, named, listed, percent, percent_interval, score, score_interval, figure, figure_interval, points, points_interval, size_of, p_value, whole, duration, moment,
        plural, byte_size, unpacked, cell,
    )
}  # fmt: skip
"""What templates may call with ``|``."""
