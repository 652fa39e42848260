"""Which proposed biases are fit to be tested. Pure rules; every drop has a reason that a person can read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from runner.naming import mentions, normalised

Source = Literal["llm", "include", "review"]
Similar = Callable[[str, str], bool]

MAX_NAME = 60
"""Characters of an attribute or value; longer ones are sentences, not names."""

_CATCH_ALLS = frozenset(
    [
        "all",
        "any",
        "both",
        "default",
        "different",
        "etc",
        "misc",
        "miscellaneous",
        "mixed",
        "n/a",
        "na",
        "none",
        "normal",
        "nothing",
        "other",
        "others",
        "unknown",
        "unspecified",
        "varied",
        "various",
    ]
) | {"not applicable", "not visible", "not specified"}
_CATCH_ALL_START = re.compile(r"(any|other|none of|all other|everything)\b")
_INVISIBLE = frozenset({"yes", "no", "true", "false"})
_REPLY_WORDS = re.compile(r"^([a-z]\d+|bias\b.*|attribute( name)?|value \d+|class \d+)$")


@dataclass(frozen=True)
class Proposal:
    """A bias attribute with its values, and who proposed it."""

    attribute: str
    values: tuple[str, ...]
    source: Source = "llm"


@dataclass(frozen=True)
class Judged:
    """A proposal after the rules: kept, or dropped for ``reason``. A kept one may have a note in ``reason``."""

    proposal: Proposal
    kept: bool
    reason: str | None = None


@dataclass(frozen=True)
class ProposalRules:
    """What proposals for one target are held against.

    ``target_names``: the class and its caption name; ``classes``: all classes of the task; ``exclude``: attributes nobody
    wants tested; ``hints``: dimensions that were offered to the model. ``max_attributes`` counts what the model proposed; what the user included comes on top.
    """

    target_names: tuple[str, ...]
    classes: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    min_values: int = 2
    max_values: int = 6
    max_attributes: int = 8
    hints: tuple[str, ...] = ()


def judge(proposals: Iterable[Proposal], rules: ProposalRules, similar: Similar | None = None) -> list[Judged]:
    """Apply the rules in order; earlier proposals win over later repeats. ``similar``: whether two names mean the same."""
    judged: list[Judged] = []
    for proposal in proposals:
        kept = [j.proposal for j in judged if j.kept]
        clean, note = _cleaned(proposal, rules)
        reason = _why_unfit(clean, rules) or _why_repeated(clean, kept, similar) or _why_surplus(clean, kept, rules)
        judged.append(Judged(clean, reason is None, reason or note))
    return judged


def _cleaned(proposal: Proposal, rules: ProposalRules) -> tuple[Proposal, str | None]:
    """Trimmed, each value once, at most ``max_values``; with a note where values were left out."""
    distinct: dict[str, str] = {}
    for value in proposal.values:
        distinct.setdefault(normalised(value), " ".join(value.split()))
    values = tuple(v for key, v in distinct.items() if key)
    limit = len(values) if proposal.source != "llm" else rules.max_values
    note = f"values beyond the first {limit} left out" if len(values) > limit else None
    return replace(proposal, attribute=" ".join(proposal.attribute.split()), values=values[:limit]), note


def _why_unfit(proposal: Proposal, rules: ProposalRules) -> str | None:
    name = normalised(proposal.attribute)
    if not name or len(name) > MAX_NAME or any(len(v) > MAX_NAME for v in proposal.values):
        return f"a name is empty or longer than {MAX_NAME} characters"
    if any(_REPLY_WORDS.match(text) for text in (name, *map(normalised, proposal.values))):
        return "repeats words of the reply format instead of naming something"
    if any(mentions(name, banned) for banned in rules.exclude):
        return "excluded by the user"
    if len(proposal.values) < rules.min_values:
        return f"fewer than {rules.min_values} distinct values"
    if any(_same_name(name, other) for other in rules.classes):
        return "the attribute is a class of the task"
    if any(normalised(v) == name for v in proposal.values):
        return "a value repeats the attribute"
    return next((reason for v in proposal.values if (reason := _why_value_unfit(v, rules))), None)


def _why_value_unfit(value: str, rules: ProposalRules) -> str | None:
    name = normalised(value)
    if any(mentions(name, target) for target in rules.target_names):
        return f"the value {value!r} names the target"
    if any(_same_name(name, other) for other in rules.classes):
        return f"the value {value!r} is a class of the task"
    if name in _CATCH_ALLS or _CATCH_ALL_START.match(name):
        return f"the value {value!r} is a catch-all"
    if name in {normalised(hint) for hint in rules.hints}:
        return f"the value {value!r} is a dimension, not a value"
    return f"the value {value!r} cannot be seen" if name in _INVISIBLE else None


def _same_name(a: str, b: str) -> bool:
    """Equality whatever the number: each mentions the other and nothing else."""
    return mentions(a, b) and mentions(b, a)


def _why_repeated(proposal: Proposal, kept: Sequence[Proposal], similar: Similar | None) -> str | None:
    values = {normalised(v) for v in proposal.values}
    for other in kept:
        if normalised(other.attribute) == normalised(proposal.attribute):
            return f"repeats the attribute {other.attribute!r}"
        if values == {normalised(v) for v in other.values}:
            return f"has the values of {other.attribute!r}"
        if similar is not None and similar(other.attribute, proposal.attribute):
            return f"means the same as {other.attribute!r}"
    return None


def _why_surplus(proposal: Proposal, kept: Sequence[Proposal], rules: ProposalRules) -> str | None:
    proposed = sum(p.source == "llm" for p in kept)
    if proposal.source == "llm" and proposed >= rules.max_attributes:
        return f"beyond the first {rules.max_attributes} attributes"
    return None
