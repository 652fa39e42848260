"""Whether the first frame gives the answer away: a check of generated samples by the plainest classifier of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runner.nodes.proactive.env import Frame, make_env
from runner.nodes.proactive.making.making import Made

SIDE = 16
"""Pixels of a side that the classifier looks at."""


class Leak(NamedTuple):
    """Shares of samples whose answer is the nearest of the shown categories (a guess: 0.25), and how many samples were looked at."""

    first: float
    reference: float
    n: int


def leak_check(fitted: Iterable[Made], looked_at: Iterable[Made]) -> dict[str, Leak]:
    """By scenario: how well the nearest class mean of pixels chooses among a sample's categories, on its first and its reference frame.

    Means are those of the same kind of frame of the ``fitted`` samples. Samples with a category that was not fitted are left out.
    Draw both from one split with different seeds for a classifier that knows the very drawings, the hardest case.
    """
    known, found = _by_scenario(fitted), _by_scenario(looked_at)
    return {name: _leak(known.get(name, []), samples) for name, samples in found.items()}


def _by_scenario(samples: Iterable[Made]) -> dict[str, list[tuple[str, tuple[str, ...], NDArray[np.float64]]]]:
    """Answer, categories and pixels (2, d) of the first and the reference frame; the pictures themselves are not kept."""
    found: dict[str, list[tuple[str, tuple[str, ...], NDArray[np.float64]]]] = {}
    for one in samples:
        record = one.record
        found.setdefault(record.scenario, []).append((record.answer, record.categories, ends(one)))
    return found


def ends(one: Made) -> NDArray[np.float64]:
    """Pixels (2, 3 SIDE^2) of the first frame and of the most telling one."""
    env = make_env(one.record)
    path = env.ask_path()
    pictures = dict(one.frames)
    return np.stack([_pixels(pictures, env.frame(state)) for state in (path[0], path[-1])])


def _pixels(pictures: dict[str, Image.Image], frame: Frame) -> NDArray[np.float64]:
    picture = pictures[frame.uri]
    box = None if frame.crop is None else tuple(frame.crop)
    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX, box=box)
    return np.asarray(small.convert("RGB"), np.float64).ravel() / 255


def _leak(
    known: Sequence[tuple[str, tuple[str, ...], NDArray[np.float64]]],
    samples: Sequence[tuple[str, tuple[str, ...], NDArray[np.float64]]],
) -> Leak:
    grouped: dict[str, list[NDArray[np.float64]]] = {}
    for answer, _, pixels in known:
        grouped.setdefault(answer, []).append(pixels)
    means = {answer: np.mean(held, axis=0) for answer, held in grouped.items()}
    told = [
        _nearest(pixels, np.stack([means[name] for name in names])) == names.index(answer)
        for answer, names, pixels in samples
        if all(name in means for name in names)
    ]
    first, reference = np.mean(told, axis=0) if told else (float("nan"), float("nan"))
    return Leak(float(first), float(reference), len(told))


def _nearest(pixels: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each of the two frames (2, d) the nearest of the means (k, 2, d)."""
    return np.asarray(((means - pixels) ** 2).sum(-1).argmin(0))
