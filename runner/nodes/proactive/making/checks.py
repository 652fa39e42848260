"""Whether the first frame gives the answer away: a check of generated samples by the plainest classifier of pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def leak_check(
    fitted: Iterable[Made], looked_at: Iterable[Made], look: Callable[[Image.Image], NDArray[np.float64]] | None = None
) -> dict[str, Leak]:
    """By scenario: how well the nearest class mean chooses among a sample's categories, on its first and its most telling frame.

    ``look``: picture -> what is compared (d,); None: its pixels, small (see also ``colours``). Means are those of the same kind of frame of
    the ``fitted`` samples. Samples with a category that was not fitted are left out.
    Draw both from one split with different seeds for a classifier that knows the very drawings, the hardest case.
    """
    known, found = (_by_scenario(samples, look or pixels) for samples in (fitted, looked_at))
    return {name: _leak(known.get(name, []), samples) for name, samples in found.items()}


def pixels(picture: Image.Image) -> NDArray[np.float64]:
    """A small copy, 0..1: what stands where."""
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float64).ravel() / 255


def colours(picture: Image.Image) -> NDArray[np.float64]:
    """Square roots of the shares of 64 colours: what is there, wherever it stands."""
    coarse = np.asarray(picture.convert("RGB")).reshape(-1, 3) // 64
    counts = np.bincount(coarse @ [16, 4, 1], minlength=64)
    return np.asarray(np.sqrt(counts / counts.sum()))


def ends(one: Made) -> list[Image.Image]:
    """The first view and the last one on the way by requests."""
    env, files = make_env(one.record), dict(one.frames)
    path = env.ask_path()
    return [_view(files, env.frame(state)) for state in (path[0], path[-1])]


def _view(files: Mapping[str, Image.Image], frame: Frame) -> Image.Image:
    picture = files[frame.uri]
    if frame.crop is None:
        return picture
    left, top, right, bottom = (round(edge) for edge in frame.crop)
    return picture.crop((left, top, right, bottom))


Seen = tuple[str, tuple[str, ...], NDArray[np.float64]]
"""Answer, categories, what is compared of the first and the last view (2, d); the pictures themselves are not kept."""


def _by_scenario(samples: Iterable[Made], look: Callable[[Image.Image], NDArray[np.float64]]) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for one in samples:
        record = one.record
        seen = np.stack([look(view) for view in ends(one)])
        found.setdefault(record.scenario, []).append((record.answer, record.categories, seen))
    return found


def _leak(
    known: Sequence[Seen],
    samples: Sequence[Seen],
) -> Leak:
    grouped: dict[str, list[NDArray[np.float64]]] = {}
    for answer, _, seen in known:
        grouped.setdefault(answer, []).append(seen)
    means = {answer: np.mean(held, axis=0) for answer, held in grouped.items()}
    told = [
        _nearest(seen, np.stack([means[name] for name in names])) == names.index(answer)
        for answer, names, seen in samples
        if all(name in means for name in names)
    ]
    first, reference = np.mean(told, axis=0) if told else (float("nan"), float("nan"))
    return Leak(float(first), float(reference), len(told))


def _nearest(seen: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each of the two frames (2, d) the nearest of the means (k, 2, d)."""
    return np.asarray(((means - seen) ** 2).sum(-1).argmin(0))
