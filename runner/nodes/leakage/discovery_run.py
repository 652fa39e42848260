"""What ``leakage.discover`` does, from pictures to rows."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from results.tables import arrow_table
from runner.assets.cache import write_atomically
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import VisionBackbone
from runner.nodes.leakage import discovery_evaluation as evaluation
from runner.nodes.leakage import discovery_metrics as metrics
from runner.nodes.leakage import discovery_rows as rows
from runner.nodes.leakage.discovery_data import Pictures, Truth, read, stage1_tokens, truth
from runner.nodes.leakage.discovery_model import Routes, network_of, own_copy, token_parameters
from runner.nodes.leakage.discovery_specs import Arch, HeadPlan, Modulation, Pooling, Routing, SecondPool, TrainPlan
from runner.nodes.leakage.discovery_training import Material, Trainer

if TYPE_CHECKING:
    from runner.artifacts import PartImages

GLOBAL = "global"


class Task(NamedTuple):
    """What is to be found, and with what; the settings of the step that are not of the descent."""

    arch: tuple[Arch, ...]
    seeds: tuple[int, ...]
    slots: int | None
    routing: Routing
    attributes: Literal["owned", "all"]
    modulation: Modulation
    pooling: Pooling
    second_pool: SecondPool
    limit: int | None


class Looks(NamedTuple):
    """What is measured besides: interventions, drawn pictures, resamples."""

    leave_one_out: bool
    levels: tuple[float, ...]
    pictures: int
    resamples: int


class Told(NamedTuple):
    """The attributes that slots tell: ``names``, their ``columns`` among all, ``owners`` (parts by number; all parts for global)."""

    names: list[str]
    columns: list[int]
    owners: list[tuple[int, ...]]


def told_attributes(about: dict[str, Any], which: Literal["owned", "all"]) -> Told:
    """Attributes that belong to parts, or all of them."""
    parts = {part: number for number, part in enumerate(about["parts"])}
    told = Told([], [], [])
    for column, name in enumerate(about["attributes"]):
        owner = about["owners"][name]
        if owner == GLOBAL and which == "owned":
            continue
        named = [owner] if isinstance(owner, str) else owner
        told.names.append(name)
        told.columns.append(column)
        told.owners.append(tuple(range(len(parts))) if owner == GLOBAL else tuple(parts[part] for part in named))
    return told


def routes_of(told: Told, slots: int, routing: Routing) -> Routes:
    """Fixed: equal shares of the slots of the owners. Learned: none; attributes with the same text before ``::`` or ``: `` go together."""
    names = [re.split("::|: ", name, maxsplit=1)[0] for name in told.names]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    groups = torch.tensor([number[name] for name in names])
    if routing == "learned":
        return Routes(None, groups)
    shares = torch.zeros(len(names), slots)
    for row, owners in enumerate(told.owners):
        shares[row, list(owners)] = 1 / len(owners)
    return Routes(shares, groups)


def check(backbone: VisionBackbone, images: PartImages, task: Task, plan: TrainPlan) -> None:
    """Refuse what cannot be meant, before a picture is read."""
    about, name = images.about, images.about["dataset"]
    for what, listed in (("arch", task.arch), ("seeds", task.seeds)):
        if len(set(listed)) < len(listed):
            raise DataError(f"leakage.discover: {what} names something twice: {list(listed)}", hint="Name each once.")
    network_of(backbone)
    if plan.train_tokens:
        token_parameters(backbone)
    if not about["parts"]:
        raise DataError(f"{name} has no parts to compare with")
    if task.routing == "fixed" and task.slots not in (None, len(about["parts"])):
        raise DataError(
            f"leakage.discover: slots is {task.slots}, but fixed routing gives each of the {len(about['parts'])} parts of {name} its own slot",
            hint="Leave slots out, or set routing to learned.",
        )
    if not told_attributes(about, task.attributes).names:
        raise DataError(
            f"{name} has no attribute that belongs to a part: nothing to find parts from",
            hint="Add owners to its attributes.",
        )
    if plan.class_weight and len(images.datasets[0]["classes"]) < 2:
        raise DataError(f"{name} has one class only: class_weight must be 0")


class Prepared(NamedTuple):
    """Everything that all trainings share. ``truths(place)`` reads masks and keypoints of one picture, for measuring."""

    pictures: Pictures
    told: Told
    targets: Tensor
    valid: Tensor
    classes: Tensor
    tokens: Callable[[Tensor], Tensor]
    truths: Callable[[int], Truth]


def run(
    ctx: StepContext, backbone: VisionBackbone, images: PartImages, task: Task, plan: TrainPlan, looks: Looks
) -> dict[str, Any]:
    """The fields of ``Discovery``."""
    pictures = read(ctx, backbone, images, task.limit)
    told = told_attributes(images.about, task.attributes)
    at, columns = torch.from_numpy(pictures.rows), torch.tensor(told.columns)
    value, valid = (torch.from_numpy(images.labels[name].copy())[at][:, columns] for name in ("value", "valid"))
    classes = torch.tensor(images.images["class_index"].to_pylist())[at]
    tokens = stage1_tokens(ctx, backbone, pictures, plan.batch)
    ready = Prepared(
        pictures, told, value, valid, classes, tokens, lambda place: truth(backbone, pictures, place)
    )  # fmt: skip
    _warn_of_labels(ctx, ready)
    made = _Made([], [], [], [], {}, {}, {})
    for arch in task.arch:
        for seed in task.seeds:
            _one(ctx, backbone, images, task, plan, looks, ready, arch, seed, made)
    return {
        "model": _model(backbone), "about": images.about, "settings": _settings(task, plan, looks, task.slots or len(images.about["parts"])),
        "found": made.found, "rows": _row_table(pictures), "routes": made.routes, "weights": made.weights,
        "epochs": arrow_table("discover_epoch", made.epochs), "metrics": arrow_table("discover_metrics", made.metrics),
        "slots": arrow_table("discover_slots", made.slots), "pictures": arrow_table("discover_picture", made.pictures),
    }  # fmt: skip


class _Made(NamedTuple):
    """What trainings add to, one after the other."""

    epochs: list[rows.Row]
    metrics: list[rows.Row]
    slots: list[rows.Row]
    pictures: list[rows.Row]
    found: dict[str, Any]
    routes: dict[str, dict[str, int]]
    weights: dict[str, Any]


def _one(
    ctx: StepContext, backbone: VisionBackbone, images: PartImages, task: Task, plan: TrainPlan, looks: Looks,
    ready: Prepared, arch: Arch, seed: int, made: _Made,
) -> None:  # fmt: skip
    """Train one architecture from one seed, and add what it found."""
    name, about = f"{arch}.seed{seed}", images.about
    trainer = _trained(ctx, backbone, images, task, plan, ready, arch, seed)
    outcome, slots = _outcome(ctx, trainer, task, looks, ready, about)
    common = {"dataset": about["dataset"], "model": backbone.name, "arch": arch, "seed": seed}
    for epoch, terms in enumerate(trainer.log, 1):
        made.epochs.extend(common | {"epoch": epoch, "term": term, "value": value} for term, value in terms.items())
    drawn = metrics.counted(len(ready.pictures.test), looks.resamples, seed)
    settings = {"slots": trainer.head.plan.slots, "routing": task.routing}
    made.metrics.extend(rows.metric_rows(common | settings, outcome, drawn))
    made.slots.extend(rows.slot_rows(common, outcome, about["parts"]))
    made.pictures.extend(
        _drawn(common, ready, slots, _slot_names(task, about, trainer.head.plan.slots), looks.pictures)
    )
    made.found[name] = slots.numpy().astype(np.uint8)
    made.routes[name] = dict(zip(ready.told.names, outcome.shares.argmax(1).tolist(), strict=True))
    for key, value in trainer.head.state_dict().items():
        made.weights[f"{name}.{key}"] = value.detach().cpu().contiguous().numpy()


def _trained(
    ctx: StepContext, backbone: VisionBackbone, images: PartImages, task: Task, plan: TrainPlan, ready: Prepared, arch: Arch, seed: int
) -> Trainer:  # fmt: skip
    """Trained to the end; goes on from the last epoch that was saved."""
    k = task.slots or len(images.about["parts"])
    classes = len(images.datasets[0]["classes"]) if plan.class_weight else 0
    head = HeadPlan(k, backbone.widths[-1], task.modulation, task.pooling, task.second_pool, classes)
    second = own_copy(backbone, train=True) if plan.train_stage2 else backbone
    first = own_copy(backbone, train=False) if plan.train_tokens else backbone
    routes = routes_of(ready.told, k, task.routing)
    trainer = Trainer(
        first, second if arch == "two_stage" else None, head, routes, plan, _material(images, plan, ready), seed=seed
    )
    state = ctx.scratch / f"{arch}-{seed}.pt"
    if state.is_file():
        trainer.restore(torch.load(state, map_location=backbone.device, weights_only=True))

    def after_epoch() -> None:
        _save(state, trainer.state())
        ctx.advance("epochs")
        ctx.check()

    ctx.advance("epochs", len(trainer.log), plan.epochs * len(task.arch) * len(task.seeds))
    trainer.run(after_epoch, ctx.check)
    return trainer


def _material(images: PartImages, plan: TrainPlan, ready: Prepared) -> Material:
    """Training pictures, by their number among the training pictures."""
    at = ready.pictures.train

    def pixels(which: Tensor) -> Tensor:
        return ready.pictures.batch(at[which])

    def tokens(which: Tensor) -> Tensor:
        return ready.tokens(at[which])

    flippable = not images.about["swaps"]
    kept = None if plan.train_tokens else tokens
    return Material(pixels, kept, ready.targets[at], ready.valid[at], ready.classes[at], flippable)


def _save(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def _outcome(
    ctx: StepContext, trainer: Trainer, task: Task, looks: Looks, ready: Prepared, about: dict[str, Any]
) -> tuple[rows.Outcome, Tensor]:
    """What was found on test pictures, and the slots of all pictures [n, h, w]."""
    pictures, batch = ready.pictures, trainer.plan.batch
    looking = evaluation.Looking(looks.leave_one_out, looks.levels, batch)
    floors = evaluation.floors(trainer, looking) if looks.levels else None
    everywhere = trainer.on(pictures.batch, None if trainer.plan.train_tokens else ready.tokens)
    seen = evaluation.look(everywhere, pictures.test, looking, floors, ctx.check)
    train_slots, places = evaluation.found_in(everywhere, pictures.train, batch)
    framed = [evaluation.frame(ready.truths(int(place)), trainer.first.image_size) for place in pictures.train]
    points, boxes = (torch.stack(column) for column in zip(*framed, strict=True))
    test = evaluation.counts(everywhere, pictures.test, ready.truths, batch)
    outcome = rows.Outcome(
        (evaluation.in_box(places, boxes), points), test, seen, _labels(ready, about),
        trainer.head.shares(0.0).detach().cpu(), rows.slot_of_part(test, fixed=task.routing == "fixed"),
    )  # fmt: skip
    slots = torch.full((len(pictures.rows), *seen.slots.shape[1:]), trainer.head.plan.slots)
    slots[pictures.test], slots[pictures.train] = seen.slots, train_slots
    return outcome, slots


def _labels(ready: Prepared, about: dict[str, Any]) -> rows.Labels:
    at, told = ready.pictures.test, ready.told
    owner = torch.tensor([owners[0] if len(owners) == 1 else -1 for owners in told.owners])
    counted = torch.tensor([name not in about["excluded"] for name in told.names])
    return rows.Labels(ready.targets[at], ready.valid[at], ready.classes[at], owner, counted)


def _drawn(common: rows.Row, ready: Prepared, slots: Tensor, names: list[str], count: int) -> list[rows.Row]:
    """Rows of ``discover_picture``: the first test pictures."""
    colours = [rows.hexadecimal(colour) for colour in rows.colours(len(names))]
    drawn = []
    for place in ready.pictures.test[:count].tolist():
        sample = ready.pictures.reader.sample_ids[int(ready.pictures.rows[place])]
        picture = rows.overlay(ready.pictures.pixels[place], slots[place].numpy(), len(names))
        drawn.append(common | {"sample_id": sample, "overlay": picture, "slots": names, "colours": colours})
    return drawn


def _slot_names(task: Task, about: dict[str, Any], k: int) -> list[str]:
    return list(about["parts"]) if task.routing == "fixed" else [f"slot{i}" for i in range(k)]


def _row_table(pictures: Pictures) -> pa.Table:
    reader = pictures.reader
    there = pictures.sizes[:, 0] > 0
    listed = [(reader.sample_ids[row], reader.splits[row]) for row in pictures.rows.tolist()]
    return pa.table(
        {"sample_id": [s for s, _ in listed], "split": [s for _, s in listed], "readable": there.tolist()}
    )  # fmt: skip


def _model(backbone: VisionBackbone) -> dict[str, Any]:
    keys = ("name", "family", "identity", "depth", "image_size", "prefix_tokens", "random_init", "small")
    return {key: getattr(backbone, key) for key in keys} | {
        "patch_size": backbone.patch_sizes[-1],
        "notes": list(backbone.notes),
        "geometry": dataclasses.asdict(backbone.geometry),
    }


def _settings(task: Task, plan: TrainPlan, looks: Looks, k: int) -> dict[str, Any]:
    """Plain values, for JSON."""
    plain = task._asdict() | plan._asdict() | looks._asdict() | {"weights": plan.weights.model_dump(), "slots_used": k}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def _warn_of_labels(ctx: StepContext, ready: Prepared) -> None:
    """Attributes that training pictures show in one kind only teach nothing."""
    at = ready.pictures.train
    known = ready.valid[at].bool()
    values = ready.targets[at].bool()
    both = (known & values).any(0) & (known & ~values).any(0)
    if not both.any():
        raise DataError("no attribute has both kinds of labels among the training pictures: nothing to find parts from")
    idle = [name for name, fine in zip(ready.told.names, both.tolist(), strict=True) if not fine]
    if idle:
        ctx.warn(f"{len(idle)} attributes have one kind of label only among training pictures, such as {idle[0]!r}")
