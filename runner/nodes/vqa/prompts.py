"""The text that asks a model an item's question. Pure.

Most benchmarks append an instruction to the question. The published wordings differ between evaluation tools and none is fixed by the
benchmarks; these are our own, so figures are comparable among models of one results file and only roughly with published ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runner.nodes.vqa.metrics_choice import LETTERS

Item = Mapping[str, Any]

SHORT = "Reply with one word or a short phrase."
BRIEF = "Reply with the answer as it is written in the picture, and nothing else."
LETTER = "Reply with the letter of the right option, and nothing else."
YES_NO = "Reply with yes or no."
COUNT = "Reply with a whole number, and nothing else."
CHART = "Reply with one word or one number, and nothing else."
UNANSWERABLE = "If the picture does not show it, reply: unanswerable."

_BY_KNOWN = {
    "vizwiz": f"{UNANSWERABLE} {SHORT}",
    "docvqa": BRIEF,
    "infographicvqa": BRIEF,
    "textvqa": SHORT,
    "ocrbench": BRIEF,
}
_BY_METRIC = {
    "exact_match": SHORT, "vqa_accuracy": SHORT, "anls": BRIEF, "relaxed_accuracy": CHART, "yes_no": YES_NO, "multiple_choice": SHORT,
    "substring": BRIEF, "count_exact": COUNT, "count_soft": COUNT,
}  # fmt: skip
_MATH = {
    "integer": "Reply with a whole number, and nothing else.",
    "list": "Reply with a list of numbers such as [1, 2], and nothing else.",
    "text": SHORT,
}
MAX_TEXT = 8_000
"""Characters of a question, an option or a hint that are shown."""


def prompt(benchmark: Mapping[str, Any], item: Item) -> str:
    """What a model is asked: context, question, lettered options, instruction, a part a line.

    ``benchmark``: its entry in ``VqaItems.benchmarks``; ``extra.context`` of an item (a hint, a lecture) comes first. Pictures are
    not marked: whoever asks puts them before the text.
    """
    extra = item.get("extra") or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    lines = [f"Context: {_bounded(extra['context'])}"] if extra.get("context") else []
    lines.append(_bounded(item["question"], keep_lines=True))
    if item.get("choices"):
        lines += lettered(item["choices"])
    return "\n".join([*lines, _instruction(benchmark, item, extra)]).rstrip()


def lettered(choices: Sequence[str]) -> list[str]:
    """Options, one a line: ``A. text``."""
    return [f"{LETTERS[i]}. {_bounded(choice)}" for i, choice in enumerate(choices)]


def _instruction(benchmark: Mapping[str, Any], item: Item, extra: Mapping[str, Any]) -> str:
    if item.get("choices"):
        return LETTER
    metric = str(benchmark["metric"])
    if metric == "yes_no" and "yes or no" in str(item["question"]).lower():  # MME's questions say so themselves
        return ""
    if metric == "mathvista":
        kind = str(extra.get("answer_type", "text"))
        return (
            f"Reply with a number with {_places(extra)}, and nothing else."
            if kind == "float"
            else _MATH.get(kind, SHORT)
        )
    return _BY_KNOWN.get(str(benchmark.get("known")), _BY_METRIC.get(metric, SHORT))


def _places(extra: Mapping[str, Any]) -> str:
    places = 2 if extra.get("precision") is None else int(extra["precision"])
    return f"{places} decimal place{'' if places == 1 else 's'}"


def _bounded(text: str, *, keep_lines: bool = False) -> str:
    """A text of a data set as data: without marks of pictures, of bounded length, on one line unless lines matter."""
    bare = text.replace("<image>", " ")[:MAX_TEXT]
    return bare.strip() if keep_lines else " ".join(bare.split())
