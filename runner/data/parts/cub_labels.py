"""Attribute labels of CUB-200-2011: of each picture, or of its species."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.data.datasets.lines import malformed, numbered_lines
from runner.data.parts.numbers import read_numbers, whole_ids
from runner.errors import DataError

NOT_VISIBLE = 1
CLASSES_112 = 10
"""Classes that an attribute must be present in to be kept in the usual set of 112."""


class Labels(NamedTuple):
    """``value`` and ``valid`` uint8 [n, A]; ``kept`` [A']: the attributes that stay, of A."""

    value: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    kept: NDArray[np.int64]


class Answers(NamedTuple):
    """What annotators said: ``present`` uint8 [n, A], ``certainty`` uint8 [n, A] (0: no answer, 1 not visible ... 4 definitely)."""

    present: NDArray[np.uint8]
    certainty: NDArray[np.uint8]


def read_answers(path: Path, images: NDArray[np.int64], attributes: NDArray[np.int64]) -> Answers:
    """``image_attribute_labels.txt``. Some of its lines have six fields: the first four count.

    ``images`` and ``attributes``: the known ids, sorted. Raises ``DataError`` for unknown ids, values that mean nothing, and
    a picture that is asked twice.
    """
    rows = read_numbers(path, 4, fields=5)
    i = whole_ids(rows[:, 0], path, "picture", images)
    a = whole_ids(rows[:, 1], path, "attribute", attributes)
    for column, least, most, what in ((2, 0, 1, "is_present"), (3, 1, 4, "certainty")):
        given = rows[:, column]
        wrong = np.flatnonzero((given < least) | (given > most) | (given != np.floor(given)))
        if len(wrong):
            raise DataError(f"{path}: row {wrong[0] + 1}: {what} is {rows[wrong[0], column]:g}")
    answers = Answers(*(np.zeros((len(images), len(attributes)), np.uint8) for _ in range(2)))
    places = i * len(attributes) + a
    if np.bincount(places, minlength=1).max() > 1:
        order = np.argsort(places, kind="stable")
        again = int(order[1:][np.diff(places[order]) == 0].min())
        raise DataError(f"{path}: row {again + 1} repeats picture {rows[again, 0]:g}, attribute {rows[again, 1]:g}")
    answers.present[i, a], answers.certainty[i, a] = rows[:, 2], rows[:, 3]
    return answers


def image_labels(answers: Answers, min_certainty: int) -> Labels:
    """Each picture's own labels. Valid where the annotator was certain enough: what is not visible is not absent."""
    valid = (answers.certainty >= min_certainty).astype(np.uint8)
    return Labels(answers.present * valid, valid, np.arange(valid.shape[1]))


def class_labels(percentages: NDArray[np.float64], species: NDArray[np.int64]) -> Labels:
    """The species' labels: present where more than 50 % of its annotators said so. ``species`` [n] counts from 0."""
    value = (percentages > 50).astype(np.uint8)[species]
    return Labels(value, np.ones_like(value), np.arange(value.shape[1]))


def voted_labels(answers: Answers, species: NDArray[np.int64], train: NDArray[np.bool_], classes: int) -> Labels:
    """The species' labels by a vote of its training pictures; attributes present in at least ten species stay.

    A picture where the attribute is absent and not visible has no vote. A tie counts as present, as it does in the usual set of 112
    attributes; so does a species whose pictures all have no vote, which is a tie of none against none.
    """
    present = (answers.present == 1) & (answers.certainty > 0)
    absent = (answers.present == 0) & (answers.certainty > NOT_VISIBLE)
    votes = np.zeros((2, classes, present.shape[1]), np.int64)
    for kind, said in enumerate((absent, present)):
        np.add.at(votes[kind], species[train], said[train])
    holds = votes[1] >= votes[0]
    kept = np.flatnonzero(holds.sum(0) >= CLASSES_112)
    value = holds[:, kept].astype(np.uint8)[species]
    return Labels(value, np.ones_like(value), kept)


def read_percentages(path: Path, classes: int, attributes: int) -> NDArray[np.float64]:
    """``class_attribute_labels_continuous.txt``: percentages [classes, attributes], one line a species."""
    rows = []
    for number, line in numbered_lines(path):
        try:
            rows.append([float(field) for field in line.split()])
        except ValueError:
            raise malformed(path, number, "expected numbers") from None
        if len(rows[-1]) != attributes or not all(0 <= share <= 100 for share in rows[-1]):
            raise malformed(path, number, f"expected {attributes} percentages")
    if len(rows) != classes:
        raise DataError(f"{path}: {len(rows)} lines for {classes} species")
    return np.array(rows)
