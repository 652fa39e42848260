"""Measures of part discovery, from counts that add up over pictures, so that a bootstrap over pictures is one product.

Pure torch, float64 inside. n pictures, P parts, S slots (K, and the background where it counts as one), R resamples.
NaN: nothing to measure. Formulas of NMI and ARI are scikit-learn's; keypoint error follows PDiscoFormer (arXiv 2407.04538).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.leakage.ranking import rank, weighted_ap
from runner.nodes.leakage.resampling import bootstrap, interval, resample_counts

BACKGROUND_PLANE = 0.1
"""Value of the background among part masks of 0 and 1, where dense truth is their argmax."""
ACTIVE = 0.5
"""Largest value of a map up to which a slot counts as inactive in a picture."""
POINTING_RADIUS = 0.1
"""Radius around a keypoint, as a share of the square root of the box's area."""


class NmiAri(NamedTuple):
    """Normalised mutual information (arithmetic) and adjusted Rand index, both x 100."""

    nmi: Tensor
    ari: Tensor


def contingency(truth: Tensor, predicted: Tensor, shape: tuple[int, int]) -> Tensor:
    """Counts float64 [C, S] of pairs (truth, predicted); int64 labels of one shape; truths below 0 are left out."""
    known = truth >= 0
    flat = truth[known] * shape[1] + predicted[known]
    return torch.bincount(flat.flatten(), minlength=shape[0] * shape[1]).view(shape).double()


def nmi_ari(predicted: Tensor, truth: Tensor) -> NmiAri:
    """NMI and ARI x 100 of two labellings of the same things; int64 [m], truths below 0 are left out."""
    known = truth >= 0
    rows, columns = (torch.unique(x[known], return_inverse=True)[1] for x in (truth, predicted))
    if not len(rows):
        return nmi_ari_of_counts(truth.new_zeros((1, 1)))
    return nmi_ari_of_counts(contingency(rows, columns, (int(rows.max()) + 1, int(columns.max()) + 1)))


def nmi_ari_of_counts(counts: Tensor) -> NmiAri:
    """The same from counts [..., C, S]; whole or weighted. NaN where they are all 0; 100 where both sides are one cluster."""
    counts = counts.double()
    total = counts.sum((-2, -1))
    rows, columns = counts.sum(-1), counts.sum(-2)
    scale = total[..., None]
    joint, first, second = (_entropy(x, scale) for x in (counts.flatten(-2), rows, columns))
    mean = (first + second) / 2
    nmi = torch.where(mean > 1e-12, (first + second - joint).clamp_min(0) / mean.clamp_min(1e-12), 1.0)
    ari = _adjusted_rand(counts, rows, columns, total)
    empty = total == 0
    return NmiAri(*(torch.where(empty, torch.nan, 100 * x) for x in (nmi, ari)))


def _entropy(counts: Tensor, total: Tensor) -> Tensor:
    shares = counts / total.clamp_min(1e-300)
    return -torch.xlogy(shares, shares).sum(-1)


def _adjusted_rand(counts: Tensor, rows: Tensor, columns: Tensor, total: Tensor) -> Tensor:
    """(index - expected) / (mean of the largest - expected), over pairs; 1 where there is no room between them."""
    together = _pairs(counts).sum((-2, -1))
    first, second, every = _pairs(rows).sum(-1), _pairs(columns).sum(-1), _pairs(total)
    expected = first * second / every.clamp_min(1e-300)
    room = (first + second) / 2 - expected
    return torch.where(room.abs() > 1e-12 * every.clamp_min(1), (together - expected) / room, 1.0)


def _pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) / 2


def dense_truth(masks: Tensor) -> Tensor:
    """The part of each pixel, int64 [H, W], of masks [P, H, W]: their argmax with a background plane of 0.1; P: background."""
    planes = torch.cat([masks.float(), masks.new_full((1, *masks.shape[1:]), BACKGROUND_PLANE, dtype=torch.float32)])
    return planes.argmax(0)


# --- overlap ---------------------------------------------------------------------------------------------------------


class Overlap(NamedTuple):
    """Pixels: shared float64 [..., P, K], of each part [..., P], of each slot [..., K]; a leading axis of pictures or resamples."""

    shared: Tensor
    parts: Tensor
    slots: Tensor

    def iou(self) -> Tensor:
        """Intersection over union [..., P, K] of the pixels of all pictures together; NaN where both are empty."""
        union = self.parts[..., :, None] + self.slots[..., None, :] - self.shared
        return torch.where(union > 0, self.shared / union.clamp_min(1), torch.nan)


def overlap(masks: Tensor, slots: Tensor, k: int) -> Overlap:
    """Of one picture: masks bool [P, H, W] and the slot of each pixel int64 [H, W] (K: background)."""
    found = torch.nn.functional.one_hot(slots.flatten(), k + 1)[:, :k].double()
    given = masks.flatten(1).double()
    return Overlap(given @ found, given.sum(1), found.sum(0))


def assignment(iou: Tensor) -> list[int]:
    """For each part of ``iou`` [P, K] its slot in the assignment of the largest sum (Hungarian), -1 for none."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(iou.nan_to_num(0).cpu().numpy(), maximize=True)
    taken = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [taken.get(part, -1) for part in range(len(iou))]


def mean_iou(found: Overlap, slot_of_part: list[int]) -> Tensor:
    """Mean over parts that occur of the IoU with their slot [...]; a part without a slot counts 0."""
    iou, occurs = found.iou(), found.parts > 0
    chosen = torch.stack(
        [iou[..., p, s] if s >= 0 else torch.zeros_like(iou[..., p, 0]) for p, s in enumerate(slot_of_part)], -1
    )
    kept = torch.where(occurs, chosen.nan_to_num(0), 0).sum(-1) / occurs.sum(-1).clamp_min(1)
    return torch.where(occurs.any(-1), kept, torch.nan)


# --- places ----------------------------------------------------------------------------------------------------------


def centroids(maps: Tensor) -> Tensor:
    """Centroids (x, y) of the foreground maps [n, K, 2] as shares of the side; maps [n, K + 1, h, w]. NaN for inactive slots.

    A slot is inactive in a picture where its map is nowhere above 0.5.
    """
    foreground = maps[:, :-1].double()
    mass = foreground.sum((2, 3)).clamp_min(1e-12)
    places = []
    for axis, side in ((3, maps.shape[3]), (2, maps.shape[2])):
        grid = (torch.arange(side, device=maps.device, dtype=torch.float64) + 0.5) / side
        places.append((foreground.sum(5 - axis) * grid).sum(2) / mass)
    active = foreground.amax((2, 3)) > ACTIVE
    return torch.where(active[..., None], torch.stack(places, 2), torch.nan)


def keypoint_error(train: Tensor, train_keypoints: Tensor, test: Tensor, test_keypoints: Tensor) -> Tensor:
    """Error x 100 of keypoints told from slot centroids, per test picture and part [m, P]; NaN where a keypoint is not visible.

    ``train`` [n, K, 2] and ``test`` [m, K, 2] centroids, ``*_keypoints`` [., P, 2], all as shares of the object's box (NaN:
    inactive, not visible). Standardised on train; an inactive slot is 0 then; least squares without intercept from the 2 K
    centroids to each keypoint, over train pictures that show it. A keypoint that train never shows is not told: NaN.
    """
    inputs, tests = _standardised(train.flatten(1).double(), test.flatten(1).double())
    errors = []
    for part in range(train_keypoints.shape[1]):
        goal, asked = train_keypoints[:, part].double(), test_keypoints[:, part].double()
        seen = ~goal.isnan().any(1)
        if not seen.any():
            errors.append(torch.full_like(asked[:, 0], torch.nan))
            continue
        mean, std = goal[seen].mean(0), _safe(goal[seen].std(0, correction=0))
        # The minimal solution, by the singular values: slots that never move make the columns dependent.
        weights = torch.linalg.pinv(inputs[seen], rtol=1e-10) @ ((goal[seen] - mean) / std)
        errors.append(100 * torch.linalg.vector_norm(tests @ weights * std + mean - asked, dim=1))
    return torch.stack(errors, 1)


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean = train.nanmean(0)
    std = _safe((train - mean).square().nanmean(0).sqrt())
    first, second = (((x - mean) / std).nan_to_num(0, 0, 0) for x in (train, test))
    return first, second


def _safe(std: Tensor) -> Tensor:
    return torch.where(std > 1e-8, std, 1.0)


def pointing_hits(places: Tensor, masks: Tensor, keypoints: Tensor, radius: float) -> Tensor:
    """Whether the strongest place of each slot lies in each part, bool [K, P], of one picture.

    ``places`` int64 [K, 2] (x, y in pixels), ``masks`` bool [P, H, W], ``keypoints`` [P, 2] in pixels (NaN: none): inside the mask,
    or within ``radius`` pixels of the keypoint.
    """
    inside = masks[:, places[:, 1], places[:, 0]].T
    distance = torch.linalg.vector_norm(places[:, None] + 0.5 - keypoints[None], dim=2)
    hits: Tensor = inside | (distance <= radius)
    return hits


# --- attributes ------------------------------------------------------------------------------------------------------


def mean_average_precision(scores: Tensor, targets: Tensor, valid: Tensor, counts: Tensor) -> Tensor:
    """Mean over attributes [R + 1] of their average precision; ``scores``, ``targets``, ``valid`` [n, A], ``counts`` [R + 1, n].

    Attributes with one class only are left out; those that lose a class in a resample are left out of that resample.
    """
    known = valid.bool()
    both = (known & (targets == 1)).any(0) & (known & (targets == 0)).any(0)
    if not both.any():
        return torch.full((len(counts),), torch.nan, dtype=torch.float64)
    ranking = rank(scores[:, both], targets[:, both], known[:, both])
    return bootstrap(weighted_ap, ranking, counts, "exact").nanmean(1)


# --- intervals -------------------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A value with its 95 % percentile interval; NaN where there is none."""

    value: float
    low: float
    high: float


def counted(n: int, resamples: int, seed: int) -> Tensor:
    """How often each of ``n`` pictures is in each resample, uint8 [R + 1, n]; row 0 is the sample itself."""
    return torch.cat([torch.ones(1, n, dtype=torch.uint8), resample_counts(n, resamples, seed)])


def estimate(values: Tensor) -> Estimate:
    """Of values [R + 1] whose first belongs to the sample itself: it, and the 2.5 % and 97.5 % quantiles of the others."""
    value, nothing = float(values[0]), float("nan")
    if math.isnan(value) or len(values) == 1:
        return Estimate(value, nothing, nothing)
    low, high = interval(values[1:].double())
    return Estimate(value, float(low), float(high))


def ratio(part: Tensor, whole: Tensor, counts: Tensor) -> Estimate:
    """Sum of ``part`` [n] over the sum of ``whole`` [n], resampled over pictures; NaN where the whole is 0."""
    below = summed(whole, counts)
    return estimate(torch.where(below > 0, summed(part, counts) / below.clamp_min(1e-300), torch.nan))


def summed(each: Tensor, counts: Tensor) -> Tensor:
    """``each`` [n, ...] added over the pictures of each resample: float64 [R + 1, ...]."""
    flat = counts.double() @ each.double().reshape(len(each), -1)
    return flat.view(len(counts), *each.shape[1:])
