"""A reply and an item to a score in 0..1, by the name of a metric. Pure.

| metric | what it does | source |
|---|---|---|
| ``exact_match`` | equal up to case, punctuation, spaces | GQA, as the field scores it |
| ``vqa_accuracy`` | agreement with ten annotators | VQAv2; see ``vqa_accuracy`` for what is ours |
| ``anls`` | edit similarity from 0.5 on | DocVQA, ST-VQA |
| ``relaxed_accuracy`` | number within 5 % | ChartQA; percent and separators ours, ``extra.strict`` as published |
| ``yes_no`` | first yes or no | POPE, MME; reading ours |
| ``multiple_choice`` | letter, else the option's text; open answers where there are no options | MMMU and others; reading ours |
| ``mathvista`` | letter, number or text by the answer's type | MathVista; extraction by rule ours |
| ``substring`` | an answer stands in the reply | OCRBench |
| ``count_exact``, ``count_soft`` | the count; ``count_soft`` falls with the relative error | ours |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from runner.errors import DataError
from runner.nodes.vqa import metrics_choice, metrics_numbers, metrics_text
from runner.nodes.vqa.metrics_choice import LETTERS

Item = Mapping[str, Any]

MAX_REPLY = 20_000
"""Characters of a reply that are read; what a model says beyond is no answer."""


class Scored(NamedTuple):
    """What was read in a reply (None: nothing) and what that scores, 0..1."""

    parsed: str | None
    score: float


def score(metric: str, answer: str, item: Item) -> Scored:
    """Score a reply. ``item``: a row of ``vqa_item`` (``answers``, ``choices``, ``extra`` as JSON or a dict).

    Raises ``DataError`` for an unknown metric.
    """
    if metric not in METRICS:
        raise DataError(f"there is no metric {metric!r}; there are {', '.join(METRICS)}")
    return METRICS[metric](answer[:MAX_REPLY], item)


def extra(item: Item) -> dict[str, Any]:
    """What a scorer needs besides, as a dict."""
    held = item.get("extra") or {}
    return json.loads(held) if isinstance(held, str) else dict(held)


def _whole(reply: str) -> str | None:
    return reply.strip() or None


def _exact_match(reply: str, item: Item) -> Scored:
    return Scored(_whole(reply), metrics_text.exact_match(reply, item["answers"]))


def _vqa_accuracy(reply: str, item: Item) -> Scored:
    return Scored(metrics_text.vqa_normalised(reply) or None, metrics_text.vqa_accuracy(reply, item["answers"]))


def _anls(reply: str, item: Item) -> Scored:
    return Scored(_whole(reply), metrics_text.anls(reply, item["answers"]))


def _substring(reply: str, item: Item) -> Scored:
    return Scored(_whole(reply), metrics_text.contains(reply, item["answers"], spaces=extra(item).get("spaces", True)))


def _relaxed_accuracy(reply: str, item: Item) -> Scored:
    strict = bool(extra(item).get("strict"))
    best = max(metrics_numbers.relaxed_match(reply, text, strict=strict) for text in item["answers"])
    return Scored(_whole(reply), best)


def _yes_no(reply: str, item: Item) -> Scored:
    parsed = metrics_choice.yes_or_no(reply)
    return Scored(parsed, float(parsed is not None and parsed in {text.strip().lower() for text in item["answers"]}))


def _multiple_choice(reply: str, item: Item) -> Scored:
    if not item.get("choices"):
        return Scored(_whole(reply), metrics_numbers.open_match(reply, item["answers"]))
    parsed = metrics_choice.letter(reply, item["choices"])
    return Scored(parsed, float(parsed in item["answers"]))


def _mathvista(reply: str, item: Item) -> Scored:
    if item.get("choices"):
        return _multiple_choice(reply, item)
    about = extra(item)
    kind, precision = str(about.get("answer_type", "text")), about.get("precision")
    places = None if precision is None else int(precision)
    parsed = metrics_numbers.free_answer(reply, kind, places)
    return Scored(parsed, max(metrics_numbers.free_match(parsed, text, kind, places) for text in item["answers"]))


def _count(reply: str, item: Item, *, soft: bool) -> Scored:
    choices = item.get("choices") or []
    chosen = metrics_choice.letter(reply, choices) if choices else None
    said = metrics_numbers.count_in(choices[LETTERS.index(chosen)] if chosen else reply)
    truths = [choices[LETTERS.index(text)] if choices else text for text in item["answers"]]
    counts = [count for text in truths if (count := metrics_numbers.count_in(text)) is not None]
    best = max((metrics_numbers.count_score(said, true, soft=soft) for true in counts), default=0.0)
    return Scored(None if said is None else str(said), best)


METRICS: dict[str, Callable[[str, Item], Scored]] = {
    "exact_match": _exact_match,
    "vqa_accuracy": _vqa_accuracy,
    "anls": _anls,
    "relaxed_accuracy": _relaxed_accuracy,
    "yes_no": _yes_no,
    "multiple_choice": _multiple_choice,
    "mathvista": _mathvista,
    "substring": _substring,
    "count_exact": lambda reply, item: _count(reply, item, soft=False),
    "count_soft": lambda reply, item: _count(reply, item, soft=True),
}
"""Scorer by metric; the same names as ``runner.data.benchmarks.known.METRIC_NAMES``."""
