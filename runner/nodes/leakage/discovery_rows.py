"""Rows of the results tables of part discovery, and pictures with the found parts drawn over them."""

from __future__ import annotations

import colorsys
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from runner.data.images import encode_jpeg
from runner.nodes.leakage import discovery_metrics as metrics
from runner.nodes.leakage.discovery_evaluation import Answers, Counts, Seen, in_box

Row = dict[str, Any]


class Labels(NamedTuple):
    """Of the test pictures, for the attributes that are told. ``targets``, ``valid`` [m, A]; ``classes`` int64 [m]; ``owner`` int64 [A]:
    part, -1 for several; ``counted`` bool [A]: whether the attribute enters averages."""

    targets: Tensor
    valid: Tensor
    classes: Tensor
    owner: Tensor
    counted: Tensor


class Outcome(NamedTuple):
    """A trained discovery on test pictures. ``train``: centroids [n, K, 2] and keypoints [n, P, 2] of training pictures as shares of
    the object's box, for the keypoint regression; ``shares`` [A, K] hard routing; ``slot_of_part`` [P]: -1 for none."""

    train: tuple[Tensor, Tensor]
    test: Counts
    seen: Seen
    labels: Labels
    shares: Tensor
    slot_of_part: list[int]


def slot_of_part(test: Counts, *, fixed: bool) -> list[int]:
    """The slot of each part: its own number (fixed), or by the assignment of the largest overlap on test pictures (learned)."""
    parts = test.shared.shape[1]
    if fixed:
        return list(range(parts))
    return metrics.assignment(_overlap(test, torch.ones(1, len(test.shared))).iou()[0])


def _overlap(test: Counts, drawn: Tensor) -> metrics.Overlap:
    return metrics.Overlap(*(metrics.summed(x, drawn) for x in (test.shared, test.parts, test.slots)))


def estimates(outcome: Outcome, drawn: Tensor) -> dict[str, metrics.Estimate]:
    """Every measure with its interval; ``drawn`` [R + 1, m] of ``metrics.counted``. NaN: nothing to measure."""
    test, seen, labels = outcome.test, outcome.seen, outcome.labels
    points = metrics.nmi_ari_of_counts(metrics.summed(test.spots, drawn))
    dense = metrics.nmi_ari_of_counts(metrics.summed(test.dense, drawn))
    found = {
        "nmi": metrics.estimate(points.nmi),
        "ari": metrics.estimate(points.ari),
        "dense_nmi": metrics.estimate(dense.nmi),
        "dense_ari": metrics.estimate(dense.ari),
        "keypoint_error": _keypoint_error(outcome, drawn),
        "pointing": _pointing(outcome, drawn),
        "miou": metrics.estimate(metrics.mean_iou(_overlap(test, drawn), outcome.slot_of_part)),
        "foreground_iou": metrics.ratio(test.foreground[:, 0], test.foreground[:, 1], drawn),
        "attribute_map": _attribute_map(seen.answers, labels, drawn),
    }
    if seen.answers.classes is not None:
        found["class_top1"] = _top1(seen.answers, labels, drawn)
    return found | _left_out(outcome, drawn) | _removed(seen, labels, drawn)


def _attribute_map(told: Answers, labels: Labels, drawn: Tensor) -> metrics.Estimate:
    kept = labels.counted
    scores = told.attributes[:, kept]
    return metrics.estimate(
        metrics.mean_average_precision(scores, labels.targets[:, kept], labels.valid[:, kept], drawn)
    )


def _top1(told: Answers, labels: Labels, drawn: Tensor) -> metrics.Estimate:
    assert told.classes is not None
    right = told.classes.argmax(1) == labels.classes
    return metrics.ratio(right, torch.ones(len(right)), drawn)


def _keypoint_error(outcome: Outcome, drawn: Tensor) -> metrics.Estimate:
    """The regression is fitted once, on training pictures; resampled are the test pictures."""
    test = outcome.test
    errors = metrics.keypoint_error(*outcome.train, in_box(outcome.seen.centroids, test.box), test.points)
    return metrics.ratio(errors.nansum(1), (~errors.isnan()).sum(1), drawn)


def _pointing(outcome: Outcome, drawn: Tensor) -> metrics.Estimate:
    """Over attributes of one part: the strongest place of the slot that the attribute reads lies in its part, where visible."""
    owner = outcome.labels.owner
    one = (owner >= 0) & outcome.labels.counted
    slot, part = outcome.shares.argmax(1)[one], owner[one]
    return metrics.ratio(outcome.test.hits[:, slot, part].sum(1), outcome.test.visible[:, part].sum(1), drawn)


def _left_out(outcome: Outcome, drawn: Tensor) -> dict[str, metrics.Estimate]:
    """Mean change of probabilities when one slot becomes background: of attributes that read it, and of the others."""
    if outcome.seen.left_out is None:
        return {}
    changes = outcome.seen.left_out.double()
    own = torch.nn.functional.one_hot(outcome.shares.argmax(1), changes.shape[1]).T.bool()
    held = torch.ones(len(changes), dtype=torch.float64)
    return {
        name: metrics.ratio((changes * chosen).sum((1, 2)), held * float(chosen.sum()), drawn)
        for name, chosen in (("left_out_own", own), ("left_out_other", ~own))
    }


def _removed(seen: Seen, labels: Labels, drawn: Tensor) -> dict[str, metrics.Estimate]:
    found = {}
    for level, (told, share) in seen.removed.items():
        found[f"attribute_map_without_{level:g}"] = _attribute_map(told, labels, drawn)
        found[f"removed_{level:g}"] = metrics.ratio(share, torch.ones(len(share)), drawn)
        if told.classes is not None:
            found[f"class_top1_without_{level:g}"] = _top1(told, labels, drawn)
    return found


def metric_rows(common: Row, outcome: Outcome, drawn: Tensor) -> list[Row]:
    """Rows of ``discover_metrics``; what cannot be measured is NULL."""
    return [
        common | {"metric": name, "value": _number(e.value), "ci_low": _number(e.low), "ci_high": _number(e.high), "n": drawn.shape[1]}
        for name, e in estimates(outcome, drawn).items()
    ]  # fmt: skip


def slot_rows(common: Row, outcome: Outcome, parts: list[str]) -> list[Row]:
    """Rows of ``discover_slots``."""
    test = outcome.test
    iou = _overlap(test, torch.ones(1, len(test.shared))).iou()[0]
    pointing = test.hits.double().sum(0) / test.visible.double().sum(0)
    part_of = {slot: part for part, slot in enumerate(outcome.slot_of_part) if slot >= 0}
    rows = []
    for slot in range(test.slots.shape[1]):
        part = part_of.get(slot)
        mine = (None, None) if part is None else (_number(float(iou[part, slot])), _number(float(pointing[slot, part])))
        rows.append(
            common
            | {"slot": slot, "part": None if part is None else parts[part], "iou": mine[0], "pointing": mine[1]}
            | {"active": float(test.active[:, slot].double().mean()), "n": len(test.active)}
        )
    return rows


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- pictures --------------------------------------------------------------------------------------------------------


def colours(count: int) -> list[tuple[int, int, int]]:
    """Colours far apart: hues go round by the golden angle, at two lightnesses."""
    made = (colorsys.hls_to_rgb(i * 0.618034 % 1, 0.5 if i % 2 == 0 else 0.35, 0.9) for i in range(count))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in made]


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def overlay(
    pixels: NDArray[np.uint8], slots: NDArray[np.integer[Any]], k: int, share: float = 0.55, least: int = 192
) -> bytes:
    """JPEG of the picture uint8 [3, H, W] with its slots [h, w] coloured; the background (``k``) stays as it is."""
    drawn, side = pixels.transpose(1, 2, 0).astype(np.float32), pixels.shape[2]
    large = np.repeat(np.repeat(slots, side // slots.shape[0], 0), side // slots.shape[1], 1)
    palette = np.array([*colours(k), (0, 0, 0)], np.float32)[large]
    mixed = np.where((large < k)[..., None], (1 - share) * drawn + share * palette, drawn)
    image = Image.fromarray(np.rint(mixed).astype(np.uint8))
    if side < least:
        image = image.resize((least, least), Image.Resampling.NEAREST)
    return encode_jpeg(image, quality=85)
