"""How good an image-text encoder is: recall among captions and zero-shot accuracy. Each with its n and interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.nodes.intervals import wilson_interval

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Score:
    """One row of the results table ``encoder_score``."""

    head: str
    dataset: str
    metric: str
    prompt: str | None
    value: float
    n: int
    low: float
    high: float
    chance: float

    def row(self) -> dict[str, Any]:
        """As a plain dict."""
        return asdict(self)


def rank_of_own(images: FloatArray, captions: FloatArray, own: IntArray) -> IntArray:
    """Place (0 = first) of each image's own caption among all captions by cosine.

    ``images`` [n, d] and ``captions`` [m, d] unit rows, ``own`` [n] row of the own caption. Captions that tie with the
    own one count as better, so that a constant encoder earns nothing.
    """
    cosines = images @ captions.T
    mine = cosines[np.arange(len(images)), own][:, None]
    return np.asarray((cosines >= mine).sum(1) - 1)


def recall_scores(
    head: str, dataset: str, ranks: IntArray, captions: int, cutoffs: Sequence[int] = (1, 5)
) -> list[Score]:
    """Share of images whose own caption is among the first k of ``captions``, for each k."""
    return [
        _share(head, dataset, f"recall@{k}", None, int((ranks < k).sum()), len(ranks), min(1.0, k / captions))
        for k in cutoffs
    ]


def accuracy_score(
    head: str, dataset: str, prompt: str, images: FloatArray, classes: FloatArray, truth: IntArray
) -> Score:
    """Share of images whose nearest class prompt is the true one; ``classes`` [m, d] unit rows."""
    hits = int(((images @ classes.T).argmax(1) == truth).sum()) if len(images) else 0
    return _share(head, dataset, "accuracy", prompt, hits, len(images), 1 / len(classes))


def _share(head: str, dataset: str, metric: str, prompt: str | None, k: int, n: int, chance: float) -> Score:
    low, high = wilson_interval(k, n)
    return Score(head, dataset, metric, prompt, k / n if n else float("nan"), n, float(low), float(high), chance)


def hold_out(captions: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which of the captions (numbered in sorted order) are held out as unseen concepts: ``share`` of them, seeded."""
    held = np.zeros(captions, bool)
    held[np.random.default_rng(seed).permutation(captions)[: round(share * captions)]] = True
    return held
