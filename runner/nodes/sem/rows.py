"""Rows of the results tables of debiasing, from outcomes and scores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from runner.nodes.sem.intervals_folds import Interval
from runner.nodes.sem.methods import Moved, Outcome

Row = dict[str, Any]


def text_rows(attribute: str, label: str, queries: list[str], original: Tensor, outcome: Outcome) -> list[Row]:
    """Rows of ``debias_text``: ``original`` [queries, dim] are the queries' own embeddings."""
    vectors = outcome.vectors.double()
    norms = vectors.norm(dim=1).tolist()
    cosines = torch.nn.functional.cosine_similarity(vectors, original.double(), dim=1).tolist()
    ranks = [None] * len(queries) if outcome.rank is None else outcome.rank.tolist()
    return [
        {
            "attribute": attribute, "method": label, "query": query, "row": i, "norm": norms[i],
            "cos_original": cosines[i], "rank_used": ranks[i],
        }
        for i, query in enumerate(queries)
    ]  # fmt: skip


def neuron_rows(label: str, queries: list[str], moved: Moved, top: int) -> list[Row]:
    """Rows of ``neuron_score``: of each query the ``top`` latents by |h_new - h|, those that did not move left out."""
    after, change = moved.modulated.latents, (moved.modulated.latents - moved.before).abs()
    order = change.argsort(dim=1, descending=True, stable=True)[:, :top]
    picked = {
        "neuron": order,
        "h": moved.before.gather(1, order),
        "s_concept": moved.modulated.s_concept.gather(1, order),
        "m": moved.modulated.multiplier.gather(1, order),
        "h_new": after.gather(1, order),
        "change": change.gather(1, order),
    }
    if moved.s_bias is not None:
        picked["s_bias"] = moved.s_bias[order]
    lists = {name: values.tolist() for name, values in picked.items()}
    rows = [
        {"method": label, "query": query} | {name: values[i][j] for name, values in lists.items()}
        for i, query in enumerate(queries)
        for j in range(order.shape[1])
    ]
    return [{name: value for name, value in row.items() if name != "change"} for row in rows if row["change"]]


def summary_row(who: Row, metric: str, kind: str, interval: Interval) -> Row:
    """A row of ``debias_summary``; limits that do not exist are NULL."""
    low, high = (None if math.isnan(limit) else limit for limit in (interval.low, interval.high))
    return {
        **who,
        "metric": metric,
        "mean": interval.mean,
        "ci_low": low,
        "ci_high": high,
        "ci_kind": kind,
        "n": interval.n,
    }
