"""Convolutional networks of timm: feature maps whose receptive field grows with depth."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from runner.errors import ModelRefused
from runner.models.backbones.transformer import About, OpenBackbone

KINDS = ("ResNet", "ConvNeXt")


class ConvolutionalBackbone(OpenBackbone):
    """timm's ``ResNet`` and ``ConvNeXt``: layer 0 is the stem (with ResNet's pooling), layers 1 .. 4 are the stages.

    The catch: there are no tokens to mask or drop, so only pixels can be taken away; early stages see a bounded
    neighbourhood only, which bounds how far anything can leak. Batch norm runs in evaluation mode: pictures of a batch do
    not mix. There is no norm that fits every layer; ``norm`` gives vectors back as they are.
    """

    kind_of_layers = "maps"

    def __init__(self, network: Any, about: About) -> None:
        super().__init__(network, about)
        self._stages = _stages(network, about.name)
        self.depth, self.prefix_tokens = len(self._stages) - 1, 0
        side, stride = self.image_size, network.feature_info[-1]["reduction"]
        if side % stride:
            raise ModelRefused(
                f"{about.name}: image_size {side} is no multiple of its largest stride {stride}",
                hint=f"Take {side // stride * stride or stride} or {(side // stride + 1) * stride}.",
            )
        with torch.no_grad():
            maps = self.maps(torch.zeros(1, 3, side, side))
        self.widths = tuple(each.shape[1] for each in maps)
        self.patch_sizes = tuple(side // each.shape[2] for each in maps)

    def maps(self, normalised: Tensor) -> list[Tensor]:
        """As ``VisionBackbone.maps``; float32."""
        made, values = [], self._checked(normalised)
        for stage in self._stages:
            for module in stage:
                values = module(values)
            made.append(values.float())
        return made

    def norm(self, tokens: Tensor) -> Tensor:
        """Vectors as they are: stages differ in width, and no norm of the network fits them all."""
        return tokens

    def embed(self, normalised: Tensor) -> Tensor:
        """Raises ``ModelRefused``: there are no tokens."""
        self._no_tokens()

    def block(
        self,
        number: int,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        allowed: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        """Raises ``ModelRefused``: there are no tokens."""
        self._no_tokens()

    def _no_tokens(self) -> NoReturn:
        raise ModelRefused(
            f"{self.name} is a convolutional network: it has maps, not tokens",
            hint="Two-stage features of it are made with pixel_fill or crop.",
        )


def _stages(network: Any, name: str) -> list[list[Any]]:
    """The stem and the stages, each as modules that follow each other."""
    kind = type(network).__name__
    if kind == "ResNet":
        stem = [network.conv1, network.bn1, network.act1, network.maxpool]
        return [stem, *([getattr(network, f"layer{number}")] for number in range(1, 5))]
    if kind == "ConvNeXt":
        return [[network.stem], *([stage] for stage in network.stages)]
    raise ModelRefused(
        f"{name}: timm's {kind} is no backbone that can be read layer by layer",
        hint=f"Kinds that can: VisionTransformer, Eva, {', '.join(KINDS)}.",
    )
