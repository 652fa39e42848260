"""Loss of a network on conversations: nats a token of the replies, by domain, with intervals by record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from runner.context import StepContext, item_key
from runner.errors import DataError
from runner.models.lvlm.batches import Record, encode, records_of
from runner.models.lvlm.generating import token_nll

if TYPE_CHECKING:
    from runner.artifacts import Conversations
    from runner.models.lvlm.loading import LoadedLvlm

Row = Mapping[str, Any]
VERSION = "1"
DRAWS = 1000
READ_AT_ONCE = 32


def ratio_interval(
    sums: ArrayLike, counts: ArrayLike, groups: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % limits of sum(sums) / sum(counts), percentile bootstrap over groups of records; NaN without a count."""
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    at = np.array([names[name] for name in groups], np.int64)
    above = np.bincount(at, np.asarray(sums, np.float64), minlength=len(names))
    below = np.bincount(at, np.asarray(counts, np.float64), minlength=len(names))
    if not below.sum():
        return float("nan"), float("nan")
    weights = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    total = weights @ below
    values = (weights @ above)[total > 0] / total[total > 0]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def record_losses(
    ctx: StepContext,
    loaded: LoadedLvlm,
    data: Conversations,
    rows: Sequence[Row],
    *,
    identity: str,
    batch_size: int = 8,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """``record_id``, ``domain``, ``group``, ``nll`` (sum over the replies' tokens, nats) and ``tokens`` of each record.

    Saved record by record under the model, the record's text and pictures. Records whose pictures cannot be read or that
    have no label within ``max_length`` are failures and left out.
    """
    found: dict[str, tuple[float, int]] = {}
    ctx.advance("records", 0, len(rows))
    for batch in _batches(records_of(data, rows, failed=ctx.failed), batch_size):
        ctx.check()
        keys = {record.record_id: _key(record, identity, max_length) for record in batch}
        known = {name: json.loads(held) for name, key in keys.items() if (held := ctx.items.get(key)) is not None}
        told = _losses(ctx, loaded, [record for record in batch if record.record_id not in known], max_length)
        ctx.items.put_many({keys[name]: json.dumps(pair).encode() for name, pair in told.items()})
        found |= {name: (pair[0], pair[1]) for name, pair in (known | told).items()}
        ctx.advance("records", len(batch))
    return [
        {name: row[name] for name in ("record_id", "domain", "group")} | {"nll": pair[0], "tokens": pair[1]}
        for row in rows
        if (pair := found.get(str(row["record_id"]))) is not None
    ]


def _losses(
    ctx: StepContext, loaded: LoadedLvlm, records: Sequence[Record], max_length: int | None
) -> dict[str, tuple[float, int]]:
    """By record; a record that cannot be encoded costs itself alone."""
    if not records:
        return {}
    try:
        batch = encode(loaded, records, max_length=max_length)
    except DataError as error:
        if len(records) == 1:
            ctx.failed(records[0].record_id, error.message)
            return {}
        return {k: v for record in records for k, v in _losses(ctx, loaded, [record], max_length).items()}
    for name in batch.dropped:
        ctx.failed(name, f"no reply is left of it within {max_length} tokens")
    if not batch.record_ids:
        return {}
    sums, counts = token_nll(loaded, batch)
    return dict(zip(batch.record_ids, zip(sums.tolist(), counts.tolist(), strict=True), strict=True))


def _batches(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    """Batches of records with and without pictures apart, of similar lengths among those read together."""
    while held := [record for _, record in zip(range(READ_AT_ONCE * size // 8 or 1), records, strict=False)]:
        for seeing in (False, True):
            some = sorted((r for r in held if bool(r.images) == seeing), key=lambda r: sum(len(t) for _, t in r.turns))
            yield from (some[at : at + size] for at in range(0, len(some), size))


def _key(record: Record, identity: str, max_length: int | None) -> str:
    pictures = [[image.size, hashlib.sha256(image.tobytes()).hexdigest()] for image in record.images]
    return item_key("vqa.loss", VERSION, identity, list(record.turns), pictures, max_length)


def loss_rows(label: str, data: str, domains: Sequence[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of ``text_perplexity``: all domains together, then each."""
    named: list[tuple[str | None, list[Row]]] = [(None, list(rows))]
    named += [(domain, [row for row in rows if row["domain"] == domain]) for domain in domains]
    return [
        {"model": label, "data": data, "domain": domain, **_loss_row(some)}
        for domain, some in named
        if some or domain is None
    ]


def _loss_row(rows: Sequence[Row]) -> dict[str, Any]:
    sums, counts = [row["nll"] for row in rows], [row["tokens"] for row in rows]
    tokens = sum(counts)
    if not tokens:
        return {"nll": None, "perplexity": None, "ci_low": None, "ci_high": None, "tokens": 0, "n": len(rows)}
    groups = [f"group {row['group']}" if row["group"] is not None else f"record {row['record_id']}" for row in rows]
    nll = sum(sums) / tokens
    low, high = ratio_interval(sums, counts, groups)
    perplexity = float(np.exp(np.minimum(nll, 700.0)))
    return {"nll": nll, "perplexity": perplexity, "ci_low": low, "ci_high": high, "tokens": tokens, "n": len(rows)}
