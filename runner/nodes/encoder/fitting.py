"""From captioned pictures to measured heads: hold captions out, fit, score on the unseen, optionally fit again on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError
from runner.models.encoders.heads import ContrastiveHead, Head, MeanHead, RidgeHead, unit_rows
from runner.nodes.encoder.contrastive import EPOCHS, fit_contrastive
from runner.nodes.encoder_metrics import Score, hold_out, rank_of_own, recall_scores
from runner.nodes.ridge import fit_logit_scale, fit_ridge

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Captioned pictures: unit image features ``v`` [n, p], ``caption`` [n] number of each picture's caption, ``source``
    [n] names, and unit embeddings ``t`` [m, q] of the m different captions in sorted order. ``train_only`` [n] marks
    pictures that are never scored and whose captions are not drawn for the hold-out."""

    v: FloatArray
    caption: IntArray
    source: NDArray[np.str_]
    t: FloatArray
    train_only: NDArray[np.bool_]

    def take(self, rows: NDArray[np.bool_]) -> Pairs:
        """The chosen pictures; captions keep their numbers."""
        return replace(
            self,
            v=self.v[rows],
            caption=self.caption[rows],
            source=self.source[rows],
            train_only=self.train_only[rows],
        )


def make_pairs(
    features: FloatArray,
    captions: Sequence[str],
    sources: Sequence[str],
    encode: Callable[[Sequence[str]], FloatArray],
    train_only: Sequence[bool] | None = None,
) -> Pairs:
    """Number the captions in sorted order and embed each once. Raises ``DataError`` for fewer than two captions."""
    names = sorted(set(captions))
    if len(names) < 2:
        raise DataError("an encoder needs pictures with at least two different captions")
    number = {name: index for index, name in enumerate(names)}
    caption = np.array([number[c] for c in captions], np.int64)
    extra = np.zeros(len(caption), bool) if train_only is None else np.asarray(train_only, bool)
    return Pairs(unit_rows(features), caption, np.array(sources), encode(names), extra)


def fit_heads(
    pairs: Pairs, *, seed: int, epochs: int = EPOCHS, on_epoch: Callable[[], None] | None = None
) -> tuple[RidgeHead, ContrastiveHead]:
    """Both heads on all given pairs; the ridge head's logit scale is fitted on the same pairs."""
    t = pairs.t[pairs.caption]
    ridge = with_logit_scale(fit_ridge(pairs.v, t), pairs)
    return ridge, fit_contrastive(pairs.v, t, pairs.caption, seed=seed, epochs=epochs, on_epoch=on_epoch)


def with_logit_scale(ridge: RidgeHead, pairs: Pairs) -> RidgeHead:
    """The head with the logit scale that fits these pairs best, each picture against all their captions."""
    numbers, own = np.unique(pairs.caption, return_inverse=True)
    cosines = ridge.images(pairs.v) @ ridge.texts(pairs.t[numbers]).T
    return replace(ridge, logit_scale=fit_logit_scale(cosines, own))


def score_heads(heads: dict[str, Head], held: Pairs) -> list[Score]:
    """Recall of each head on each source's held-out pictures, among all held-out captions."""
    numbers, own = np.unique(held.caption, return_inverse=True)
    scores = []
    for name, head in heads.items():
        captions = head.texts(held.t[numbers])
        for source in dict.fromkeys(held.source.tolist()):
            mine = held.source == source
            ranks = rank_of_own(head.images(held.v[mine]), captions, own[mine])
            scores += recall_scores(name, source, ranks, len(numbers))
    return scores


def held_out_captions(pairs: Pairs, share: float, seed: int) -> NDArray[np.bool_]:
    """Which captions [m] are unseen concepts: a share of those of the scored pictures. No picture, also none that is
    only for training, may teach one."""
    scored = np.unique(pairs.caption[~pairs.train_only])
    held = np.zeros(len(pairs.t), bool)
    held[scored[hold_out(len(scored), share, seed)]] = True
    return held


def fit_and_score(
    pairs: Pairs, *, holdout: float, seed: int, refit: bool, epochs: int = EPOCHS, on_epoch: Any = None
) -> tuple[RidgeHead, ContrastiveHead, list[Score], dict[str, int]]:
    """Fit on the captions that are not held out, score on those that are.

    With ``refit`` the returned heads are fitted once more on everything, while the scores stay those of the first fit.
    Also returns how many captions and pictures were used for what.
    """
    held_captions = held_out_captions(pairs, holdout, seed)
    unseen_rows = held_captions[pairs.caption]
    held = unseen_rows & ~pairs.train_only
    train = pairs.take(~unseen_rows)
    counts = {
        "captions": len(pairs.t),
        "captions_held_out": int(held_captions.sum()),
        "pictures": len(pairs.v),
        "pictures_trained": len(train.v),
        "pictures_held_out": int(held.sum()),
    }
    ridge, contrastive = fit_heads(train, seed=seed, epochs=epochs, on_epoch=on_epoch)
    if not held.any():
        return ridge, contrastive, [], counts
    unseen = pairs.take(held)
    ridge = with_logit_scale(ridge, unseen)
    heads: dict[str, Head] = {"ridge": ridge, "contrastive": contrastive, "mean": MeanHead(ridge, contrastive)}
    scores = score_heads(heads, unseen)
    if refit:
        scale = ridge.logit_scale
        ridge, contrastive = fit_heads(pairs, seed=seed, epochs=epochs, on_epoch=on_epoch)
        ridge = replace(ridge, logit_scale=scale)
    return ridge, contrastive, scores, counts
