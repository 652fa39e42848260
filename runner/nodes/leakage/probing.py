"""Probes of every extractor, layer, part and attribute of a model and dataset, each table saved once it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from runner.context import StepContext, item_key
from runner.nodes.leakage.label_controls import balance_weights, label_features, shuffle_within, strata
from runner.nodes.leakage.probe_material import SINGLE, SWAP, TWO_STAGE, Material
from runner.nodes.leakage.probe_tables import (
    ITSELF,
    NOTHING_TO_READ,
    SCORED,
    Kind,
    Labels,
    ProbeTable,
    Scoring,
    Settings,
    Vectors,
    empty_table,
    fit,
    score,
)  # fmt: skip
from runner.nodes.leakage.resampling import resample_counts

Control = Literal["label_only", "label_shuffle", "decorrelate"]
LABEL_ONLY, LABEL_SHUFFLE, DECORRELATE, SWAP_DONOR = "label_only", "label_shuffle", "decorrelate", "swap_donor"
DECORRELATED = {SINGLE: DECORRELATE, TWO_STAGE: f"{DECORRELATE}_{TWO_STAGE}"}
NO_LAYER = -1
NO_ARTEFACTS, RANDOM_REGION, MASK_ONLY = "no_artefacts", "random_region", "mask_only"
VERSUS = {
    (SINGLE, TWO_STAGE): ("excess_leakage", "normalised_leakage", "own_delta"),
    (NO_ARTEFACTS, TWO_STAGE): ("excess_leakage", "normalised_leakage", "own_delta"),
    (DECORRELATED[SINGLE], DECORRELATED[TWO_STAGE]): ("excess_leakage",),
    (SINGLE, NO_ARTEFACTS): ("excess_leakage", "own_delta"),
    (SINGLE, RANDOM_REGION): ("excess_leakage", "own_delta"),
    (TWO_STAGE, MASK_ONLY): ("excess_leakage", "own_delta"),
}
"""What is compared, (extractor, versus), and by which measures, on the pictures where both have the part. ``excess_leakage`` is the
mean of extractor minus versus over pairs of a part and another part's attribute, ``own_delta`` versus minus extractor on the parts'
own attributes. Against ``no_artefacts``: what high-norm tokens hold; ``random_region``: whether it matters where the region lies;
``mask_only``: what a part's pixels tell beyond its silhouette."""


class View(NamedTuple):
    """How a fitted probe is scored: vectors of the extractor ``tested`` against ``labels``; ``weigh`` gives weights of a source's
    rows, and codes why attributes are left out (int64 [A])."""

    name: str
    tested: str
    labels: Labels
    weigh: Callable[[int, Tensor], tuple[Tensor, Tensor]] | None = None


class Job(NamedTuple):
    """One fit for all parts: vectors of ``extractor`` at ``layer``, labels to fit on, and what is scored with it.

    ``leave`` gives codes of the attributes that are not fitted from a source, int64 [A]. ``beside``: an extractor that must have the
    source too, in training and in test.
    """

    extractor: str
    layer: int
    fitted_on: Labels
    views: tuple[View, ...]
    kind: Kind
    leave: Callable[[int], Tensor] | None = None
    beside: str | None = None


@dataclass(frozen=True)
class Study:
    """A material with settings and the draws of the bootstrap over its test pictures, uint8 [B, m]; ``identity``: of what is kept."""

    ctx: StepContext
    material: Material
    settings: Settings
    controls: tuple[Control, ...]
    layers: tuple[int, ...]
    draws: Tensor
    identity: str

    @property
    def labels(self) -> Labels:
        """The labels as they are."""
        return Labels(self.material.value, self.material.allowed)

    @property
    def fitted_extractors(self) -> list[str]:
        """Extractors whose vectors are fitted; swapped pictures are only scored."""
        return [name for name in self.material.extractors if name != SWAP]


def jobs(study: Study) -> Iterator[Job]:
    """Layer by layer; controls that read no features first."""
    material, labels = study.material, study.labels
    if LABEL_ONLY in study.controls:
        views = (View(LABEL_ONLY, LABEL_ONLY, labels),)
        yield Job(LABEL_ONLY, NO_LAYER, labels, views, "logreg", partial(_left_out, material))
    for layer in study.layers:
        for extractor in study.fitted_extractors:
            yield Job(extractor, layer, labels, tuple(_views(study, extractor)), study.settings.kind)
        for extractor, beside in refits(material):
            views = (View(extractor, extractor, labels),)
            yield Job(extractor, layer, labels, views, study.settings.kind, beside=beside)
        if LABEL_SHUFFLE in study.controls and layer == study.layers[-1]:
            first = SINGLE if SINGLE in study.fitted_extractors else study.fitted_extractors[0]
            mixed = _shuffled(study)
            yield Job(first, layer, mixed, (View(LABEL_SHUFFLE, first, mixed),), study.settings.kind)


def refits(material: Material) -> list[tuple[str, str]]:
    """(extractor, beside): extractors that are compared with one that lacks some of their parts, and so need probes of their own on the
    pictures where both have the part."""
    there = [(a, b) for pair in VERSUS for a, b in (pair, pair[::-1]) if {a, b} <= {*material.extractors}]
    return [(a, b) for a, b in dict.fromkeys(there) if bool((material.present[a] & ~material.present[b]).any())]


def _views(study: Study, extractor: str) -> Iterator[View]:
    material, labels = study.material, study.labels
    yield View(extractor, extractor, labels)
    if DECORRELATE in study.controls and extractor in DECORRELATED:
        yield View(DECORRELATED[extractor], extractor, labels, partial(_balanced, material))
    if extractor == SINGLE and SWAP in material.extractors:
        yield View(SWAP, SWAP, labels)
        if material.donors is not None:
            there = (material.donors >= 0)[:, None]
            donor = material.donors.clamp_min(0)
            yield View(SWAP_DONOR, SWAP, Labels(labels.value[donor], labels.allowed[donor] & there))


def _shuffled(study: Study) -> Labels:
    material = study.material
    rest = torch.ones(len(material.value), dtype=torch.bool, device=material.value.device)
    splits = [material.train, material.val, material.test]
    rest[torch.cat(splits)] = False
    taken = shuffle_within([*splits, rest.nonzero().flatten()], study.settings.seed)
    return Labels(material.value[taken], material.allowed[taken])


def _own_labels(material: Material, source: int) -> Tensor:
    """Attributes that belong to the source part alone and are not excluded, int64 [k]; none for whole and background."""
    return (material.owner == source).nonzero().flatten()


def _left_out(material: Material, source: int) -> Tensor:
    """Codes int64 [A]: the part's own attributes are not predicted from its labels; nothing is where it has none."""
    reads = bool((material.owner == source).any())
    own = torch.zeros_like(material.owner)
    if source < len(material.parts):
        own = torch.where(material.owned[source], ITSELF, SCORED)
    return own if reads else torch.full_like(own, NOTHING_TO_READ)


def _balanced(material: Material, source: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    own = _own_labels(material, source)
    stratum = strata(material.value[rows][:, own], material.valid[rows][:, own])
    return balance_weights(material.value[rows], material.allowed[rows], stratum), _left_out(material, source)


def _vectors(study: Study, name: str, layer: int) -> Vectors:
    material = study.material
    if name == LABEL_ONLY:
        return lambda rows, source: _read_labels(material, rows, source)
    stored = material.vectors(name, layer)
    return lambda rows, source: material.rows(stored, rows, source, f"{name}, layer {layer}")


def _read_labels(material: Material, rows: Tensor, source: int) -> Tensor:
    own = _own_labels(material, source)
    return label_features(material.value[:, own], material.valid[:, own], material.train)[rows]


def run_job(study: Study, job: Job) -> list[ProbeTable]:
    """Fit each source once, score every view."""
    material, settings = study.material, study.settings
    settings = (
        settings if job.kind == settings.kind else Settings(**asdict(settings) | {"kind": job.kind, "penalty": 1.0})
    )
    shape = (len(material.sources), len(material.attributes))
    device = str(material.value.device)
    tables = [empty_table(v.name, job.layer, job.kind, shape, settings, len(study.draws), device) for v in job.views]
    for table in tables:
        table.beside = job.beside
    fitting = _vectors(study, job.extractor, job.layer)
    tested = {
        view.tested: fitting if view.tested == job.extractor else _vectors(study, view.tested, job.layer)
        for view in job.views
    }
    for source in range(shape[0]):
        study.ctx.check()
        train, val = (_there(material, job, job.extractor, rows, source) for rows in (material.train, material.val))
        left_out = None if job.leave is None else job.leave(source)
        fitted = fit(fitting, source, train, val, job.fitted_on, settings, left_out)
        for view, table in zip(job.views, tables, strict=True):
            score(table, source, fitted, tested[view.tested], _scoring(study, job, view, table, source), settings)
    return tables


def _there(material: Material, job: Job, extractor: str, rows: Tensor, source: int) -> Tensor:
    name = material.extractors[0] if extractor == LABEL_ONLY else extractor
    there = material.present[name][rows, source]
    return rows[there if job.beside is None else there & material.present[job.beside][rows, source]]


def _scoring(study: Study, job: Job, view: View, table: ProbeTable, source: int) -> Scoring:
    material = study.material
    rows = _there(material, job, view.tested, material.test, source)
    draws = study.draws[:, torch.searchsorted(material.test, rows)]
    if view.weigh is None:
        return Scoring(rows, view.labels, draws)
    weights, codes = view.weigh(source, rows)
    table.reason[source] = codes
    return Scoring(rows, view.labels, draws, weights.double())


def tables(study: Study) -> Iterator[list[ProbeTable]]:
    """The tables of each layer (those without a layer first); finished ones are read from the scratch folder after a kill."""
    layer: int | None = None
    found: list[ProbeTable] = []
    for job in study.ctx.track(list(jobs(study)), unit="probes"):
        if layer is not None and job.layer != layer:
            yield found
            found = []
        layer = job.layer
        found += _kept(study, job)
    if found:
        yield found


def _kept(study: Study, job: Job) -> list[ProbeTable]:
    names = [view.name for view in job.views]
    device = str(study.material.value.device)
    paths = [_path(study, name, job.layer, job.beside) for name in names]
    if all(path.exists() for path in paths):
        found = [ProbeTable.load(p, n, job.layer, job.kind, device) for p, n in zip(paths, names, strict=True)]
        for table in found:
            table.beside = job.beside
        return found
    found = run_job(study, job)
    study.ctx.scratch.mkdir(parents=True, exist_ok=True)
    for table, path in zip(found, paths, strict=True):
        table.save(path)
    return found


def _path(study: Study, name: str, layer: int, beside: str | None) -> Path:
    return study.ctx.scratch / f"{item_key(study.identity, name, layer, beside)}.npz"


def identity_of(material: Material, settings: Settings, resamples: int) -> str:
    """What tables depend on besides extractor and layer, as one key."""
    arrays = (
        material.value,
        material.allowed,
        material.owned,
        material.owner,
        material.train,
        material.val,
        material.test,
        *(material.present[name] for name in material.extractors),
        *(() if material.groups is None else (material.groups,)),
    )
    content = hashlib.sha256(b"".join(np.ascontiguousarray(a.cpu().numpy()).tobytes() for a in arrays)).hexdigest()
    where = [material.model["name"], material.model["identity"], material.dataset, str(material.folder)]
    return item_key(where, content, asdict(settings), resamples)


def draws_of(material: Material, resamples: int, seed: int) -> Tensor:
    """The bootstrap's counts over the test pictures; groups are drawn whole."""
    groups = None if material.groups is None else material.groups[material.test]
    return resample_counts(len(material.test), resamples, seed, groups).to(material.value.device)
