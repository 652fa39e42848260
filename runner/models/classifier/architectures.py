"""Networks that a checkpoint may be loaded into: torchvision's and timm's by name, and a few small ones of our own.

``runner:cifar_resnet56`` and its siblings are the residual networks for 32 x 32 images of He et al. (2016), section 4.2:
depth 6n + 2, three stages of 16, 32 and 64 channels, global average pooling, one linear layer. Where a stage changes
the shape, the shortcut is free of parameters (option A: every second pixel, new channels zero) or a strided 1 x 1
convolution with batch norm (option B); the names in the checkpoint tell which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from runner.errors import ModelRefused


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to a shortcut of the input."""

    def __init__(self, width_in: int, width: int, stride: int, *, convolve: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.new_channels = stride, width - width_in
        self.shortcut = nn.Sequential()
        if convolve and (stride != 1 or self.new_channels):
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width_in, h, w] -> [n, width, h / stride, w / stride]."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self._skip(x))

    def _skip(self, x: Tensor) -> Tensor:
        if len(self.shortcut) or (self.stride == 1 and not self.new_channels):
            skipped: Tensor = self.shortcut(x)
            return skipped
        before = self.new_channels // 2
        thinned = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(thinned, (0, 0, 0, 0, before, self.new_channels - before))


class CifarResNet(nn.Module):
    """Residual network of depth 6 ``blocks`` + 2 for 32 x 32 images; float32 [n, 3, h, w] -> [n, classes]."""

    def __init__(self, blocks: int, classes: int, *, convolve: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1, convolve)
        self.layer2 = _stage(16, 32, blocks, 2, convolve)
        self.layer3 = _stage(32, 64, blocks, 2, convolve)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.linear(x.mean((2, 3)))
        return scores


def _stage(width_in: int, width: int, blocks: int, stride: int, convolve: bool) -> nn.Sequential:
    first = ResidualBlock(width_in, width, stride, convolve=convolve)
    return nn.Sequential(first, *(ResidualBlock(width, width, 1, convolve=convolve) for _ in range(blocks - 1)))


Builder = Callable[[int, Collection[str]], nn.Module]


def _cifar_resnet(blocks: int, classes: int, names: Collection[str]) -> nn.Module:
    return CifarResNet(blocks, classes, convolve=any(".shortcut.0." in name for name in names))


OWN: dict[str, Builder] = {
    f"cifar_resnet{6 * blocks + 2}": partial(_cifar_resnet, blocks) for blocks in (3, 5, 7, 9, 18)
}
"""Our own small networks by name."""


def build(architecture: str, classes: int, names: Collection[str]) -> nn.Module:
    """The network ``library:name`` (``timm:resnet18``, ``torchvision:resnet50``, ``runner:cifar_resnet56``).

    ``names`` are the tensors of the checkpoint. Weights stay random. Raises ``ModelRefused`` for unknown names.
    """
    library, _, name = architecture.partition(":")
    known = _known(library)
    if name not in known:
        raise ModelRefused(f"architecture {architecture!r} is not known", hint=_nearest(library, name, known))
    if library == "runner":
        return OWN[name](classes, names)
    if library == "timm":
        import timm

        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
        return network
    import torchvision

    extra: dict[str, Any] = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    made: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **extra)
    return made


def _known(library: str) -> list[str]:
    if library == "runner":
        return list(OWN)
    if library == "timm":
        import timm

        return list(timm.list_models())
    if library == "torchvision":
        import torchvision

        return list(torchvision.models.list_models(module=torchvision.models))
    raise ModelRefused(
        f"architecture: {library!r} is no library of architectures",
        hint="Write timm:NAME, torchvision:NAME or runner:NAME, such as timm:resnet18.",
    )


def _nearest(library: str, name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, 3)
    return (
        f"Did you mean {' or '.join(f'{library}:{c}' for c in close)}?" if close else f"It must be a name of {library}."
    )


def usual_preprocessing(architecture: str) -> str:
    """The preprocessing this architecture is mostly trained with, as text for a spec; '' where that is not known."""
    library, _, name = architecture.partition(":")
    if library != "timm":
        return ""
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return ""
    size, crop = config.input_size[-1], config.crop_pct
    return f"{{size: {size}, crop: {crop}, mean: {list(config.mean)}, std: {list(config.std)}}}"
