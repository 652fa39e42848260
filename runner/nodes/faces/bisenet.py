"""BiSeNet with a ResNet-18 context path: which part of a face each pixel belongs to.

Source: Yu et al. (2018), "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation", arXiv
1808.00897; the checkpoint was trained on CelebAMask-HQ (19 classes), with the features of ResNet's second stage in place
of the spatial path. Module names are those of the checkpoint's keys.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.errors import ModelRefused
from runner.nodes.faces.parts import PARTS

SIDE = 512
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """ResNet's basic block, ``relu(shortcut(x) + f(x))``; He et al. (2016), figure 5 left."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample: nn.Module = nn.Identity()
        if inside != outside or stride != 1:
            shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] -> [n, outside, h / stride, w / stride]."""
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.downsample(x) + inner)


class ResNet18(nn.Module):
    """Features at 1/8, 1/16 and 1/32 of the picture's side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[n, 3, h, w] -> 128, 256 and 512 channels."""
        x = functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class ConvBNReLU(nn.Module):
    """Convolution that keeps the size, batch normalisation, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, 1, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] -> [n, outside, h, w]."""
        return torch.relu(self.bn(self.conv(x)))


class AttentionRefinement(nn.Module):
    """Attention refinement module: channels weighted by their global average (figure 2b)."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inside, 128)
        self.conv_atten = nn.Conv2d(128, 128, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(128)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] -> [n, 128, h, w]."""
        features: Tensor = self.conv(x)
        return features * torch.sigmoid(self.bn_atten(self.conv_atten(features.mean((2, 3), keepdim=True))))


class ContextPath(nn.Module):
    """Global context brought back to 1/8 of the side (figure 2a, right)."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256)
        self.arm32 = AttentionRefinement(512)
        self.conv_head32 = ConvBNReLU(128, 128)
        self.conv_head16 = ConvBNReLU(128, 128)
        self.conv_avg = ConvBNReLU(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(ResNet's features at 1/8, context at 1/8), 128 channels each."""
        eighth, sixteenth, last = self.resnet(x)
        average = self.conv_avg(last.mean((2, 3), keepdim=True))
        context = self.conv_head32(functional.interpolate(self.arm32(last) + average, sixteenth.shape[2:]))
        return eighth, self.conv_head16(functional.interpolate(self.arm16(sixteenth) + context, eighth.shape[2:]))


class FeatureFusion(nn.Module):
    """Feature fusion module: both paths side by side, channels weighted (figure 2c)."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(256, 256, kernel=1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Two [n, 128, h, w] -> [n, 256, h, w]."""
        features = self.convblk(torch.cat([spatial, context], 1))
        weights = torch.sigmoid(self.conv2(torch.relu(self.conv1(features.mean((2, 3), keepdim=True)))))
        return torch.addcmul(features, features, weights)


class Head(nn.Module):
    """Class scores of each cell."""

    def __init__(self, inside: int, middle: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inside, middle)
        self.conv_out = nn.Conv2d(middle, len(PARTS), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] -> [n, 19, h, w]."""
        scores: Tensor = self.conv_out(self.conv(x))
        return scores


class BiSeNet(nn.Module):
    """The whole network. The two further heads only help training; they are there so that every key has its place."""

    def __init__(self) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion()
        self.conv_out = Head(256, 256)
        self.conv_out16 = Head(128, 64)
        self.conv_out32 = Head(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures [n, 3, h, w] -> class scores [n, 19, h, w]."""
        scores = self.conv_out(self.ffm(*self.cp(x)))
        return functional.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=True)


def load_parser(path: Path) -> BiSeNet:
    """The network with the weights of a safetensors file. Raises ``ModelRefused`` unless every key fits."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = BiSeNet()
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelRefused(f"{path}: not the weights of the face parser: {str(error).splitlines()[0]}") from error
    return network.eval()


@torch.inference_mode()
def parse(network: BiSeNet, pictures: Tensor) -> Tensor:
    """Part of each pixel, int64 [n, 512, 512] (an index into ``PARTS``), of RGB pictures uint8 [n, h, w, 3]."""
    x = pictures.permute(0, 3, 1, 2).float() / 255
    if x.shape[2:] != (SIDE, SIDE):
        x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
    x = (x - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]
    labels: Tensor = network(x).argmax(1)
    return labels
