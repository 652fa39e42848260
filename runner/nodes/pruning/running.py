"""Running the decoder alone on calibration sequences whose pictures were embedded once; losses at their label positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from runner.models.lvlm.anatomy import Anatomy
from runner.models.lvlm.capture import logits_of, run_decoder

IGNORED = -100
POSITIONS = 1024
"""Label positions whose logits are held at a time."""


@dataclass(frozen=True)
class Subject:
    """A network and where its parts stand."""

    network: Any
    anatomy: Anatomy


@dataclass(frozen=True)
class Sequences:
    """One batch as the decoder sees it, right-padded: B sequences of S positions, pictures among them.

    ``inputs``: what the decoder is called with (``inputs_embeds`` [B, S, D] ...). ``mask`` bool [B, S]: no padding. ``labels`` int64
    [B, S]: the token where a reply stands, -100 elsewhere.
    """

    inputs: Mapping[str, Any]
    mask: Tensor
    labels: Tensor

    @property
    def counts(self) -> Tensor:
        """Label positions of each sequence that a prediction is made for, int64 [B]."""
        return (self.labels[:, 1:] != IGNORED).sum(1)


def sequence_losses(subject: Subject, sequences: Sequences) -> Tensor:
    """Sums over label positions of -log p(next token), float32 [B]; log-softmax in float32, logits at labels only."""
    targets = sequences.labels[:, 1:]
    wanted = targets != IGNORED
    states = run_decoder(subject.network, sequences.inputs, subject.anatomy)[:, :-1][wanted]
    owners = wanted.nonzero()[:, 0]
    sums = torch.zeros(len(targets), device=states.device)
    for own, target, owner in zip(*(torch.split(x, POSITIONS) for x in (states, targets[wanted], owners)), strict=True):
        sums = sums.index_add(
            0, owner, cross_entropy(logits_of(subject.network, own).float(), target, reduction="none")
        )
    return sums


@torch.no_grad()
def mean_loss(subject: Subject, batches: Sequence[Sequences], *, by_sample: bool = False) -> float:
    """Nats a label token over all batches; ``by_sample``: the mean of the sequences' means."""
    losses = torch.cat([sequence_losses(subject, batch).double().cpu() for batch in batches])
    counts = torch.cat([batch.counts.double().cpu() for batch in batches])
    return float((losses / counts).mean() if by_sample else losses.sum() / counts.sum())


@contextmanager
def skipping(subject: Subject, skipped: Sequence[int]) -> Iterator[None]:
    """Blocks that return what they are given, as if they were not there."""
    with replaced({subject.anatomy.layers[number]: _pass_on for number in skipped}):
        yield


def _pass_on(hidden_states: Tensor, *args: Any, **given: Any) -> Tensor:
    return hidden_states


@contextmanager
def checkpointed(subject: Subject) -> Iterator[None]:
    """Blocks whose activations are computed again in the backward pass instead of being kept."""
    with replaced({layer: partial(checkpoint, layer.forward, use_reentrant=False) for layer in subject.anatomy.layers}):
        yield


@contextmanager
def replaced(forwards: Mapping[Any, Any]) -> Iterator[None]:
    """Modules with other forwards, put back at the end."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward
