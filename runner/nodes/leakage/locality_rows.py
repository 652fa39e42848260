"""Rows of ``leak_masking_response`` and ``leak_locality`` from the answers of one predictor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.data.parts.owners import owner_text
from runner.nodes.leakage.ranking import Ranking, rank, weighted_auroc
from runner.nodes.leakage.resampling import Form, bootstrap, groups_among, interval, resample_counts
from runner.nodes.leakage.response import (
    Response,
    Sums,
    nan_mean,
    picture_spread,
    resampled_response,
    respond,
    response_sums,
    weighted_accuracy,
)

if TYPE_CHECKING:
    from runner.artifacts import ConceptAnswers

Row = dict[str, Any]
Codes = NDArray[np.int64]

EXACT_UP_TO = 1 << 30
"""Resamples x pictures x concepts up to which every resampled AUROC is computed; beyond, its first-order expansion is."""


@dataclass(frozen=True)
class Layout:
    """What the numbers mean. ``parts``: those that were hidden; ``concepts``: those that were answered; ``owner`` int64 [A]: place among
    ``parts``, -1 for several, none or a part that was not hidden; ``rows``: names of the matrix rows, the parts first;
    ``groups`` bool [Q, A]: concepts averaged in each row."""

    pictures: list[str]
    parts: list[str]
    concepts: list[str]
    owner: Tensor
    rows: list[str]
    groups: Tensor


def layout_of(answers: ConceptAnswers) -> Layout:
    """The layout of one predictor's answers; concepts in the order of the attributes."""
    about, parts = answers.about, list(answers.settings["parts"])
    answered = set(answers.answers["concept"].unique().to_pylist())
    concepts = [attribute for attribute in about["attributes"] if attribute in answered]
    texts = [owner_text(about["owners"][concept]) for concept in concepts]
    rows = [*parts, *sorted({*texts} - {*parts})]
    owner = [parts.index(text) if text in parts else -1 for text in texts]
    groups = torch.zeros((len(rows), len(concepts)), dtype=torch.bool)
    for a, (concept, text) in enumerate(zip(concepts, texts, strict=True)):
        groups[rows.index(text), a] = concept not in about.get("excluded", {})
    pictures: list[Any] = answers.answers["sample_id"].unique().to_pylist()
    return Layout(sorted(pictures), parts, concepts, torch.tensor(owner, dtype=torch.int64), rows, groups)


def _codes(column: pa.ChunkedArray[Any], names: Sequence[str]) -> Codes:
    """Place of each value among ``names``; -1 where it is NULL or not among them."""
    places: Any = pc.index_in(column, value_set=pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(places, -1).to_numpy(), np.int64)


@dataclass(frozen=True)
class Measured:
    """``plain``, ``truth`` float64 [n, A] (NaN where missing) of pictures as they are; ``sums`` of the changes of hidden ones."""

    plain: Tensor
    truth: Tensor
    sums: Sums


def measured(answers: ConceptAnswers, layout: Layout) -> Measured:
    """Put the rows of the answers into arrays."""
    table, n, count = answers.answers, len(layout.pictures), len(layout.concepts)
    picture, concept = _codes(table["sample_id"], layout.pictures), _codes(table["concept"], layout.concepts)
    part, draw = _codes(table["masked_part"], layout.parts), np.asarray(table["draw"].to_numpy(), np.int64)
    value = np.asarray(table["value"].to_numpy(), np.float64)
    plain = np.full((n, count), np.nan)
    as_is = draw < 0
    plain[picture[as_is], concept[as_is]] = value[as_is]
    shown = ~as_is & (part >= 0)
    draws = int(draw.max(initial=0)) + 1
    keys, view = np.unique((picture * len(layout.parts) + part)[shown] * draws + draw[shown], return_inverse=True)
    hidden_values = np.full((len(keys), count), np.nan)
    hidden_values[view, concept[shown]] = value[shown]
    seen, hidden, drawn = keys // draws // len(layout.parts), keys // draws % len(layout.parts), keys % draws
    usable = _usable(answers, layout, seen, hidden, drawn, draws)
    change = torch.from_numpy(hidden_values - plain[seen])
    sums = response_sums(change, usable, torch.from_numpy(seen), torch.from_numpy(hidden), n, len(layout.parts))
    return Measured(torch.from_numpy(plain), _truth(answers, layout), sums)


def _usable(answers: ConceptAnswers, layout: Layout, seen: Codes, hidden: Codes, drawn: Codes, draws: int) -> Tensor:
    """Bool [V, A]: the picture was drawn for the pair (part of the concept, hidden part). Concepts of no hidden part count wherever
    the picture was drawn for the hidden part itself."""
    count = len(layout.parts)

    def key(picture: Codes, part: Codes, other: Codes, draw: Codes) -> Codes:
        return ((picture * count + part) * count + other) * draws + draw

    table = answers.visible
    own, other = _codes(table["part"], layout.parts), _codes(table["masked_part"], layout.parts)
    sample, draw = _codes(table["sample_id"], layout.pictures), np.asarray(table["draw"].to_numpy(), np.int64)
    kept = (own >= 0) & (other >= 0) & (sample >= 0) & (draw < draws)
    there = key(sample[kept], own[kept], other[kept], draw[kept])
    pairs = [np.isin(key(seen, np.full_like(seen, part), hidden, drawn), there) for part in range(count)]
    pairs.append(np.isin(key(seen, hidden, hidden, drawn), there))
    slots = torch.where(layout.owner < 0, count, layout.owner)
    return torch.from_numpy(np.stack(pairs, 1))[:, slots]


def _truth(answers: ConceptAnswers, layout: Layout) -> Tensor:
    table = answers.truth
    picture, concept = _codes(table["sample_id"], layout.pictures), _codes(table["attribute"], layout.concepts)
    kept = (picture >= 0) & (concept >= 0)
    truth = np.full((len(layout.pictures), len(layout.concepts)), np.nan)
    truth[picture[kept], concept[kept]] = np.asarray(table["value"].to_numpy(), np.float64)[kept]
    return torch.from_numpy(truth)


# --- rows ------------------------------------------------------------------------------------------------------------


def locality_rows(
    answers: ConceptAnswers, *, resamples: int, seed: int, say: Callable[[str], None]
) -> tuple[list[Row], list[Row]]:
    """Rows of ``leak_masking_response`` and of ``leak_locality``; ``say`` hears why a score is missing."""
    layout = layout_of(answers)
    found = measured(answers, layout)
    groups = groups_by_picture(answers.visible, layout.pictures)
    counts = resample_counts(len(layout.pictures), resamples, seed, groups)
    whole = Sums(*(field.sum(0) for field in found.sums))
    point = respond(whole, layout.owner, layout.groups)
    draws = resampled_response(found.sums, layout.owner, layout.groups, counts)
    who = {"dataset": answers.about["dataset"], "predictor": answers.predictor["name"]}
    if bool(point.score.isnan()):
        say(f"{who['predictor']}: no locality score, since {_why(point, found)}")
    matrix = _matrix_rows(layout, found, point, draws)
    scores = [*_score_rows(layout, found, point, draws, groups), *_truth_rows(layout, found, counts, groups)]
    return [who | row for row in matrix], [who | row for row in scores]


def groups_by_picture(table: pa.Table, pictures: Sequence[str]) -> Tensor | None:
    """Number of the original of each picture, int64 [n], from the columns ``sample_id`` and ``group``; a picture without one is its own.
    None where all stand alone: originals are resampled whole."""
    if "group" not in table.column_names or table["group"].null_count == len(table):
        return None
    table = table.filter(pc.is_valid(table["group"]))
    place = _codes(table["sample_id"], pictures)
    groups = -1 - np.arange(len(pictures))
    groups[place[place >= 0]] = np.asarray(table["group"].to_numpy(), np.int64)[place >= 0]
    return torch.from_numpy(groups)


def _why(point: Response, found: Measured) -> str:
    if bool(point.own.isnan()):
        return "no picture was answered both as it is and with the concept's own part hidden"
    if bool(point.other.isnan()):
        return "no picture was answered with another part than the concept's hidden"
    return "hiding any part changed no answer at all"


def _matrix_rows(layout: Layout, found: Measured, point: Response, draws: Response) -> Iterator[Row]:
    low, high = interval(draws.matrix)
    std, n = picture_spread(found.sums, layout.groups)
    answered = found.sums.counts.sum(0) > 0
    for q, row in enumerate(layout.rows):
        if not bool(layout.groups[q].any()):
            continue
        for k, hidden in enumerate(layout.parts):
            yield {
                "concept_part": row, "masked_part": hidden, "mean_abs_change": _number(point.matrix[q, k]),
                "std": _number(std[q, k]), "ci_low": _number(low[q, k]), "ci_high": _number(high[q, k]),
                "mean_change": _number(point.signed[q, k]), "n": int(n[q, k]),
                "n_concepts": int((layout.groups[q] & answered[k]).sum()),
            }  # fmt: skip


def _score_rows(
    layout: Layout, found: Measured, point: Response, draws: Response, groups: Tensor | None
) -> Iterator[Row]:
    """Of all concepts, then of each that has one hidden part."""
    own_part = torch.arange(len(layout.parts))[:, None] == layout.owner
    has = found.sums.counts > 0
    averaged = layout.groups.any(0) & (layout.owner >= 0)
    seen = {
        "own": (has & own_part).any(1), "other": (has & ~own_part & (layout.owner >= 0)).any(1),
        "locality_score": (has & (layout.owner >= 0)).any(1),
    }  # fmt: skip
    names = {"own": "own", "other": "other", "locality_score": "score"}
    for measure, name in names.items():
        n = _seen((seen[measure] & averaged).any(1), groups)
        yield _row(None, measure, getattr(point, name), interval(getattr(draws, name)), n)
    for measure, name in names.items():
        values, limits = getattr(point, f"concept_{name}"), interval(getattr(draws, f"concept_{name}"))
        for a in (layout.owner >= 0).nonzero().flatten().tolist():
            n = _seen(seen[measure][:, a], groups)
            yield _row(layout.concepts[a], measure, values[a], (limits[0][a], limits[1][a]), n)


def _truth_rows(layout: Layout, found: Measured, counts: Tensor, groups: Tensor | None) -> Iterator[Row]:
    """Accuracy (threshold 0.5) and AUROC of pictures as they are; over all as a mean over averaged concepts."""
    known = ~(found.plain.isnan() | found.truth.isnan())
    averaged = layout.groups.any(0)
    for measure, values, draws in _against_truth(found, known, counts):
        n = _seen((known & averaged).any(1), groups)
        yield _row(None, measure, nan_mean(values[averaged], 0), interval(nan_mean(draws[:, averaged], 1)), n)
        low, high = interval(draws)
        for a, concept in enumerate(layout.concepts):
            yield _row(concept, measure, values[a], (low[a], high[a]), _seen(known[:, a], groups))


def _against_truth(found: Measured, known: Tensor, counts: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Measure, estimate [A], resampled estimates [B, A]."""
    everyone = torch.ones((1, len(known)))
    drawn = weighted_accuracy(found.plain, found.truth, counts)
    yield "accuracy", weighted_accuracy(found.plain, found.truth, everyone)[0], drawn
    ranking: Ranking = rank(found.plain, found.truth.nan_to_num(), known)
    form: Form = "exact" if counts.numel() * known.shape[1] <= EXACT_UP_TO else "projected"
    yield (
        "auroc",
        weighted_auroc(ranking, torch.ones_like(ranking.positive)),
        bootstrap(weighted_auroc, ranking, counts, form),
    )


def perturbed_measures(changes: pa.Table, *, excluded: Collection[str], resamples: int, seed: int) -> list[Row]:
    """Rows of ``leak_locality``: mean over pictures of the largest change found with pixels outside or inside a concept's part, for each
    concept and, as a mean over concepts that are not ``excluded``, for all. ``changes``: as ``leakage.perturb`` gives them."""
    pictures: list[Any] = sorted(changes["sample_id"].unique().to_pylist())
    concepts: list[Any] = changes["concept"].unique().to_pylist()
    averaged = torch.tensor([concept not in excluded for concept in concepts], dtype=torch.bool)
    groups = groups_by_picture(changes, pictures)
    counts = resample_counts(len(pictures), resamples, seed, groups).to(torch.float64)
    rows: list[Row] = []
    for side in ("outside", "inside"):
        part = changes.filter(pc.field("side") == side)
        values = torch.full((len(pictures), len(concepts)), torch.nan, dtype=torch.float64)
        place = tuple(
            torch.from_numpy(_codes(part[c], names)) for c, names in (("sample_id", pictures), ("concept", concepts))
        )
        values[place] = torch.from_numpy(np.array(part["change"].to_numpy(), np.float64))
        known = ~values.isnan()
        draws = (counts @ values.nan_to_num()) / (counts @ known.to(torch.float64))
        point, limits, measure = nan_mean(values, 0), interval(draws), f"largest_change_{side}"
        over_all = interval(nan_mean(draws[:, averaged], 1))
        n = _seen(known[:, averaged].any(1), groups)
        rows.append(_row(None, measure, nan_mean(point[averaged], 0), over_all, n))
        rows += [
            _row(concept, measure, point[a], (limits[0][a], limits[1][a]), _seen(known[:, a], groups))
            for a, concept in enumerate(concepts)
        ]
    return rows


def _seen(known: Tensor, groups: Tensor | None) -> Row:
    """How many pictures, bool [n], and how many originals they show."""
    return {"n": int(known.sum()), "n_groups": None if groups is None else int(groups_among(known, groups))}


def _row(concept: str | None, measure: str, value: Tensor, limits: tuple[Tensor, Tensor], seen: Row) -> Row:
    low, high = limits
    return {
        "concept": concept, "measure": measure, "value": _number(value), "ci_low": _number(low), "ci_high": _number(high), **seen,
    }  # fmt: skip


def _number(value: Tensor) -> float | None:
    number = float(value)
    return None if np.isnan(number) else number
