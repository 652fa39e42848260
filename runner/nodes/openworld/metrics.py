"""Metrics of open-world classification: free text against one class name. Pure functions on arrays and strings.

Sources: "On Large Multimodal Models as Open-World Image Classifiers" (arXiv 2503.21851) for text inclusion, exact match,
semantic and concept similarity and judged inclusion; "Large Multimodal Models as General In-Context Classifiers"
(arXiv 2602.23229) for the median concept similarity and the intersection over union of words.
"""

from __future__ import annotations

from typing import Literal

from runner.nodes.inclusion import text_inclusion

__all__ = ["JudgeParse", "parse_judge_reply", "text_inclusion"]

JudgeParse = Literal["strict", "first_digit", "constrained"]


def parse_judge_reply(reply: str, mode: JudgeParse = "strict") -> int | None:
    """The verdict in a judge's reply: 1 = a good answer, 0 = not, None = unparsable.

    ``strict`` (the published rule, the comparable one): the reply is exactly "0" or "1", so that "1.", " 1" and "Yes" are
    unparsable. ``first_digit``: the first digit of the reply, where it is 0 or 1. ``constrained``: for servers that were
    allowed nothing but the two choices; white space and quotation marks around the choice are ignored.
    """
    if mode == "first_digit":
        reply = next((character for character in reply if character in "0123456789"), "")
    elif mode == "constrained":
        reply = reply.strip().strip("\"'").strip()
    elif mode != "strict":
        raise ValueError(f"unknown way to read a judge's reply: {mode!r}; it is strict, first_digit or constrained")
    return {"0": 0, "1": 1}.get(reply)
