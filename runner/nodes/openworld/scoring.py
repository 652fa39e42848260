"""From answers to one row of scores each: every distinct text is parsed, embedded and judged once, then gathered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.naming import comma_items
from runner.nodes.openworld.concepts import Chunker, Concept, Spans, concepts_of
from runner.nodes.openworld.metrics import (
    ConceptSimilarity,
    Encode,
    concept_similarity,
    embed_distinct,
    error_quadrants,
    exact_match,
    indexed_similarity,
    mean_average_similarity,
    text_inclusion,
    textual_iou,
)

Row = dict[str, Any]
Values = NDArray[np.float64]
Pair = tuple[str, str]
Progress = Callable[[Iterable[Spans], int], Iterable[Spans]]

QUADRANTS = ("hit_close", "hit_far", "miss_close", "miss_far")
CATEGORIES = ("specific", "less specific", "generic", "more specific", "wrong", "abstain")
KEY = ("method", "prompt_key", "model", "dataset", "sample_id", "seed")


class Verdict(NamedTuple):
    """What a judge said of one pair: 1, 0 or None, and its words; ``at_once``: to the first question, not asked again."""

    value: int | None
    reply: str | None
    at_once: bool = True

    @property
    def official(self) -> int:
        """As published: a first reply that is no verdict counts 0."""
        return int(self.value or 0) if self.at_once else 0


@dataclass(frozen=True)
class Judged:
    """What language models said of pairs of label and text; ``verdicts`` None = there was no judge."""

    verdicts: Mapping[Pair, Verdict] | None = None
    categories: Mapping[Pair, str | None] | None = None


@dataclass(frozen=True)
class Answers:
    """Rows of ``owc_prediction`` with their columns as lists; a missing prediction is None in ``predictions``.

    ``firsts``: the first item of a comma list, the whole answer where there is no list; ``items``: their number.
    """

    rows: Sequence[Row]
    targets: list[str]
    predictions: list[str | None]
    firsts: list[str | None]
    items: Values

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Answers:
        """Columns of the rows; lists are counted here where the row does not say."""
        predictions = [row["prediction"] for row in rows]
        firsts = [_first(row) for row in rows]
        items = np.fromiter((_items(row) for row in rows), np.float64, len(rows))
        return cls(rows, [row["target"] for row in rows], predictions, firsts, items)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Answers that are missing, bool [n]."""
        return np.fromiter((p is None for p in self.predictions), np.bool_, len(self.predictions))


def _first(row: Row) -> str | None:
    prediction: str | None = row["prediction"]
    if prediction is None or row.get("first_item") is not None:
        return None if prediction is None else row["first_item"]
    return next(iter(comma_items(prediction)), prediction)


def _items(row: Row) -> float:
    if row["prediction"] is None:
        return np.nan
    known = row.get("n_items")
    return float(len(comma_items(row["prediction"])) if known is None else known)


class Scores(NamedTuple):
    """Scores of answers: ``values[metric]`` float64 [n], NaN = no score; ``unscored[metric]`` bool [n]; table rows.

    An answer that failed counts 0 for the inclusion metrics and exact match, and is still among the unscored.
    """

    values: dict[str, Values]
    unscored: dict[str, NDArray[np.bool_]]
    rows: list[Row]
    concepts: list[Row]


def score_answers(
    rows: Sequence[Row], chunker: Chunker, encode: Encode, judged: Judged,
    *, threshold: float, thresholds: Sequence[float], cells: Mapping[str, str],
    progress: Progress = lambda spans, total: spans,
) -> Scores:  # fmt: skip
    """Score rows of ``owc_prediction``. ``cells`` names the ``QUADRANTS``; ``threshold`` on bCS separates them."""
    answers = Answers.of(rows)
    near = similarities(answers, chunker, encode, progress)
    values = _text_metrics(answers) | _judge_metrics(answers, judged) | near.values
    reached, mean_average = mean_average_similarity(values["semantic_similarity"], thresholds)
    values["mean_average_similarity"] = mean_average
    values |= {f"semantic_similarity_at_{t:g}": reached[:, i] for i, t in enumerate(thresholds)}
    unscored = {metric: np.isnan(column) | answers.failed for metric, column in values.items()}
    if "llama_inclusion" in values:
        unscored["llama_inclusion_official"] = unscored["llama_inclusion"]
    return Scores(values, unscored, _score_rows(answers, values, judged, threshold, cells), near.rows)


# --- text and judges -------------------------------------------------------------------------------------------------


def _text_metrics(answers: Answers) -> dict[str, Values]:
    return {
        "text_inclusion": text_inclusion(answers.targets, answers.predictions).astype(np.float64),
        "text_inclusion_first": text_inclusion(answers.targets, answers.firsts).astype(np.float64),
        "exact_match": exact_match(answers.targets, answers.predictions).astype(np.float64),
        "textual_iou": textual_iou(answers.targets, answers.predictions),
        "n_items": answers.items,
    }


def judged_pair(row: Row) -> Pair:
    """The label and the text that the judge reads for this answer."""
    return row["target"], row["prediction"] if row.get("judged") is None else row["judged"]


def _judge_metrics(answers: Answers, judged: Judged) -> dict[str, Values]:
    """Judged inclusion: over the verdicts there are, as published (a first reply without verdict = 0), of the first item alone.

    An answer whose pair was never judged counts for none of them.
    """
    verdicts = judged.verdicts
    if verdicts is None:
        return {}
    whole = _verdict_values(answers, [judged_pair(row) for row in answers.rows], verdicts)
    official = [verdicts[p].official if (p := judged_pair(row)) in verdicts else np.nan for row in answers.rows]
    metrics = {"llama_inclusion": whole, "llama_inclusion_official": np.where(answers.failed, 0.0, official)}
    firsts = [(row["target"], first or "") for row, first in zip(answers.rows, answers.firsts, strict=True)]
    lists = [pair in verdicts for pair, items in zip(firsts, answers.items, strict=True) if items > 1]
    if (
        any(lists) or not lists
    ):  # else first items were never judged, and a mean over answers without lists would mislead
        first = _verdict_values(answers, firsts, verdicts)
        single = np.isnan(first) & (answers.items <= 1)  # such an answer is its first item
        metrics["llama_inclusion_first"] = np.where(single, whole, first)
    return metrics


def _verdict_values(answers: Answers, pairs: Sequence[Pair], verdicts: Mapping[Pair, Verdict]) -> Values:
    found = (verdicts[pair].value if pair in verdicts else None for pair in pairs)
    values = np.fromiter((np.nan if v is None else v for v in found), np.float64, len(pairs))
    return np.where(answers.failed, 0.0, values)


# --- similarities ----------------------------------------------------------------------------------------------------


class Similarities(NamedTuple):
    """Similarities of answers by metric, float64 [n], NaN for failures; rows of ``owc_concept`` of each distinct pair."""

    values: dict[str, Values]
    rows: list[Row]


def similarities(
    answers: Answers, chunker: Chunker, encode: Encode, progress: Progress = lambda spans, total: spans
) -> Similarities:
    """Semantic and concept similarities; concepts are cut once a distinct prediction, cosines taken once a distinct pair."""
    answered = np.flatnonzero(~answers.failed)
    said = [(answers.targets[i], answers.predictions[i] or "") for i in answered]
    pairs = list(dict.fromkeys(said))
    place = {pair: number for number, pair in enumerate(pairs)}
    of_pair = np.fromiter((place[pair] for pair in said), np.int64, len(said))
    texts = list(dict.fromkeys(prediction for _, prediction in pairs))
    concepts = _concepts(texts, chunker, progress)
    joined = _join(pairs, texts, concepts, [answers.firsts[i] or "" for i in answered], encode)
    reduced = concept_similarity(joined.cosines, joined.counts)
    whole = joined.cosines[np.cumsum(joined.counts) - 1]  # the last concept is the whole prediction
    first = indexed_similarity(joined.vectors, joined.first_rows, joined.target_rows[of_pair])
    columns = _by_pair(whole, reduced, joined.counts)
    values = {name: _scattered(column[of_pair], answered, len(answers.rows)) for name, column in columns.items()}
    values["semantic_similarity_first"] = _scattered(first, answered, len(answers.rows))
    return Similarities(values, _concept_rows(pairs, texts, concepts, joined.cosines))


def _by_pair(whole: Values, reduced: ConceptSimilarity, counts: NDArray[np.int64]) -> dict[str, Values]:
    return {
        "semantic_similarity": whole, "bcs": reduced.best, "mcs": reduced.median, "ccs_mean": reduced.mean,
        "ccs_min": reduced.least, "n_concepts": counts.astype(np.float64),
    }  # fmt: skip


def _concepts(texts: Sequence[str], chunker: Chunker, progress: Progress) -> list[list[Concept]]:
    spans = progress(chunker.spans(texts), len(texts))
    return [concepts_of(text, found) for text, found in zip(texts, spans, strict=True)]


class _Joined(NamedTuple):
    """``cosines`` of the concepts of each pair, pair after pair [c]; ``counts`` of them [pairs]; rows into ``vectors``."""

    vectors: Any
    cosines: Values
    counts: NDArray[np.int64]
    target_rows: NDArray[np.int64]
    first_rows: NDArray[np.int64]


def _join(
    pairs: Sequence[Pair], texts: Sequence[str], concepts: Sequence[Sequence[Concept]],
    firsts: Sequence[str], encode: Encode,
) -> _Joined:  # fmt: skip
    targets = [target for target, _ in pairs]
    flat = [concept.text for found in concepts for concept in found]
    embedded = embed_distinct([*targets, *flat, *firsts], encode)
    target_rows, concept_rows, first_rows = np.split(embedded.rows, np.cumsum([len(targets), len(flat)]))
    place = {text: number for number, text in enumerate(texts)}
    of_text = np.fromiter((place[prediction] for _, prediction in pairs), np.int64, len(pairs))
    sizes = np.fromiter(map(len, concepts), np.int64, len(concepts))
    counts, starts = sizes[of_text], (np.cumsum(sizes) - sizes)[of_text]
    members = segments(starts, counts)
    cosines = indexed_similarity(embedded.vectors, concept_rows[members], np.repeat(target_rows, counts))
    return _Joined(embedded.vectors, cosines, counts, target_rows, first_rows)


def segments(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers ``starts[i] .. starts[i] + counts[i] - 1`` of every i, one after the other."""
    before = np.cumsum(counts) - counts
    return np.asarray(np.arange(counts.sum()) + np.repeat(starts - before, counts))


def _scattered(values: Values, places: NDArray[np.int64], count: int) -> Values:
    column = np.full(count, np.nan)
    column[places] = values
    return column


# --- rows ------------------------------------------------------------------------------------------------------------


def _concept_rows(
    pairs: Sequence[Pair], texts: Sequence[str], concepts: Sequence[Sequence[Concept]], cosines: Values
) -> list[Row]:
    by_text = dict(zip(texts, concepts, strict=True))
    named = [(pair, idx, concept) for pair in pairs for idx, concept in enumerate(by_text[pair[1]])]
    return [
        {
            "target": target, "prediction": prediction, "idx": idx,
            "concept": concept.text, "source": concept.source, "similarity": cosine,
        }
        for ((target, prediction), idx, concept), cosine in zip(named, cosines.tolist(), strict=True)
    ]  # fmt: skip


_FLAGS = ("text_inclusion", "exact_match")
_COUNTS = ("llama_inclusion", "llama_inclusion_first", "n_concepts", "n_items")
_REALS = (
    "semantic_similarity", "semantic_similarity_first", "bcs", "mcs", "ccs_mean", "ccs_min", "textual_iou",
)  # fmt: skip


def _score_rows(
    answers: Answers, values: Mapping[str, Values], judged: Judged, threshold: float, cells: Mapping[str, str]
) -> list[Row]:
    columns: dict[str, list[Any]] = {name: [bool(v) for v in values[name]] for name in _FLAGS}
    columns |= {name: _whole_numbers(values[name]) for name in _COUNTS if name in values}
    columns |= {name: [None if v != v else v for v in values[name].tolist()] for name in _REALS}
    columns["judge_reply"] = [_reply(row, judged) for row in answers.rows]
    columns["error_cell"] = _cells(values, threshold, cells)
    columns["six_way"] = [_category(row, judged) for row in answers.rows]
    scored = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    known = (*KEY, "target", "prediction")
    return [{name: row[name] for name in known} | extra for row, extra in zip(answers.rows, scored, strict=True)]


def _whole_numbers(values: Values) -> list[int | None]:
    return [None if v != v else int(v) for v in values.tolist()]


def _reply(row: Row, judged: Judged) -> str | None:
    verdict = None if judged.verdicts is None else judged.verdicts.get(judged_pair(row))
    return None if verdict is None or row["prediction"] is None else verdict.reply


def _cells(values: Mapping[str, Values], threshold: float, cells: Mapping[str, str]) -> list[str | None]:
    if "llama_inclusion" not in values:
        return [None] * len(values["bcs"])
    names = [cells[quadrant] for quadrant in QUADRANTS]
    return [
        None if cell < 0 else names[cell]
        for cell in error_quadrants(values["llama_inclusion"], values["bcs"], threshold).tolist()
    ]


def _category(row: Row, judged: Judged) -> str | None:
    if judged.categories is None or row["prediction"] is None:
        return None
    return judged.categories.get((row["target"], row["prediction"]))
