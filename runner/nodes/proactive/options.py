"""What may be chosen in a turn."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["ask", "abstain", "category"]


class Option(NamedTuple):
    """``valid``: the right category (where it counts), or a request that helps now; ``action``: what the request asks for."""

    text: str
    kind: Kind
    valid: bool
    action: str | None


def option_kind(option: Option) -> str:
    """``ask_valid``, ``ask_invalid``, ``abstain``, ``category_true`` or ``category_false``: never shown to a policy."""
    if option.kind == "abstain":
        return "abstain"
    names = ("ask_invalid", "ask_valid") if option.kind == "ask" else ("category_false", "category_true")
    return names[option.valid]
