"""Candidates and their fates as rows of the results tables, column by column."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from results.tables import arrow_schema, arrow_table
from retrieval.quality import KEPT, REASONS, Candidates, Fates, places

Group = tuple[str, str | None, str | None]
"""(target, attribute, value); the last two None for neutral captions."""


def sources_table(sources: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of ``corpus_source`` from the sources of an index's manifest."""
    names = arrow_schema("corpus_source").names
    rows = [{name: source[name] for name in names} | {"problems": json.dumps(source["problems"])} for source in sources]
    return arrow_table("corpus_source", rows)


def retrieval_table(
    captions: Sequence[Mapping[str, Any]], candidates: Candidates, fates: Fates, rows: pa.Table
) -> pa.Table:
    """Rows of ``c2b_retrieval``: every candidate, in the order of captions and ranks. ``rows``: those of the index."""
    found = rows.select(["source_id", "uri"]).take(candidates.row)
    ids = np.array([str(caption["caption_id"]) for caption in captions], object)
    names = np.array([None, *REASONS[1:]], object)
    repeated = fates.leader != np.arange(len(candidates))
    columns = {
        "caption_id": pa.array(ids[candidates.caption], pa.string()),
        "rank": pa.array(places(candidates.caption, candidates.similarity, candidates.row), pa.int32()),
        "source_id": found["source_id"],
        "uri": found["uri"],
        "row": pa.array(candidates.row),
        "similarity": pa.array(candidates.similarity),
        "kept": pa.array(fates.kept),
        "reject_reason": pa.array(names[fates.reason], pa.string()),
        "duplicate_of": pa.array(found["uri"].to_numpy()[fates.leader], pa.string(), mask=~repeated),
    }
    return pa.table(columns, schema=arrow_schema("c2b_retrieval"))


def counts_table(
    groups: Sequence[Group], number: NDArray[np.int64], similarity: NDArray[np.float64], fates: Fates
) -> pa.Table:
    """Rows of ``c2b_retrieval_count``, one a group, also where nothing was found. ``number``: each candidate's group."""
    reasons = np.zeros((len(groups), len(REASONS)), np.int64)
    np.add.at(reasons, (number, fates.reason), 1)
    means = _means(similarity[fates.kept], number[fates.kept], len(groups))
    rows = []
    for (target, attribute, value), counts, mean in zip(groups, reasons.tolist(), means.tolist(), strict=True):
        rejected = {name: n for name, n in zip(REASONS[1:], counts[1:], strict=True) if n}
        rows.append({
            "target": target, "attribute": attribute, "value": value, "fetched": sum(counts), "kept": counts[KEPT],
            "rejected": json.dumps(rejected), "mean_similarity": None if np.isnan(mean) else mean,
        })  # fmt: skip
    return arrow_table("c2b_retrieval_count", rows)


def _means(values: NDArray[np.float64], group: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    sums = np.bincount(group, values, groups)
    sizes = np.bincount(group, minlength=groups)
    means = np.full(groups, np.nan)
    np.divide(sums, sizes, out=means, where=sizes > 0)
    return means
