"""Random views of pictures that know which of their pixels are background. Pure; torch's global generator decides."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from runner.nodes.clip.specs import MEAN, STD

SCALE = (0.55, 1.0)
"""Least and largest share of the picture's area in a crop."""
RATIO = 1.2
JITTER = 0.15
PLAIN = 0.5
"""Share of pictures whose background is white or black rather than any colour."""


def composed(pixels: Tensor, background: Tensor) -> Tensor:
    """Pictures on a background: C - (1 - a)(1 - B), with C the picture on white.

    ``pixels`` uint8 [n, 4, s, s] (red, green, blue on white; alpha), ``background`` [n, 3, 1, 1] colours or [n, 3, s, s]
    pictures, in 0..1; float [n, 3, s, s].
    """
    x = pixels.float() / 255
    return (x[:, :3] - (1 - x[:, 3:]) * (1 - background)).clamp(0, 1)


def normalised(x: Tensor) -> Tensor:
    """Channels [n, 3, h, w] in 0..1, by the statistics of stock CLIP."""
    mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (MEAN, STD))
    return (x - mean) / std


def plain_view(pixels: Tensor, size: int) -> Tensor:
    """The whole picture on white at ``size`` pixels, as the network takes it."""
    white = torch.ones(len(pixels), 3, 1, 1, device=pixels.device)
    return normalised(_resized(composed(pixels, white), size))


def random_view(pixels: Tensor, flippable: Tensor, size: int, paste: float = 0.0) -> Tensor:
    """One augmented view a picture: background, crop, mirror, brightness and contrast; never its hue.

    ``paste``: share of the pictures whose background is a photograph of the same batch, where it has one.
    """
    x = composed(pixels, pasted(pixels, random_background(len(pixels)).to(pixels.device), paste))
    x = functional.grid_sample(
        x, random_grid(flippable.cpu(), size).to(x.device), padding_mode="border", align_corners=False
    )
    return normalised(jittered(x))


def random_background(n: int) -> Tensor:
    """Colours [n, 3, 1, 1]: for half of the pictures white (twice as often) or black, else any."""
    colour = torch.rand(n, 3)
    grey = (torch.rand(n, 1) < 2 / 3).float().expand(n, 3)
    return torch.where(torch.rand(n, 1) < PLAIN, grey, colour)[:, :, None, None]


def pasted(pixels: Tensor, background: Tensor, share: float) -> Tensor:
    """Backgrounds [n, 3, s, s]: colours [n, 3, 1, 1], or for a ``share`` of the pictures one without transparency of the same batch."""
    whole = (pixels[:, 3] == 255).flatten(1).all(1).nonzero()[:, 0]
    if not share or not len(whole):
        return background
    other = whole[torch.randint(len(whole), (len(pixels),)).to(pixels.device)]
    chosen = (torch.rand(len(pixels), 1, 1, 1) < share).to(pixels.device)
    return torch.where(chosen, pixels[other, :3].float() / 255, background)


def random_grid(flippable: Tensor, size: int) -> Tensor:
    """Sampling grid [n, size, size, 2] of a crop inside the picture, mirrored for half of the flippable pictures."""
    n = len(flippable)
    area = torch.empty(n).uniform_(*SCALE)
    ratio = torch.exp(torch.empty(n).uniform_(-1, 1) * torch.log(torch.tensor(RATIO)))
    half = torch.stack(((area * ratio).sqrt(), (area / ratio).sqrt()), 1).clamp(max=1)
    centre = (torch.rand(n, 2) * 2 - 1) * (1 - half)
    mirrored = flippable & (torch.rand(n) < 0.5)
    sign = torch.where(mirrored, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = half[:, 0] * sign, half[:, 1]
    theta[:, :, 2] = centre
    return functional.affine_grid(theta, [n, 3, size, size], align_corners=False)


def jittered(x: Tensor) -> Tensor:
    """Brightness and contrast of each picture [n, 3, h, w] changed by at most ``JITTER``, one factor for all channels."""
    brightness, contrast = (1 + (torch.rand(2, len(x), 1, 1, 1) * 2 - 1) * JITTER).to(x.device)
    mean = x.mean((1, 2, 3), keepdim=True)
    changed: Tensor = ((x - mean) * contrast + mean * brightness).clamp(0, 1)
    return changed


def _resized(x: Tensor, size: int) -> Tensor:
    if x.shape[-1] == size:
        return x
    return functional.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
