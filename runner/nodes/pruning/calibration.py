"""Calibration: which records are drawn, and what the decoder is given for them. Pictures are embedded once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from runner.artifacts.lvlm import Conversations
from runner.context import StepContext
from runner.errors import DataError
from runner.models.lvlm.anatomy import Anatomy
from runner.models.lvlm.batches import Record, encode, records_of
from runner.models.lvlm.capture import decoder_inputs
from runner.models.lvlm.loading import LoadedLvlm
from runner.nodes.pruning.names import Modality
from runner.nodes.pruning.running import Sequences

CALIBRATION_SPLIT = "train"


@dataclass(frozen=True)
class Draw:
    """``n`` records without replacement by ``seed``, of the training split, of at most ``max_text_tokens`` tokens of text.

    The first ``gradient_n`` of them are what gradients are taken of, ``gradient_batch`` together; others go ``batch_size`` together.
    """

    n: int
    seed: int
    modality: Modality
    max_text_tokens: int | None
    batch_size: int
    gradient_n: int
    gradient_batch: int
    max_length: int | None = None


@dataclass
class Calibration:
    """Encoded sequences; ``gradients`` are the first of ``batches``. ``used`` and ``dropped`` name records (no label left, or no picture)."""

    batches: list[Sequences] = field(default_factory=list)
    gradients: list[Sequences] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Without padding."""
        return sum(int(batch.mask.sum()) for batch in self.batches)

    @property
    def labels(self) -> int:
        """Positions a loss counts."""
        return sum(int(batch.counts.sum()) for batch in self.batches)


def drawn_rows(loaded: LoadedLvlm, data: Conversations, draw: Draw) -> list[dict[str, Any]]:
    """The rows of records drawn, in the order drawn. ``DataError`` where none fits, saying why."""
    rows = [row for row in data.records.to_pylist() if row["split"] == CALIBRATION_SPLIT]
    seen = [row for row in rows if draw.modality == "any" or bool(row["uris"]) == (draw.modality == "image_text")]
    name = data.about.get("name", "data")
    if not seen:
        raise DataError(
            f"{name}: none of {len(rows)} training records is of modality {draw.modality}",
            hint="Choose another `modality` (image_text, text, any), or data with a split `train`.",
        )
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(draw.seed)).tolist()
    found: list[dict[str, Any]] = []
    for place in order:
        if len(found) == draw.n:
            break
        if draw.max_text_tokens is None or text_tokens(loaded, seen[place]) <= draw.max_text_tokens:
            found.append(seen[place])
    if not found:
        raise DataError(
            f"{name}: none of {len(seen)} records has at most {draw.max_text_tokens} tokens of text",
            hint="Raise `max_text_tokens`, or set it to null.",
        )
    return found


def text_tokens(loaded: LoadedLvlm, row: Mapping[str, Any]) -> int:
    """Tokens of the turns' text, without the marks of turns and pictures."""
    text = "\n".join(turn[1].replace("<image>", "") for turn in json.loads(row["turns"]))
    return len(loaded.tokenizer(text, add_special_tokens=False).input_ids)


def calibrate(
    ctx: StepContext, loaded: LoadedLvlm, parts: Anatomy, data: Conversations, draw: Draw, *, gradients: bool
) -> Calibration:
    """Draw records, read their pictures and run everything before the decoder. ``DataError`` where no sequence is left."""
    rows = drawn_rows(loaded, data, draw)
    found = Calibration()

    def unread(record: str, reason: str) -> None:
        found.dropped.append(record)
        ctx.warn(f"left out of the calibration: {reason}", item=record)

    records = records_of(data, rows, failed=unread)
    ctx.advance("calibration records", 0, len(rows))
    for records_together, graded in _groups(records, draw, gradients):
        ctx.check()
        batch = encode(loaded, records_together, max_length=draw.max_length)
        found.dropped += batch.dropped
        if batch.record_ids:
            sequences = _sequences(loaded, parts, batch.to(loaded.device, loaded.dtype))
            found.batches.append(sequences)
            found.used += batch.record_ids
            if graded:
                found.gradients.append(sequences)
        ctx.advance("calibration records", len(records_together))
    if not found.batches or (gradients and not found.gradients):
        raise DataError(
            f"{data.about.get('name', 'data')}: none of {len(rows)} records drawn has a label and its pictures",
            hint="A record needs a reply that max_length does not cut away.",
        )
    return found


def _groups(records: Iterator[Record], draw: Draw, gradients: bool) -> Iterator[tuple[Sequence[Record], bool]]:
    """Batches in order, and whether gradients are taken of them."""
    first = list(islice(records, draw.gradient_n)) if gradients else []
    for size, some, graded in ((draw.gradient_batch, iter(first), True), (draw.batch_size, records, False)):
        while together := list(islice(some, size)):
            yield together, graded


def _sequences(loaded: LoadedLvlm, parts: Anatomy, batch: Mapping[str, Any]) -> Sequences:
    with torch.no_grad():
        inputs = decoder_inputs(loaded.network, batch, parts)
    return Sequences(inputs, batch["attention_mask"].bool(), batch["labels"])
