"""What a judge of open-ended answers looks for, how its replies are read, and a judge of rules that needs no model.

An answer is compared with a list of reference ideas: requests that would help, then the right category where the protocol asks for it. A judge
gives one bit an idea. Source: arXiv 2603.19466 (lists of ideas, prompt, aggregates) and its published code (the way ``published`` of
reading replies). The stricter reading, the retry that it allows and the rules are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from runner.nodes.proactive.judge_words import ideas_in, mentions

if TYPE_CHECKING:
    from runner.nodes.proactive.records import Record
    from runner.nodes.proactive.texts import Texts

JudgeReading = Literal["last_line", "reference"]

MOST_CHARACTERS = 1_000_000
_THOUGHT_END = re.compile(r"\A.*</think\s*>", re.DOTALL | re.IGNORECASE)
_THOUGHT_START = re.compile(r"<think\s*>", re.IGNORECASE)
_WRAPPING = " \t\r*`_.[]()"
_BITS = re.compile(r"[01](?:\s*,\s*[01])*")


class Bits(NamedTuple):
    """One bit an idea, in order; all 0 where the reply could not be read (``parse_ok`` False)."""

    bits: tuple[int, ...]
    parse_ok: bool


class Aggregate(NamedTuple):
    """``ps``: one of the requests is there; ``cc``: the right category is; ``agg``: one of both."""

    ps: bool
    cc: bool
    agg: bool


class References(NamedTuple):
    """``texts``: ideas that are looked for, the first ``n_proactive`` of them requests."""

    texts: tuple[str, ...]
    n_proactive: int


# --- replies -----------------------------------------------------------------------------------------------------------


def parse_bits(reply: str, n: int, *, reading: JudgeReading = "last_line") -> Bits:
    """The ``n`` bits in a judge's reply; never raises.

    ``last_line`` (ours): after any thoughts, the last line that is not blank holds ``n`` digits 0 or 1 with commas between, and nothing
    else but brackets or marks of emphasis around them; thoughts that never end are no reply. ``reference`` (published code): the last
    such list anywhere after the thoughts; another number of digits than ``n`` counts as all 0.
    """
    text = reply[-MOST_CHARACTERS:]
    said = _THOUGHT_END.sub("", text)
    if reading == "reference":
        found = [match.group() for match in _BITS.finditer(said)]
        return _bits(found[-1] if found else "", n)
    if _THOUGHT_START.search(said):
        return _unread(n)
    lines = [line.strip(_WRAPPING) for line in said.splitlines() if line.strip()]
    return _bits(lines[-1], n) if lines and _BITS.fullmatch(lines[-1]) else _unread(n)


def _bits(text: str, n: int) -> Bits:
    found = tuple(int(part) for part in text.split(",")) if text else ()
    return Bits(found, True) if len(found) == n else _unread(n)


def _unread(n: int) -> Bits:
    return Bits((0,) * n, False)


def aggregate(bits: Sequence[int], n_proactive: int) -> Aggregate:
    """Requests and category of one answer; ``cc`` is False where no category is among the ideas (ROD, MVP-N as published)."""
    ps, cc = any(bits[:n_proactive]), any(bits[n_proactive:])
    return Aggregate(ps, cc, ps or cc)
