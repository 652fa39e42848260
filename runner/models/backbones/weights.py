"""Weights of backbones: their digest, and weights drawn at random."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_drawing = threading.Lock()
_LAYER_SCALES = ("ls", "gamma", "lambda", "layer_scale")
_SCALE_LEAVES = ("gamma", "gamma_1", "gamma_2", "lambda1")
"""Last names of layer scales in timm (ViT and ConvNeXt, EVA) and in transformers."""


def weights_digest(network: nn.Module) -> str:
    """SHA-256 (hex) over names, dtypes and values of all weights, wherever they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def open_layer_scales(network: nn.Module) -> int:
    """Set every layer scale to 1 (in place); how many there were.

    A layer scale begins at 1e-5 or so to make training stable. In a network that is never trained it leaves each block close to
    the identity, and a control that mixes no tokens controls nothing. Opening it is a definition of this project.
    """
    found = [p for name, p in network.named_parameters() if name.rpartition(".")[2] in _SCALE_LEAVES and p.ndim == 1]
    with torch.no_grad():
        for parameter in found:
            parameter.fill_(1.0)
    return len(found)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Libraries draw weights from torch's global generator: seed it for a while, then leave it as it was."""
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def draw_by_fan_in(network: nn.Module, seed: int, *, token_std: float = 0.02) -> nn.Module:
    """Give a network untrained weights of a size at which its attention is not degenerate (in place).

    Matrices and convolutions ~ N(0, 1 / fan_in), position embeddings and learnt tokens ~ N(0, token_std^2), biases 0, norms as they
    are, layer scales 1. Drawn on the CPU in the order of the parameters' names, so the same on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    owners = {id(p): m for m in network.modules() for p in m.parameters(recurse=False)}
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            _draw(name, parameter, owners[id(parameter)], generator, token_std)
    return network


def _draw(name: str, parameter: nn.Parameter, owner: nn.Module, generator: torch.Generator, token_std: float) -> None:
    leaf = name.rpartition(".")[2]
    if isinstance(owner, nn.LayerNorm | nn.BatchNorm2d):
        return
    if leaf.endswith("bias"):
        parameter.zero_()
    elif any(part.startswith(_LAYER_SCALES) for part in name.split(".")[-2:]) and parameter.ndim == 1:
        parameter.fill_(1.0)
    else:
        matrix = isinstance(owner, nn.Linear | nn.Conv2d | nn.MultiheadAttention)
        std = (parameter.numel() / parameter.shape[0]) ** -0.5 if matrix else token_std
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
