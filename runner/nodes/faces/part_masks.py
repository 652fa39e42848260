"""Parts of a face from the parser's labels, and attributes measured inside each part's own pixels. Pure numpy.

Which labels make a part, what is measured and where it is split are definitions of this project. A value that is measured in a
part's own pixels is known to a leak-free vector of that part; what other parts' vectors know of it is leakage, or natural
correlation (light skin, light neck), which a two-stage reference tells apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.nodes.faces.parts import PARTS

FACE_PARTS: dict[str, tuple[str, ...]] = {
    "hair": ("hair",),
    "skin": ("skin",),
    "brows": ("l_brow", "r_brow"),
    "eyes": ("l_eye", "r_eye"),
    "nose": ("nose",),
    "mouth": ("mouth", "upper_lip", "lower_lip"),
    "ears": ("l_ear", "r_ear"),
    "neck": ("neck",),
    "cloth": ("cloth",),
    "glasses": ("eye_glasses",),
    "hat": ("hat",),
}
"""Parts by name: the labels that are united, so that a mirrored face has the same parts."""

LEAST_SHARE = 0.0005
"""A part that covers less of the picture is not shown."""
_LUMA = np.array([0.2126, 0.7152, 0.0722])
_LIPS = ("upper_lip", "lower_lip")
DEFINES_PRESENCE = "says whether the part is there, which its mask tells by itself"

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
Measure = Callable[[Values, NDArray[np.integer]], float]


class Attribute(NamedTuple):
    """``owner``: its part; ``labels``: parser's labels whose pixels are measured; ``measure(rgb [n, 3] in 0..1, labels [n])``.

    ``above``: it holds where the measure lies above the threshold, else below. ``presence``: measured on the whole picture.
    """

    owner: str
    labels: tuple[str, ...]
    measure: Measure
    above: bool = True
    presence: bool = False


def _light(rgb: Values, labels: NDArray[np.integer]) -> float:
    return float((rgb @ _LUMA).mean())


def _reddish(rgb: Values, labels: NDArray[np.integer]) -> float:
    """Mean of (R - B) / (R + G + B): 0 for grey, larger for red, orange and brown."""
    return float(((rgb[:, 0] - rgb[:, 2]) / np.maximum(rgb.sum(1), 1e-6)).mean())


def _red(rgb: Values, labels: NDArray[np.integer]) -> float:
    """Mean of (R - G) / (R + G + B)."""
    return float(((rgb[:, 0] - rgb[:, 1]) / np.maximum(rgb.sum(1), 1e-6)).mean())


def _colourful(rgb: Values, labels: NDArray[np.integer]) -> float:
    return float((rgb.max(1) - rgb.min(1)).mean())


def _inner(rgb: Values, labels: NDArray[np.integer]) -> float:
    """Share of the mouth's pixels that lie between the lips."""
    return float((labels == PARTS.index("mouth")).mean())


def _here(rgb: Values, labels: NDArray[np.integer]) -> float:
    return 1.0


def _of(part: str, measure: Measure, *, above: bool = True) -> Attribute:
    return Attribute(part, FACE_PARTS[part], measure, above)


ATTRIBUTES: dict[str, Attribute] = {
    "hair: dark": _of("hair", _light, above=False),
    "hair: reddish": _of("hair", _reddish),
    "skin: light": _of("skin", _light),
    "skin: reddish": _of("skin", _reddish),
    "brows: dark": _of("brows", _light, above=False),
    "eyes: dark": _of("eyes", _light, above=False),
    "nose: light": _of("nose", _light),
    "mouth: open": _of("mouth", _inner),
    "lips: red": Attribute("mouth", _LIPS, _red),
    "ears: light": _of("ears", _light),
    "neck: light": _of("neck", _light),
    "cloth: dark": _of("cloth", _light, above=False),
    "cloth: colourful": _of("cloth", _colourful),
    "glasses: worn": Attribute("glasses", FACE_PARTS["glasses"], _here, presence=True),
    "hat: worn": Attribute("hat", FACE_PARTS["hat"], _here, presence=True),
}


def part_masks(labels: NDArray[np.integer]) -> dict[str, Mask]:
    """Masks [h, w] of the parts that are shown in parser's labels [h, w]."""
    masks = {part: _among(labels, names) for part, names in FACE_PARTS.items()}
    return {part: mask for part, mask in masks.items() if mask.mean() >= LEAST_SHARE}


def object_mask(labels: NDArray[np.integer]) -> Mask:
    """Everything but the background: bool [h, w]."""
    return np.asarray(labels != PARTS.index("background"))


def _among(labels: NDArray[np.integer], names: Sequence[str]) -> Mask:
    return np.isin(labels, [PARTS.index(name) for name in names])


def resized(labels: NDArray[np.integer], height: int, width: int) -> NDArray[np.integer]:
    """Labels [h, w] as [height, width]: each pixel gets the label at its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip((height, width), labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)]


def measured(labels: NDArray[np.integer], pixels: NDArray[np.uint8], names: Sequence[str]) -> Values:
    """Measures float64 [A] of the named attributes of one picture: ``labels`` [h, w], ``pixels`` uint8 [h, w, 3] (RGB).

    NaN where a part is not shown; of attributes of presence 1 or 0.
    """
    return np.array([_measured(ATTRIBUTES[name], labels, pixels) for name in names], np.float64)


def _measured(attribute: Attribute, labels: NDArray[np.integer], pixels: NDArray[np.uint8]) -> float:
    where = _among(labels, attribute.labels)
    shown = where.mean() >= LEAST_SHARE
    if attribute.presence:
        return float(shown)
    return attribute.measure(pixels[where] / 255.0, labels[where]) if shown else float("nan")


class Labels(NamedTuple):
    """``value`` and ``valid`` uint8 [n, A]; ``thresholds`` by attribute."""

    value: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    thresholds: dict[str, float]


def split_at(measures: Values, names: Sequence[str], train: Mask, given: Mapping[str, float]) -> Labels:
    """Binary labels from measures [n, A]: split at a given threshold, else at the median of the pictures ``train`` [n] that show it.

    A measure that equals its threshold does not hold. Attributes of presence are split at 0.5.
    """
    thresholds = {}
    for name, column in zip(names, measures.T, strict=True):
        known = column[train & ~np.isnan(column)]
        usual = float(np.median(known)) if len(known) else 0.0
        thresholds[name] = given.get(name, 0.5 if ATTRIBUTES[name].presence else usual)
    valid = ~np.isnan(measures)
    limits = np.array([thresholds[name] for name in names])
    above = np.array([ATTRIBUTES[name].above for name in names], bool)
    with np.errstate(invalid="ignore"):
        value = np.where(above, measures > limits, measures < limits) & valid
    return Labels(value.astype(np.uint8), valid.astype(np.uint8), thresholds)
