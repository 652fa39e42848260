"""Planted data: pictures of noise in which each quadrant carries one bit as the sign of a colour, and nothing else.

Everything is known of them: which pixels tell of which bit, and how much one bit tells of another. Definitions of this project.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.data.parts.made_design import generator

PARTS = ("top-left", "top-right", "bottom-left", "bottom-right")
AMPLITUDE = 0.5
"""Length of a quadrant's colour, in the picture's units."""
DEVIATIONS = 4.0
"""Standard deviations of the noise that 8 bits hold; what lies further out (6 in 100,000 values) is cut."""


class Planted(NamedTuple):
    """``pictures`` uint8 [n, side, side, 3]; ``bits`` uint8 [n, 4], in the order of the quadrants; ``train`` bool [n]."""

    pictures: NDArray[np.uint8]
    bits: NDArray[np.uint8]
    train: NDArray[np.bool_]


def planted(pictures: int, correlation: float, side: int, noise: float, seed: int) -> Planted:
    """``noise`` x N(0, 1) a value, plus or minus a colour of length 0.5 in each quadrant by its bit; the first half trains.

    All quadrants share one colour direction, drawn from the seed. So the mean colour of the picture, which an attention that
    averages over it hands to every quadrant, tells how many bits are 1 and not which: ranked by that number, one bit of four
    independent ones is told with AUROC 13/16. A bit says whether a latent number is positive; each latent has correlation
    ``correlation`` with one that all four share, so correlation² with each other, and two bits agree with probability
    1/2 + arcsin(correlation²) / pi. The picture's unit is scaled so that 127.5 stands for 0 and 8 bits hold
    0.5 + 4 noise both ways.
    """
    colour = _colour(seed)
    bits = _bits(pictures, correlation, generator(seed, "bits"))
    made = np.empty((pictures, side, side, 3), np.uint8)
    draw, unit = generator(seed, "noise"), scale(noise)
    for i in range(pictures):  # one at a time, for the memory
        values = noise * draw.standard_normal((side, side, 3), np.float32) + _planes(bits[i], colour, side)
        made[i] = np.clip(np.rint(127.5 + unit * values), 0, 255)
    return Planted(made, bits, np.arange(pictures) < pictures // 2)


def scale(noise: float) -> float:
    """8-bit steps that one unit of the picture takes."""
    return 127.5 / (AMPLITUDE + DEVIATIONS * noise)


def masks(side: int) -> NDArray[np.bool_]:
    """The quadrants as bool [4, side, side]; ``side`` is even."""
    rows = np.arange(side) < side // 2
    top, left = rows[:, None] & np.ones(side, bool), rows[None] & np.ones((side, 1), bool)
    return np.stack([top & left, top & ~left, ~top & left, ~top & ~left])


def _planes(bits: NDArray[np.uint8], colour: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    signed = (AMPLITUDE * (2.0 * bits[:, None] - 1) * colour).astype(np.float32)
    half = side // 2
    return np.kron(signed.reshape(2, 2, 3), np.ones((half, half, 1), np.float32))


def _colour(seed: int) -> NDArray[np.float32]:
    raw = generator(seed, "colour").standard_normal(3)
    return np.asarray(raw / np.linalg.norm(raw), np.float32)


def _bits(count: int, correlation: float, draw: np.random.Generator) -> NDArray[np.uint8]:
    shared, own = draw.standard_normal((count, 1)), draw.standard_normal((count, 4))
    latent = correlation * shared + np.sqrt(1 - correlation**2) * own
    return np.asarray(latent > 0, np.uint8)
