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

IGNORED = -100
POSITIONS = 1024
"""Label positions whose logits are held at a time."""


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


def last_hidden(anatomy: Anatomy, sequences: Sequences) -> Tensor:
    """What the decoder returns: states after the final norm, [B, S, D]."""
    given = {**sequences.inputs, "use_cache": False, "past_key_values": None}
    states: Tensor = anatomy.decoder(**given).last_hidden_state
    return states


def sequence_losses(anatomy: Anatomy, sequences: Sequences) -> Tensor:
    """Sums over label positions of -log p(next token), float32 [B]; log-softmax in float32, logits at labels only."""
    targets = sequences.labels[:, 1:]
    wanted = targets != IGNORED
    states = last_hidden(anatomy, sequences)[:, :-1][wanted]
    owners = wanted.nonzero()[:, 0]
    sums = torch.zeros(len(targets), device=states.device)
    for own, target, owner in zip(*(torch.split(x, POSITIONS) for x in (states, targets[wanted], owners)), strict=True):
        sums = sums.index_add(0, owner, cross_entropy(_logits(anatomy, own).float(), target, reduction="none"))
    return sums


def _logits(anatomy: Anatomy, states: Tensor) -> Tensor:
    """With the scale and the soft cap that some architectures put on their logits."""
    logits: Tensor = anatomy.lm_head(states)
    scale, cap = (getattr(anatomy.config, name, None) for name in ("logits_scaling", "final_logit_softcapping"))
    if scale:
        logits = logits / scale
    return cap * torch.tanh(logits / cap) if cap else logits


@torch.no_grad()
def mean_loss(anatomy: Anatomy, batches: Sequence[Sequences], *, by_sample: bool = False) -> float:
    """Nats a label token over all batches; ``by_sample``: the mean of the sequences' means."""
    losses = torch.cat([sequence_losses(anatomy, batch).double().cpu() for batch in batches])
    counts = torch.cat([batch.counts.double().cpu() for batch in batches])
    return float((losses / counts).mean() if by_sample else losses.sum() / counts.sum())


@contextmanager
def skipping(anatomy: Anatomy, skipped: Sequence[int]) -> Iterator[None]:
    """Blocks that return what they are given, as if they were not there."""
    with replaced({anatomy.layers[number]: _pass_on for number in skipped}):
        yield


def _pass_on(hidden_states: Tensor, *args: Any, **given: Any) -> Tensor:
    return hidden_states


@contextmanager
def checkpointed(anatomy: Anatomy) -> Iterator[None]:
    """Blocks whose activations are computed again in the backward pass instead of being kept."""
    with replaced({layer: partial(checkpoint, layer.forward, use_reentrant=False) for layer in anatomy.layers}):
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
