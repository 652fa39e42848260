"""Tiny networks on token sequences with padding, and their loss as transformers computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from runner.models.lvlm.anatomy import anatomy
from runner.nodes.pruning.running import Sequences
from tests.nodes.pruning.tiny_lvlms import IMAGE_TOKEN, network

LENGTHS = (9, 6, 11)
PROMPT = 3


def tiny(name: str, **changes: Any) -> tuple[Any, Any]:
    """A random network in float64 and its anatomy."""
    net = network(name, **changes).double()
    return net, anatomy(net)


def tokens(lengths: tuple[int, ...] = LENGTHS, seed: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, IMAGE_TOKEN, (length,), generator=generator) for length in lengths]


def sequences(net: Any, ids: list[Tensor], padding: int = 7) -> Sequences:
    """One right-padded batch; the first ``PROMPT`` tokens are no labels. Padding is made of ordinary tokens."""
    width = max(map(len, ids))
    padded = torch.full((len(ids), width), padding)
    mask = torch.zeros(len(ids), width, dtype=torch.bool)
    for row, own in enumerate(ids):
        padded[row, : len(own)], mask[row, : len(own)] = own, True
    labels = padded.where(mask, -100)
    labels[:, :PROMPT] = -100
    with torch.no_grad():
        embedded = anatomy(net).decoder.get_input_embeddings()(padded)
    return Sequences({"inputs_embeds": embedded, "attention_mask": mask.long()}, mask, labels)


def singles(net: Any, ids: list[Tensor]) -> list[Sequences]:
    return [sequences(net, [own]) for own in ids]


def own_loss(net: Any, ids: Tensor) -> Tensor:
    """Mean cross-entropy of one sequence, by transformers."""
    labels = ids.clone()
    labels[:PROMPT] = -100
    loss: Tensor = net(input_ids=ids[None], labels=labels[None]).loss
    return loss


def label_count(ids: Tensor) -> int:
    return len(ids) - PROMPT
