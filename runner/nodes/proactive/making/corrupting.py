"""IN-C: a picture damaged in one of eight ways, from bad to hardly, and one request that names the way.

Families and the notion of severities 1..5 are ImageNet-C's; the figures are ours and harder than the published ones (which are
noise sd .08 .12 .18 .26 .38; blur sd 1 2 3 4 6; brightness +.1 .2 .3 .4 .5; contrast .4 .3 .2 .1 .05; cells of pixelate .6 .5 .4 .3 .25
of the side; JPEG quality 25 18 15 10 7): one large object on a plain ground would be told at once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from runner.nodes.proactive.making.material import Drawn, Stand, over, placed

SEVERITIES = 5
SHOWN = 4
"""Requests that are offered; one of them is right."""
Pixels = NDArray[np.float64]
"""A picture (H, W, 3) in 0..1."""


def damaged(stand: Stand, noun: str) -> Drawn:
    """IN-C: severities 5 (first) to 1 (reference) of one family. ``visible`` is the severity turned round, no measured share."""
    family = stand.pick([*FAMILIES])
    figure = stand.figure(noun)
    image = stand.shaped(figure.image, 0.5, 0.72)
    left, top = (round(stand.between(0.1, 0.9) * (stand.size - extent)) for extent in image.size)
    whole = over(stand.backdrop(stand.size), placed(image, stand.size, left, top))
    pixels = np.asarray(whole, np.float64) / 255
    frames = [_picture(FAMILIES[family](pixels, level, stand.draw)) for level in range(SEVERITIES)]
    spoken = stand.wording["IN-C"]
    wrong = stand.mixed([text for name, text in spoken["requests"].items() if name != family])[: SHOWN - 1]
    right = spoken["requests"][family]
    fields = {
        "first_image": SEVERITIES, "num_images": SEVERITIES, "reference_image": 1, "quality_answer": right,
    }  # fmt: skip
    visible = [1 - level / (SEVERITIES - 1) for level in range(SEVERITIES)]
    rivals, part = stand.rivals(noun, stand.kit.nouns), "/".join(figure.place)
    return Drawn(stand.pick(spoken["questions"]), noun, rivals, [right, *wrong], fields, frames, visible, part)


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8), "RGB")


def _resized(pixels: Pixels, side: int, how: Image.Resampling) -> Pixels:
    return np.asarray(_picture(pixels).resize((side, side), how), np.float64) / 255


def brightness(pixels: Pixels, level: int, draw: np.random.Generator) -> Pixels:
    """Light added everywhere, clipped."""
    return np.clip(pixels + (0.15, 0.4, 0.65, 0.85, 0.97)[level], 0, 1)


def contrast(pixels: Pixels, level: int, draw: np.random.Generator) -> Pixels:
    """Drawn towards the mean."""
    mean = pixels.mean((0, 1))
    return np.asarray(mean + (pixels - mean) * (0.5, 0.25, 0.1, 0.04, 0.01)[level])


def saturation(pixels: Pixels, level: int, draw: np.random.Generator) -> Pixels:
    """Colours drawn towards grey, in a picture whose lightness hardly differs: at the worst nothing is left but one grey.

    Ours: published saturation keeps the lightness, in which an object stays plain to see.
    """
    light = pixels @ np.asarray([0.299, 0.587, 0.114])
    colour = pixels - light[..., None]
    keep = (0.6, 0.3, 0.12, 0.05, 0.01)[level]
    return np.asarray(light.mean() + 0.5 * keep * (light - light.mean())[..., None] + keep * 1.6 * colour)


def deblur(pixels: Pixels, level: int, draw: np.random.Generator) -> Pixels:
    """Gaussian blur, sd as a share of the side."""
    sd = (0.012, 0.03, 0.06, 0.12, 0.28)[level] * pixels.shape[0]
    return np.asarray(_picture(pixels).filter(ImageFilter.GaussianBlur(sd)), np.float64) / 255


def denoise(pixels: Pixels, level: int, draw: np.random.Generator) -> Pixels:
    """Gaussian noise whose grain grows with its strength, so that it is not averaged away where a model makes the picture smaller."""
    side = pixels.shape[0]
    sd, grain = ((0.15, 1), (0.35, 1), (0.7, 2), (1.4, 4), (3.0, 8))[level]
    cells = -(-side // grain)
    noise = draw.normal(0, sd, (cells, cells, 3)).repeat(grain, 0).repeat(grain, 1)
    return np.clip(pixels + noise[:side, :side], 0, 1)


def compression(pixels: Pixels, level: int, draw: np.random.Generator) -> Pixels:
    """JPEG of low quality, at the worst of a small copy."""
    side, (quality, share) = pixels.shape[0], ((20, 1.0), (8, 0.7), (4, 0.45), (2, 0.25), (1, 0.1))[level]
    small = _picture(pixels).resize((max(8, round(share * side)),) * 2, Image.Resampling.BOX)
    held = io.BytesIO()
    small.save(held, "JPEG", quality=quality)
    with Image.open(held) as image:
        return _resized(np.asarray(image, np.float64) / 255, side, Image.Resampling.BICUBIC)


def resolution(pixels: Pixels, level: int, draw: np.random.Generator) -> Pixels:
    """Large square pixels."""
    cells, side = (36, 20, 11, 6, 2)[level], pixels.shape[0]
    return _resized(_resized(pixels, cells, Image.Resampling.BOX), side, Image.Resampling.NEAREST)


def artifacts(pixels: Pixels, level: int, draw: np.random.Generator) -> Pixels:
    """Blocks of wrong colours, as of a broken transmission."""
    side, share = pixels.shape[0], (0.08, 0.25, 0.5, 0.75, 0.96)[level]
    block = max(2, side // 21)
    cells = -(-side // block)
    broken = draw.random((cells, cells)) < share
    colours = draw.random((cells, cells, 3))
    grown = [part.repeat(block, 0).repeat(block, 1)[:side, :side] for part in (broken, colours)]
    return np.where(grown[0][..., None], grown[1], pixels)


FAMILIES: Final[Mapping[str, Callable[[Pixels, int, np.random.Generator], Pixels]]] = {
    "brightness": brightness, "contrast": contrast, "saturation": saturation, "deblur": deblur,
    "denoise": denoise, "compression": compression, "resolution": resolution, "artifacts": artifacts,
}  # fmt: skip
"""Ways to damage a picture at a level 0 (severity 1) to 4 (severity 5), by the request that mends it."""
