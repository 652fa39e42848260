"""The loss of a batch: cross-entropy and distances to a teacher, as sums over positions with known counts.

Only hidden states whose logits count go through lm_head, some at a time, so that no tensor of all positions and words exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from runner.models.lvlm.anatomy import Anatomy
from runner.models.lvlm.capture import logits_from
from runner.nodes.finetuning.examples import Inputs
from runner.nodes.finetuning.losses import by_chunks, coarse_divergence, divergence, squared_error
from runner.nodes.finetuning.specs import LAST, LogitsLoss, Loss

ROOM = 1 << 26
"""Logits computed at a time."""


@dataclass(frozen=True)
class Counts:
    """What the sums of a step are divided by: target tokens, positions where the teacher counts, records."""

    tokens: int
    kd: int
    records: int


@dataclass(frozen=True)
class Terms:
    """Parts of the loss; ``total`` carries the gradient. ``ce`` and ``kd_*`` are None where they are not computed. ``bad_rows``: rows of the
    batch with a loss that is no number."""

    total: Tensor
    ce: float | None
    kd_logits: float | None
    kd_hidden: float | None
    bad_rows: list[int]


@dataclass(frozen=True)
class Taught:
    """What the teacher says of a batch, at the positions where it counts, in order.

    ``layers`` [(N, D)]: states to be near to. For logits either ``last`` (N, D), of which ``head`` makes them, or ``index`` (N, k) and
    ``log_p`` (N, k + 1) of the likeliest words and the rest.
    """

    last: Tensor | None
    layers: Sequence[Tensor]
    head: Any
    index: Tensor | None = None
    log_p: Tensor | None = None


Teach = Callable[[Inputs, dict[str, Any]], Taught]


def kd_mask(batch: Inputs, where: str) -> Tensor:
    """bool (B, S): positions where the teacher counts."""
    if where == "labels":
        return batch.target_mask
    attention = batch.inputs["attention_mask"]
    return torch.ones_like(attention, dtype=torch.bool) if where == "all" else attention.bool()


def counts(batches: Sequence[Inputs], loss: Loss) -> Counts:
    """Of all parts of a step together, so that its parts add up to what one big batch would give."""
    kd = sum(int(kd_mask(b, loss.kd_mask).sum()) for b in batches) if loss.uses_teacher else 0
    tokens = sum(int(b.target_mask.sum()) for b in batches)
    return Counts(tokens, kd, sum(len(b.record_ids) for b in batches))


def arguments(parts: Anatomy, batch: Inputs) -> dict[str, Any]:
    """What the network is called with; kept features go through its projector first."""
    if batch.features is None:
        return batch.inputs
    return {**batch.inputs, "mm_encoder_outputs": {"image": _encoded_pictures(parts.projector(batch.features))}}


def _encoded_pictures(projected: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(pooler_output=list(projected))  # type: ignore[arg-type]


@contextmanager
def recorded(parts: Anatomy, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Outputs of blocks by number, while the network runs; LAST is not among them."""
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [parts.layers[n].register_forward_hook(keep(n)) for n in layers if n != LAST]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def logits_of(head: Any, config: Any, hidden: Tensor) -> Tensor:
    """(N, D) -> (N, V), in the precision of the head."""
    return logits_from(head, config, hidden.to(head.weight.dtype))


class Objective:
    """The loss of one student. ``layers``: its blocks that are compared, LAST for the state after the final norm; ``teach``: gives what
    the teacher says of a batch, told also what the student's decoder was called with."""

    def __init__(
        self, network: Any, parts: Anatomy, loss: Loss, teach: Teach | None = None, layers: Sequence[int] = ()
    ) -> None:
        self.network, self.parts, self.loss, self.teach, self.layers = network, parts, loss, teach, list(layers)

    def __call__(self, batch: Inputs, over: Counts) -> Terms:
        """The batch's share of a step's loss.

        total = ce * sum NLL / tokens + hidden.weight * mean squared error + logits.weight * T^2 * sum KL / (positions or records).
        """
        loss, parts = self.loss, self.parts
        states, embedded = self._states(batch)
        last, target, where = states[LAST], batch.target_mask, kd_mask(batch, loss.kd_mask)
        nll = _nll(parts, last, batch, target) if loss.ce else last.new_zeros(0, dtype=torch.float32)
        tokens, positions = max(1, over.tokens), max(1, over.kd)
        total, each = loss.ce * nll.sum() / tokens, [(nll, target)]
        kd_logits = kd_hidden = None
        taught = self.teach(batch, embedded) if self.teach is not None else None
        if taught is not None and loss.logits is not None and loss.logits_weight:
            kl = _kl(parts, last[where], loss.logits, taught)
            part = (
                loss.logits.temperature**2
                * kl.sum()
                / (over.records if loss.kd_reduction == "batch_sum" else positions)
            )
            total, kd_logits = total + loss.logits_weight * part, float(part.detach())
            each.append((kl, where))
        if taught is not None and loss.hidden_weight:
            errors = _errors([states[n][where] for n in self.layers], taught.layers)
            part = errors.sum() / positions
            total, kd_hidden = total + loss.hidden_weight * part, float(part.detach())
            each.append((errors, where))
        bad = [] if bool(torch.isfinite(total.detach())) else _bad_rows(each)
        return Terms(total, float(nll.detach().sum() / tokens) if loss.ce else None, kd_logits, kd_hidden, bad)

    def _states(self, batch: Inputs) -> tuple[dict[int, Tensor], dict[str, Any]]:
        """Hidden states (B, S, D) by layer, and what the decoder was called with."""
        given = arguments(self.parts, batch)
        with recorded(self.parts, self.layers) as found, called(self.network, self.parts) as embedded:
            last = self.network.base_model(**given, use_cache=False, return_dict=True).last_hidden_state
        return {**found, LAST: last}, embedded


@contextmanager
def called(network: Any, parts: Anatomy) -> Iterator[dict[str, Any]]:
    """The keyword arguments of the decoder, words as embeddings, once the network has run."""
    found: dict[str, Any] = {}

    def keep(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.update(named)
        words = found.pop("input_ids", None)
        if found.get("inputs_embeds") is None:
            found["inputs_embeds"] = network.get_input_embeddings()(args[0] if words is None else words)

    handle = parts.decoder.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def _errors(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared distance at each position, mean over channels and layers: float32 (N,)."""
    return torch.stack([squared_error(s, t) for s, t in zip(student, teacher, strict=True)]).mean(0)


def _nll(parts: Anatomy, states: Tensor, batch: Inputs, target: Tensor) -> Tensor:
    """Negative log-likelihood of each target token, float32 (N,)."""
    labels = batch.labels[:, 1:][target[:, :-1]]

    def rows(hidden: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits_of(parts.lm_head, parts.config, hidden).float(), wanted, reduction="none"
        )

    return by_chunks(rows, rows_at_once(parts), states[target], labels)


def _kl(parts: Anatomy, states: Tensor, spec: LogitsLoss, taught: Taught) -> Tensor:
    """Divergence at each position where the teacher counts, without T^2, float32 (N,)."""
    if taught.index is not None and taught.log_p is not None:

        def coarse(hidden: Tensor, index: Tensor, log_p: Tensor) -> Tensor:
            mine = logits_of(parts.lm_head, parts.config, hidden)
            return coarse_divergence(spec.divergence, mine, index, log_p, spec.temperature)

        return by_chunks(coarse, rows_at_once(parts), states, taught.index, taught.log_p)

    def full(hidden: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = taught.head(theirs)
        return divergence(spec.divergence, logits_of(parts.lm_head, parts.config, hidden), teacher, spec.temperature)

    assert taught.last is not None
    return by_chunks(full, rows_at_once(parts), states, taught.last)


def rows_at_once(parts: Anatomy) -> int:
    """Positions whose logits are computed together."""
    return max(16, ROOM // int(parts.lm_head.weight.shape[0]))


def _bad_rows(each: Sequence[tuple[Tensor, Tensor]]) -> list[int]:
    """Rows of the batch that hold a value which is no number."""
    rows: set[int] = set()
    for values, mask in each:
        if len(values):
            rows |= set(mask.nonzero()[:, 0][~torch.isfinite(values.detach())].tolist())
    return sorted(rows)
