"""What is not in an index, what a reader should know of the rest, and an example of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from runner.context import StepContext
from runner.data.sources import NOTES

MAX_EXAMPLES = 20

Example = list[str]
"""[reason, where, detail]"""


def examples(found: Iterable[Example]) -> list[Example]:
    """At most 20: the first of each reason, then the second of each, so that a frequent one hides no other."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, Example]] = []
    for example in found:
        if seen[example[0]] < MAX_EXAMPLES:
            ranked.append((seen[example[0]], example))
        seen[example[0]] += 1
    return [example for _, example in sorted(ranked, key=lambda pair: pair[0])[:MAX_EXAMPLES]]


def report(sources: Iterable[Mapping[str, Any]], ctx: StepContext) -> None:
    """Warn of what is not in the index and why, and apart from that of what is in it and should be known."""
    for source in sources:
        counts, shown = source["problems"]["counts"], source["problems"]["examples"]
        notes = {reason: count for reason, count in counts.items() if reason in NOTES}
        lost = {reason: count for reason, count in counts.items() if reason not in NOTES}
        for what, own in (("left out", lost), ("noted", notes)):
            if own:
                first: Example = next((example for example in shown if example[0] in own), [])
                listed = ", ".join(f"{count} {reason}" for reason, count in own.items())
                text = f"{what}: {listed}" + (f"; first: {' '.join(filter(None, first))}" if first else "")
                ctx.warn(text, item=source["source_id"])
        if not source["embedded"]:
            ctx.warn("no picture could be indexed", item=source["source_id"])
