"""Scores as the rows that results hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from results.tables import arrow_schema, arrow_table
from runner.nodes.pruning.scoring import Scores
from runner.nodes.pruning.select import ranks

if TYPE_CHECKING:
    import pyarrow as pa


def layer_table(label: str, scores: Scores) -> pa.Table:
    """``prune_layer_score``; nothing is removed yet."""
    rows: list[dict[str, Any]] = []
    for criterion, block in scores.blocks.items():
        for layer, place in enumerate(block.order):
            total, mean = (None if t is None else float(t[layer]) for t in (block.total, block.mean))
            rows.append(
                {"model": label, "stage": 0, "criterion": criterion, "layer": layer, "score_sum": total, "score_mean": mean,
                 "n_tokens": block.tokens, "rank": place}
            )  # fmt: skip
    return arrow_table("prune_layer_score", rows)


def unit_table(label: str, scores: Scores) -> pa.Table:
    """``prune_unit_score``, column by column: a model has hundreds of thousands of neurons."""
    import pyarrow as pa

    schema = arrow_schema("prune_unit_score")
    tables = []
    for criterion, units in scores.units.items():
        for (layer, kind), values in units.items():
            count = len(values)
            shared = {"model": label, "stage": 0, "criterion": criterion, "layer": layer, "kind": kind, "kept": None}
            columns = {name: pa.repeat(pa.scalar(v, schema.field(name).type), count) for name, v in shared.items()}
            columns |= {"unit": np.arange(count), "score": values.double().cpu().numpy(), "rank": ranks(values.cpu())}
            tables.append(pa.Table.from_pydict(columns, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def distance_table(scores: Scores) -> pa.Table:
    """``start``, ``n``, ``distance`` of every run of blocks that leaves at least one; empty without ``angular``."""
    import pyarrow as pa

    fields: list[Any] = [("start", pa.int32()), ("n", pa.int32()), ("distance", pa.float64())]
    schema = pa.schema(fields)
    if scores.angles is None:
        return schema.empty_table()
    states = len(scores.angles)
    starts, ends = torch.triu_indices(states, states, offset=1)
    runs = ends - starts < states - 1
    columns = (starts[runs], (ends - starts)[runs], scores.angles[starts, ends][runs])
    return pa.Table.from_pydict({n: c.numpy() for n, c in zip(schema.names, columns, strict=True)}, schema=schema)


def mean_arrays(scores: Scores) -> dict[str, Any]:
    """Mean inputs of o and down: ``<layer>.attention``, ``<layer>.mlp``."""
    return {f"{layer}.{kind}": means.numpy() for (layer, kind), means in scores.means.items()}


def timing_table(label: str, seconds: float, peak_bytes: int) -> pa.Table:
    """``prune_timing`` of the pass."""
    row: Mapping[str, Any] = {"model": label, "stage": "score", "seconds": seconds, "peak_bytes": peak_bytes}
    return arrow_table("prune_timing", [dict(row)])
