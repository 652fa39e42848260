"""The two studies of SEM on texts made of templates, an attribute's words and subjects: leakage, and content kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from results.tables import arrow_table
from runner.artifacts import DebiasPrompts, SparseCoder
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sem.methods import apply_method
from runner.nodes.sem.methods_specs import Method, expanded
from runner.nodes.sem.studies import LeakRule, cp_bn, disentanglement
from runner.nodes.sem.texts_debiased import coder_of, material_of
from runner.nodes.sem.texts_gathering import Encoded, Prompts, shown
from runner.nodes.sem.texts_prism import filled

Row = dict[str, Any]


@dataclass(frozen=True)
class LeakPlan:
    """What is asked for. ``by_template``: all texts of a template stay in one fold (ours)."""

    attribute: str
    values: Sequence[str]
    task: str
    subjects: Sequence[str]
    templates: Sequence[str]
    folds: int
    seed: int
    rule: LeakRule
    by_template: bool


def leak_rows(
    ctx: StepContext, clip: ClipModel, sae: SparseCoder | None, plan: LeakPlan, other_backbone: bool
) -> list[Row]:
    """Rows of ``disentanglement``: raw embeddings, and latents where there is an autoencoder."""
    for what in ("values", "subjects", "templates"):
        _distinct(getattr(plan, what), what)
    coder, encoded = coder_of(ctx, clip, sae, other_backbone), Encoded(clip, [])
    made = [
        (filled(template, {"value": value, "subject": subject}), t, v, s)
        for t, template in enumerate(plan.templates)
        for v, value in enumerate(plan.values)
        for s, subject in enumerate(plan.subjects)
    ]
    texts = [text for text, *_ in made]
    encoded.load(ctx, texts)
    raw = encoded(texts)
    features = {"clip": raw} if coder is None else {"clip": raw, "sae": coder.encode(raw)}
    labels = np.array([places for _, *places in made], np.int64)
    return [_leak_row(name, values.numpy(), labels, plan) for name, values in ctx.track(list(features.items()))]


def _leak_row(name: str, features: Any, labels: Any, plan: LeakPlan) -> Row:
    groups = labels[:, 0] if plan.by_template else None
    try:
        found = disentanglement(
            features, labels[:, 2], labels[:, 1], groups, folds=plan.folds, seed=plan.seed, rule=plan.rule
        )
    except ValueError as error:
        raise DataError(f"the study cannot be made: {error}", hint="Give more templates, or fewer folds.") from error
    numbers = {name: None if np.isnan(value) else value for name, value in found._asdict().items()}
    about = {"features": name, "task": plan.task, "attribute": plan.attribute, "chance": 1 / len(plan.values)}
    return {**about, **numbers, "n": len(features), "folds": plan.folds}


@dataclass(frozen=True)
class PreservationPlan:
    """What is asked for: texts of subjects with each value named, and without."""

    values: Sequence[str]
    subjects: Sequence[str]
    template: str
    neutral: str


def preservation_rows(
    ctx: StepContext,
    clip: ClipModel,
    prompts: DebiasPrompts,
    sae: SparseCoder | None,
    methods: Sequence[Method],
    plan: PreservationPlan,
    seed: int,
    other_backbone: bool,
) -> list[Row]:
    """Rows of ``cp_bn``: every method on the texts that name a value; the base is content preservation's neutral text."""
    for what in ("values", "subjects"):
        _distinct(getattr(plan, what), what)
    neutral = [filled(plan.neutral, {"subject": subject}) for subject in plan.subjects]
    material = material_of(ctx, clip, Prompts(_study_prompts(prompts, plan, neutral)), sae, seed, other_backbone)
    original, rows = material.raw(neutral), []
    for method in ctx.track(expanded(list(methods)), unit="methods"):
        vectors = apply_method(material, method).vectors.double()
        shaped = vectors.view(len(plan.subjects), len(plan.values), -1)
        found = cp_bn(shaped, original.double())
        rows.append({"method": method.name, "cp": found.cp, "bn": found.bn, "n": len(plan.subjects)})
    return rows


_OF_QUERIES = ("query", "paraphrase", "candidate", "augmented", "content", "target_word")


def _study_prompts(prompts: DebiasPrompts, plan: PreservationPlan, neutral: Sequence[str]) -> DebiasPrompts:
    """The attribute's prompts with the study's texts as queries; content and paraphrase are the subject's neutral text."""
    kept = [row for row in prompts.prompts.to_pylist() if row["kind"] not in _OF_QUERIES and row["query"] is None]
    queries, rows = [], []
    for subject, plain in zip(plan.subjects, neutral, strict=True):
        named = [filled(plan.template, {"value": value, "subject": subject}) for value in plan.values]
        queries += named
        for text in named:
            told = {"query": text, "paraphrase": plain, "content": plain, "target_word": subject}
            rows += [_row(kind, text, own) for kind, own in told.items()]
            for value, other in zip(plan.values, named, strict=True):
                rows += [_row(kind, text, other, value) for kind in ("candidate", "augmented")]
    table = arrow_table("prompt_set", [*kept, *rows])
    return replace(prompts, queries=queries, prompts=table)


def _row(kind: str, query: str, text: str, value: str | None = None) -> Row:
    about = {"set_id": "study", "kind": kind, "query": query, "class_name": value, "idx": 0, "text": text}
    return {**about, "source": "spec", "retries": 0}


def _distinct(words: Sequence[str], what: str) -> None:
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        raise DataError(f"{what}: {shown(twice)} stands twice")
