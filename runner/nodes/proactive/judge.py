"""What a judge of open-ended answers looks for, how its replies are read, and a judge of rules that needs no model.

An answer is compared with a list of reference ideas: requests that would help, then the right category where the protocol asks for it. A judge
gives one bit an idea. Source: arXiv 2603.19466 (lists of ideas, prompt, aggregates) and its published code (the way ``published`` of
reading replies). The stricter reading, the retry that it allows and the rules are ours.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from runner.nodes.proactive.judge_words import ideas_in, mentions
from runner.nodes.proactive.matching import without_reasoning
from runner.nodes.proactive.records import Record, actions_named, is_abstention

if TYPE_CHECKING:
    from runner.nodes.proactive.texts import Texts

JudgeReading = Literal["last_line", "reference"]

MOST_CHARACTERS = 1_000_000
_THOUGHT_END = re.compile(r"\A.*</think\s*>", re.DOTALL | re.IGNORECASE)
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

    ``last_line`` (ours): after any thoughts, the last line that is more than marks of a fence holds ``n`` digits 0 or 1 with commas between,
    and nothing else but brackets or marks of emphasis around them; thoughts that never end are no reply. ``reference`` (published code): the last
    such list anywhere after the thoughts; another number of digits than ``n`` counts as all 0.
    """
    text = reply[-MOST_CHARACTERS:]
    if reading == "reference":
        found = [match.group() for match in _BITS.finditer(_THOUGHT_END.sub("", text))]
        return _bits(found[-1] if found else "", n)
    lines = [bare for line in without_reasoning(text).splitlines() if (bare := line.strip(_WRAPPING))]
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


# --- ideas -------------------------------------------------------------------------------------------------------------


def references(record: Record, texts: Texts, *, labelled: bool = False) -> References:
    """The ideas looked for in answers to a sample: requests, then the right category where its scenario's list names it.

    ``labelled`` (ours): the category is looked for in every scenario, without which open episodes of ROD and MVP-N could never succeed.
    """
    listed = texts.references.get(record.scenario, ())
    requests = [_filled(text, record) for text in listed if "{label}" not in text]
    wants_label = labelled or len(requests) < len(listed)
    named = [text.replace("{label}", label_of(record)) for text in listed if "{label}" in text] or [label_of(record)]
    return References((*requests, *(named if wants_label else ())), len(requests))


def label_of(record: Record) -> str:
    """The right category as words: without its full stop, and (ours; published are the full stops alone) blanks in place of underscores."""
    return record.answer.replace("_", " ").rstrip(". ")


def _filled(text: str, record: Record) -> str:
    """Slots of ``references`` with what the sample holds."""
    waits = (o for o in record.options if not is_abstention(o) and actions_named(record.scenario, o) == ("wait",))
    values = {"{quality}": record.quality_answer or "improve the image", "{wait}": next(waits, "wait")}
    return re.sub(r"\{\w+\}", lambda found: values.get(found[0], found[0]).rstrip(". "), text)


# --- a judge of rules --------------------------------------------------------------------------------------------------


def rule_bits(answer: str, ideas: References) -> tuple[int, ...]:
    """One bit an idea by rules alone: a request by the words of ``judge_words.yaml``, a category by its own words.

    A request whose words the file does not know counts where the answer repeats it.
    """
    said = ideas_in(answer)
    found = [_requests(said, answer, idea) for idea in ideas.texts[: ideas.n_proactive]]
    return tuple(map(int, [*found, *(mentions(answer, name) for name in ideas.texts[ideas.n_proactive :])]))


_ideas_of = functools.lru_cache(maxsize=4096)(ideas_in)


def _requests(said: frozenset[str], answer: str, idea: str) -> bool:
    wanted = _ideas_of(idea)
    return bool(said & wanted) if wanted else mentions(answer, idea)
