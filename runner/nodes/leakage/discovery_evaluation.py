"""What a trained part discovery finds and tells on the pictures: noise-free, with hard masks. torch; any device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from runner.nodes.leakage import discovery_metrics as metrics
from runner.nodes.leakage import discovery_model as model
from runner.nodes.leakage.discovery import (
    hard_slots,
    leave_one_out,
    low_confidence_thresholds,
    part_maps,
    remove_low_confidence,
)
from runner.nodes.leakage.discovery_data import Truth
from runner.nodes.leakage.discovery_training import Trainer, as_planes, seeded


class Answers(NamedTuple):
    """What is told of pictures: ``attributes`` logits [B, A]; ``classes`` logits [B, C], or None."""

    attributes: Tensor
    classes: Tensor | None


class Seen(NamedTuple):
    """Of the pictures of one split: ``slots`` int64 [n, h, w] of patches (K: background); ``centroids`` [n, K, 2] as shares of the
    side, NaN where inactive; ``answers``; ``left_out`` [n, K, A]: absolute change of an attribute's probability when a slot's patches
    become background, or None; ``removed``: by quantile, answers and share of foreground patches that were removed [n]."""

    slots: Tensor
    centroids: Tensor
    answers: Answers
    left_out: Tensor | None
    removed: dict[float, tuple[Answers, Tensor]]


class Looking(NamedTuple):
    """Which interventions are asked for. ``levels``: quantiles below which patches of low confidence are removed."""

    leave_one_out: bool
    levels: tuple[float, ...]
    batch: int


@torch.no_grad()
def maps_of(trainer: Trainer, places: Tensor) -> tuple[Tensor, Tensor]:
    """Patch tokens [B, N, D] and noise-free maps [B, K + 1, N]."""
    kept = trainer.material.tokens
    if kept is not None and not trainer.plan.train_tokens:
        tokens = kept(places).to(trainer.device)
    else:
        pixels = trainer.material.pixels(places).to(trainer.device)
        tokens = model.patch_tokens(trainer.first, trainer.first.normalise(pixels))
    return tokens, part_maps(tokens, trainer.head.prototypes, trainer.plan.tau)


@torch.no_grad()
def slot_vectors(
    trainer: Trainer, pixels: Callable[[], Tensor], tokens: Tensor, maps: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors [B, K, D] that attributes read and [B, S, D] that a class reads, of ``slots`` int64 [B, N].

    Interventions may have changed ``slots`` against the maps; ``pixels()`` gives [B, 3, H, W] in 0..1, for stage 2 only.
    """
    if trainer.second is None:
        vectors = trainer.head.single_vectors(tokens, with_slots(maps, slots))
        return vectors, vectors
    found, k = _second_vectors(trainer, trainer.first.normalise(pixels()), slots), trainer.head.plan.slots
    return found[:, :k], found[:, k:]


@torch.no_grad()
def told(trainer: Trainer, vectors: Tensor, of_class: Tensor) -> Answers:
    """Attributes, by hard routing, and classes."""
    head, classes = trainer.head, None
    if head.classes is not None:
        classes = head.class_logits(of_class, of_class.new_ones(of_class.shape[:2])).cpu()
    return Answers(head.attribute_logits(vectors, head.shares(0.0)).cpu(), classes)


def with_slots(maps: Tensor, slots: Tensor) -> Tensor:
    """Maps [B, K + 1, N] where patches whose slot is no longer the argmax belong to their new slot altogether."""
    changed = (slots != hard_slots(maps))[:, None]
    new = functional.one_hot(slots, maps.shape[1]).transpose(1, 2).to(maps.dtype)
    return torch.where(changed, new, maps)


def _second_vectors(trainer: Trainer, normalised: Tensor, slots: Tensor) -> Tensor:
    """Stage-2 vectors of the slots, and of the foreground where a class is told: [B, K (+ 1), D]."""
    k = trainer.head.plan.slots
    masks = functional.one_hot(slots, k + 1).transpose(1, 2)[:, :k].bool()
    if trainer.head.classes is not None:
        masks = torch.cat([masks, masks.any(1, keepdim=True)], 1)
    pictures = torch.arange(len(slots), device=slots.device).repeat_interleave(masks.shape[1])
    assert trainer.second is not None
    found = model.hard_stage(trainer.second, normalised, masks.flatten(0, 1), pictures, trainer.head.plan.second_pool)
    modulated: Tensor = trainer.head.modulation(found)
    return modulated.view(*masks.shape[:2], -1)


@torch.no_grad()
def look(
    trainer: Trainer,
    places: Tensor,
    looking: Looking,
    low: Tensor | None = None,
    after: Callable[[], None] = lambda: None,
) -> Seen:
    """Everything that is asked of the pictures ``places``, batch by batch; ``low`` [Q, K] of ``floors``, for its levels."""
    parts = []
    for some in model.chunks(places, looking.batch):
        parts.append(_look(trainer, some, looking, low))
        after()
    return _joined(parts)


def _look(trainer: Trainer, places: Tensor, looking: Looking, low: Tensor | None) -> Seen:
    tokens, maps = maps_of(trainer, places)
    slots, k = hard_slots(maps), trainer.head.plan.slots

    def vectors(of: Tensor) -> tuple[Tensor, Tensor]:
        return slot_vectors(trainer, lambda: trainer.material.pixels(places).to(trainer.device), tokens, maps, of)

    found = vectors(slots)
    plain, left_out = told(trainer, *found), None
    if looking.leave_one_out:
        # Probabilities in tensors of one shape: vectorised sigmoids of equal numbers differ in the last bit by their place.
        changed = [told(trainer, *each).attributes.sigmoid() for each in _each_left_out(trainer, found, slots, vectors)]
        left_out = (torch.stack(changed, 1) - plain.attributes.sigmoid()[:, None]).abs()
    removed = {}
    for level, floor in zip(looking.levels, [] if low is None else low.unbind(), strict=True):
        fewer = remove_low_confidence(slots, tokens, trainer.head.prototypes, floor)
        before = (slots < k).sum(1)
        share = (before - (fewer < k).sum(1)) / before.clamp_min(1)
        removed[level] = (told(trainer, *vectors(fewer)), share.cpu())
    planes = as_planes(maps)
    return Seen(hard_slots(planes).cpu(), metrics.centroids(planes).cpu(), plain, left_out, removed)


def _each_left_out(
    trainer: Trainer,
    found: tuple[Tensor, Tensor],
    slots: Tensor,
    vectors: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors with one slot forced to background, slot by slot. In stage 2 the other slots see the same patches as before."""
    k = trainer.head.plan.slots
    if trainer.second is None:
        yield from (vectors(leave_one_out(slots, slot, k)) for slot in range(k))
        return
    empty = vectors(torch.full_like(slots, k))[0]
    for slot in range(k):
        left = found[0].clone()
        left[:, slot] = empty[:, slot]
        yield left, found[1]


@torch.no_grad()
def found_in(trainer: Trainer, places: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Slots of patches int64 [n, h, w] and centroids [n, K, 2] of the slots, as in ``Seen``."""
    slots, places_found = [], []
    for some in model.chunks(places, batch):
        planes = as_planes(maps_of(trainer, some)[1])
        slots.append(hard_slots(planes).cpu())
        places_found.append(metrics.centroids(planes).cpu())
    return torch.cat(slots), torch.cat(places_found)


@torch.no_grad()
def floors(trainer: Trainer, looking: Looking, most: int = 100_000) -> Tensor:
    """Thresholds [Q, K] over patches of training pictures: ``most`` patches or so, of pictures drawn by the training's seed.

    Datasets list their pictures class by class, so that the first ones would show a few classes only.
    """
    tokens, slots = [], []
    for places in model.chunks(torch.randperm(trainer.n, generator=seeded(trainer.seed)), looking.batch):
        found, maps = maps_of(trainer, places)
        tokens.append(found.flatten(0, 1))
        slots.append(hard_slots(maps).flatten())
        if sum(map(len, slots)) >= most:
            break
    levels = torch.tensor(looking.levels, device=trainer.device)
    return low_confidence_thresholds(torch.cat(tokens), trainer.head.prototypes, torch.cat(slots), levels).thresholds


def _joined(parts: Sequence[Seen]) -> Seen:
    left_out = None if parts[0].left_out is None else torch.cat([p.left_out for p in parts if p.left_out is not None])
    removed = {
        level: (_together([p.removed[level][0] for p in parts]), torch.cat([p.removed[level][1] for p in parts]))
        for level in parts[0].removed
    }
    slots, places = torch.cat([p.slots for p in parts]), torch.cat([p.centroids for p in parts])
    return Seen(slots, places, _together([p.answers for p in parts]), left_out, removed)


def _together(parts: Sequence[Answers]) -> Answers:
    classes = [t.classes for t in parts if t.classes is not None]
    return Answers(torch.cat([t.attributes for t in parts]), torch.cat(classes) if classes else None)


# --- against masks and keypoints -------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """What adds up over pictures, each with a leading axis of one picture a row.

    ``spots`` [P, K + 1] visible parts by the slot at their spot (keypoint, else a pixel amid the mask); ``dense`` [P + 1, K + 1] pixels; ``shared`` [P, K], ``parts`` [P], ``slots`` [K]
    pixels; ``foreground`` [2]: shared and united pixels of foreground and object; ``hits`` [K, P]; ``visible`` [P]; ``active`` [K];
    ``points`` [P, 2]: keypoints as shares of the box; ``box`` [4] of the object as shares of the side (left, top, width, height).
    """

    spots: Tensor
    dense: Tensor
    shared: Tensor
    parts: Tensor
    slots: Tensor
    foreground: Tensor
    hits: Tensor
    visible: Tensor
    active: Tensor
    points: Tensor
    box: Tensor


def counts(trainer: Trainer, places: Tensor, truths: Callable[[int], Truth], batch: int) -> Counts:
    """Counts of the pictures ``places``: maps are enlarged to the input's pixels, bilinear; ``truths(place)`` tells what is there."""
    side, rows = trainer.first.image_size, []
    for some in model.chunks(places, batch):
        _, maps = maps_of(trainer, some)
        large = functional.interpolate(as_planes(maps), size=(side, side), mode="bilinear", align_corners=False).cpu()
        rows += [_count(planes, truths(int(place))) for planes, place in zip(large, some, strict=True)]
    return Counts(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _count(planes: Tensor, given: Truth) -> Counts:
    """Counts of one picture; ``planes`` [K + 1, H, W]."""
    parts, k, side = len(given.masks), len(planes) - 1, planes.shape[2]
    slots = planes.argmax(0)
    at = given.spots.nan_to_num(0).long().clamp(0, side - 1)
    labels = torch.where(~given.spots.isnan().any(1), torch.arange(parts), -1)
    spots = metrics.contingency(labels, slots[at[:, 1], at[:, 0]], (parts, k + 1))
    pixels = metrics.overlap(given.masks, slots, k)
    dense = metrics.contingency(metrics.dense_truth(given.masks), slots, (parts + 1, k + 1))
    found, strongest = slots < k, planes[:-1].flatten(1).argmax(1)
    radius = metrics.POINTING_RADIUS * (given.box[2] * given.box[3]) ** 0.5
    hits = metrics.pointing_hits(
        torch.stack([strongest % side, strongest // side], 1), given.masks, given.keypoints, radius
    )
    foreground = torch.stack([(found & given.object).sum(), (found | given.object).sum()])
    # Pictures without any mask say nothing about pixels.
    drawn = float(given.drawn)
    return Counts(
        spots, dense * drawn, pixels.shared * drawn, pixels.parts * drawn, pixels.slots * drawn, foreground * drawn,
        hits & given.visible, given.visible, pixels.slots > 0, *frame(given, side),
    )  # fmt: skip


def frame(given: Truth, side: int) -> tuple[Tensor, Tensor]:
    """Keypoints of a picture as shares of its object's box [P, 2], and the box as shares of the side [4]."""
    box = torch.tensor(given.box)
    return (given.keypoints - box[:2]) / box[2:], box / side


def in_box(places: Tensor, box: Tensor) -> Tensor:
    """Centroids [n, K, 2] as shares of the side -> shares of the object's box [n, 4]."""
    return (places - box[:, None, :2]) / box[:, None, 2:]
