"""What the classifier said, in the words of the task. Pure.

A model has its own label names. Each is mapped to a value of the task (many labels may mean one value); labels that mean
none are "(unmapped)", and saying one of them is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from runner.errors import DataError
from runner.naming import normalised

FloatArray = NDArray[np.floating[Any]]
Compete = Literal["all", "task"]

UNMAPPED = "(unmapped)"
_TOP_K = re.compile(r"^topk:([1-9]\d*)$")
PREDICTION_PATTERN = r"^(top1|topk:[1-9]\d*|logit>=0)$"


@dataclass(frozen=True)
class LabelMap:
    """``meaning[i]``: value of the task that model label i means, or None; ``values``: values of the audited output."""

    meaning: tuple[str | None, ...]
    values: tuple[str, ...]

    def places(self, value: str) -> NDArray[np.int64]:
        """Model outputs that mean ``value``."""
        return np.array([i for i, v in enumerate(self.meaning) if v == value], np.int64)


def map_labels(labels: Sequence[str], values: Sequence[str], given: Mapping[str, str]) -> LabelMap:
    """Match model labels to task values: by ``given`` (label -> value), else by equal names.

    Names are compared whatever case, spacing and underscores; of a label that lists synonyms ("tabby, tabby cat") each
    counts. Raises ``DataError`` where ``given`` names an unknown label or value, or a value of the task has no label.
    """
    by_name = {normalised(value): value for value in values}
    known = {normalised(label) for label in labels}
    for label, value in given.items():
        if normalised(label) not in known:
            raise DataError(f"label_map: the classifier has no label {label!r}", hint=_labels_hint(labels))
        if normalised(value) not in by_name:
            raise DataError(f"label_map: {value!r} is no class of the task", hint=f"Its classes: {', '.join(values)}.")
    chosen = {normalised(label): by_name[normalised(value)] for label, value in given.items()}
    meaning = tuple(chosen.get(normalised(label)) or _by_synonym(label, by_name) for label in labels)
    missing = [value for value in values if value not in meaning]
    if missing:
        raise DataError(
            f"the classifier has no label for {', '.join(map(repr, missing[:5]))}", hint=_labels_hint(labels)
        )
    return LabelMap(meaning, tuple(values))


def _by_synonym(label: str, by_name: Mapping[str, str]) -> str | None:
    names = [label, *label.split(",")]
    return next((by_name[normalised(n)] for n in names if normalised(n) in by_name), None)


def _labels_hint(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
    return f"Say with label_map which model label means which class. The model's labels: {shown}."


class Said(NamedTuple):
    """Per image [n]: the predicted value, whether it is right, the target's score, the target's rank (1 = first)."""

    pred: NDArray[np.object_]
    correct: NDArray[np.bool_]
    score: FloatArray
    rank: NDArray[np.int64]


def said_one_of_many(
    logits: FloatArray, labels: LabelMap, target: str, *, top: int = 1, compete: Compete = "all"
) -> Said:
    """Judge images of ``target`` by the highest of a softmax head's logits [n, labels].

    ``compete``: ``all`` outputs of the model stand against each other, so that an answer outside the task is wrong; ``task``:
    only those that mean a value of the task. Right when the target's best label is among the ``top`` first. Ties go to
    the label that comes first. ``score`` is the target's share of the softmax over the competing outputs.
    """
    meaning = np.array(labels.meaning, object)
    inside = np.array([m is not None for m in labels.meaning])
    competing = np.flatnonzero(inside) if compete == "task" else np.arange(len(meaning))
    z = np.asarray(logits, np.float64)[:, competing]
    own = np.flatnonzero(meaning[competing] == target)
    first = np.argmax(z, axis=1)
    pred = np.where(meaning[competing][first] == None, UNMAPPED, meaning[competing][first])  # noqa: E711
    best = own[np.argmax(z[:, own], axis=1)]
    best_z = np.take_along_axis(z, best[:, None], 1)
    ahead = (z > best_z) | ((z == best_z) & (np.arange(z.shape[1]) < best[:, None]))
    rank = 1 + ahead.sum(1)
    score = np.exp(logsumexp(z[:, own], axis=1) - logsumexp(z, axis=1))
    return Said(pred.astype(object), rank <= top, score, rank)


def said_yes_or_no(logits: FloatArray, labels: LabelMap, target: str) -> Said:
    """Judge images of ``target`` by its own logit: yes where it is >= 0 (exactly 0 is yes). ``score`` is the logit."""
    z = np.asarray(logits, np.float64)
    own = z[:, labels.places(target)].max(1)
    yes = own >= 0
    rank = 1 + (z > own[:, None]).sum(1)
    return Said(np.where(yes, target, f"not {target}").astype(object), yes, own, rank)


def judge_images(
    logits: FloatArray, labels: LabelMap, target: str, *, prediction: str, yes_no: bool, compete: Compete = "all"
) -> Said:
    """Apply the prediction rule ``top1``, ``topk:N`` or ``logit>=0``; ``yes_no`` outputs are judged by their logit."""
    if prediction == "logit>=0" or yes_no:
        return said_yes_or_no(logits, labels, target)
    top = _TOP_K.match(prediction)
    return said_one_of_many(logits, labels, target, top=int(top[1]) if top else 1, compete=compete)
