"""How ``sith.edit`` comes to its multipliers: from a preset, rules, concepts, or the classes of a task."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from results.tables import arrow_table
from runner.artifacts import ConceptDictionary, EditedClip, HeadConcepts, HeadDirections
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sith.checkpoint import write_checkpoint
from runner.nodes.sith.coding import comp
from runner.nodes.sith.dictionary import UnitRows, centred_of, unit_of
from runner.nodes.sith.dictionary_making import Dictionary, read_dictionary
from runner.nodes.sith.edit import JUDGED, PRESETS, UNSCORED, Rule, keep_top, task_multipliers, task_relevance
from runner.nodes.sith.editing import (
    Decision,
    Place,
    apply_decision,
    check_editable,
    check_recomputed,
    decide,
    put_right_vectors,
)
from runner.nodes.sith.evidence import (
    MISSING,
    Codes,
    Grid,
    check_same_dictionary,
    check_same_directions,
    decisions_of,
    effects_of,
    main_codes,
    matched,
    means_of,
    scores_of,
    shown,
)
from runner.nodes.sith.metrics import residual_direction
from runner.nodes.sith.weights import TINY

MATCH = "match"


class Inputs(NamedTuple):
    """What a spec gave to ``sith.edit``."""

    preset: str | None
    rules: Any
    match: Any
    task: Any
    judgements: Any
    decisions: str | None
    effects: Any
    concepts: HeadConcepts | None
    dictionary: ConceptDictionary | None
    top_n: int | None
    max_unscored: float


def edited(ctx: StepContext, clip: ClipModel, directions: HeadDirections, given: Inputs, *, truncate: bool, keep_means: bool, dry_run: bool) -> EditedClip:  # fmt: skip
    """The edited checkpoint. Raises ``DataError`` where what the edit needs is missing or of another model."""
    grid = check_editable(clip, directions)
    _check_given(given, truncate)
    means = _means(grid, given) if keep_means else None
    if given.concepts is not None:
        check_same_directions(directions, given.concepts.model, "concepts")
        if given.dictionary is not None:
            check_same_dictionary(given.concepts, given.dictionary)
    if given.preset == "reconstruction":
        return _reconstructed(ctx, clip, directions, given, dry_run)
    if given.preset == "task":
        decision, more = _by_task(ctx, clip, grid, given)
    else:
        decision, more = _by_rules(clip, directions, grid, given)
    return apply_decision(ctx, clip, directions, decision, truncate=truncate, dry_run=dry_run, more=more, means=means)


def _means(grid: Grid, given: Inputs) -> Tensor:
    """Mean coefficient of each direction over the pictures that effects were taken from."""
    means = None if given.effects is None else means_of(grid, given.effects.effects.to_pylist())
    if means is None or given.preset == "reconstruction":
        raise DataError(
            "keep_means puts back what directions add on average over pictures, and nothing says how much that is",
            hint="Give effects of sith.attribute_effect with `evidence: activations`, and no preset reconstruction.",
        )
    return means


def _check_given(given: Inputs, truncate: bool) -> None:
    if given.preset is not None and (given.rules is not None or given.match is not None):
        raise DataError(
            f"the preset {given.preset} decides alone", hint="Leave rules and match out, or leave the preset out."
        )
    if given.preset is None and given.rules is None and given.match is None:
        raise DataError("nothing says what to edit", hint="Give a preset, rules or match.")
    if (given.preset == "task") != (given.task is not None):
        raise DataError("the preset task and the classes under `task` go together")
    if given.preset in ("task", "reconstruction") and (given.concepts is None or given.dictionary is None):
        raise DataError(f"the preset {given.preset} needs concepts and their dictionary")
    others = {"truncate": truncate or None, "top_n_per_head": given.top_n, "judgements": given.judgements,
              "decisions": given.decisions, "effects": given.effects}  # fmt: skip
    if given.preset == "reconstruction" and (unused := [name for name, value in others.items() if value is not None]):
        raise DataError(f"the preset reconstruction does not go by {', '.join(unused)}", hint="Leave that out.")
    if given.judgements is not None and given.decisions is not None:
        raise DataError("scores come from judgements or from the file `decisions`, not from both")


# --- rules -------------------------------------------------------------------------------------------------------------


def _by_rules(
    clip: ClipModel, directions: HeadDirections, grid: Grid, given: Inputs
) -> tuple[Decision, dict[str, Any]]:
    rules = [*PRESETS[given.preset]] if given.preset else [_rule(each) for each in given.rules or ()]
    evidence, more = _evidence(grid, given, directions)
    named: dict[Place, str] = {}
    if given.match is not None:
        evidence[MATCH], named, what = _matches(clip, grid, given)
        rules, more = [Rule(float(given.match.multiply), ge=0, of=MATCH), *rules], {**more, "match": what}
    lacking = sorted({rule.of for rule in rules} - evidence.keys())
    if lacking:
        needs = "judgements or decisions" if "score" in lacking else "effects (sith.attribute_effect)"
        raise DataError(f"the rules go by {', '.join(lacking)}", hint=f"Give {needs}.")
    return decide(evidence, rules, lambda place: f"; {named[place]!r}" if place in named else "", given.top_n), more


def _rule(given: Any) -> Rule:
    """A rule of a spec as one of the science."""
    bounds = {name: value for name, value in given.when.model_dump().items() if value is not None}
    if "top_along" in bounds:
        return Rule(float(given.multiply), le=bounds["top_along"] - 1, of="along_rank")
    if "top" in bounds:
        return Rule(float(given.multiply), le=bounds["top"] - 1, of="effect_rank")
    (kind,) = given.when.kinds()
    return Rule(float(given.multiply), of=kind, **{name.split("_")[1]: value for name, value in bounds.items()})


def _evidence(grid: Grid, given: Inputs, directions: HeadDirections) -> tuple[dict[str, Tensor], dict[str, Any]]:
    evidence: dict[str, Tensor] = {}
    more: dict[str, Any] = {"preset": given.preset}
    scores = None
    if given.judgements is not None:
        check_same_directions(directions, given.judgements.model, "judgements")
        _check_judged(given.preset, given.judgements.task)
        scores = scores_of(grid, given.judgements, given.max_unscored)
        more["judge"], more["judged"] = given.judgements.judge, given.judgements.task
    elif given.decisions is not None:
        scores = decisions_of(grid, Path(given.decisions), given.max_unscored)
    if scores is not None:
        evidence["score"] = scores.double().masked_fill(scores == UNSCORED, MISSING)
        more["unscored"] = int((scores == UNSCORED).sum())
    if given.effects is not None:
        check_same_directions(directions, given.effects.model, "effects")
        evidence |= effects_of(grid, given.effects.effects.to_pylist())
    return evidence, more


def _check_judged(preset: str | None, task: str) -> None:
    """Raise ``DataError`` where the scores rate something else than the preset goes by; own rules may go by any task."""
    wanted = JUDGED.get(preset or "", (task,))
    if task not in wanted:
        raise DataError(
            f"the preset {preset} goes by the task {' or '.join(wanted)}, and the judge rated {task}",
            hint="Judge that task with sith.judge, or write `rules`.",
        )


def _matches(clip: ClipModel, grid: Grid, given: Inputs) -> tuple[Tensor, dict[Place, str], str]:
    if given.concepts is None:
        raise DataError("match goes by concepts", hint="Give concepts: $explain.")
    codes = main_codes(grid, given.concepts)
    fits, what = _matcher(clip, given.match, codes)
    return *matched(grid, codes, fits), what


def _matcher(clip: ClipModel, match: Any, codes: Codes) -> tuple[Callable[[str], bool], str]:
    if match.regex is not None:
        pattern = re.compile(match.regex)
        return lambda text: pattern.search(text) is not None, f"regex {shown(match.regex)!r}"
    if match.concepts is not None:
        wanted = {concept.strip().casefold() for concept in match.concepts}
        return lambda text: text.strip().casefold() in wanted, f"{len(wanted)} concepts"
    texts = sorted({row["concept"] for rows in codes.active.values() for row in rows})
    near = clip.encode_texts([*texts, match.text])
    alike = near[:-1] @ near[-1] >= match.cosine
    found = {text for text, hit in zip(texts, alike.tolist(), strict=True) if hit}
    return lambda text: text in found, f"text {shown(match.text)!r} within cosine {match.cosine:g}"


# --- the task's classes ------------------------------------------------------------------------------------------------


def _by_task(ctx: StepContext, clip: ClipModel, grid: Grid, given: Inputs) -> tuple[Decision, dict[str, Any]]:
    assert given.concepts is not None and given.dictionary is not None
    dictionary, task = read_dictionary(given.dictionary, clip.identity, ctx), given.task
    gamma = task_concepts(clip, dictionary, task)
    codes = main_codes(grid, given.concepts, sign=1)
    places = codes.explained
    support, coefficients = code_arrays(codes, places)
    found = task_relevance(*_compact(support, coefficients, dictionary, gamma))
    relevance = torch.full(grid.shape, MISSING, dtype=torch.float64)
    for place, value in zip(places, found.tolist(), strict=True):
        relevance[place] = value
    known = ~relevance.isnan()
    multipliers = torch.ones(grid.shape)
    multipliers[known] = task_multipliers(relevance[known], task.offset, task.minimum, task.maximum).float()
    if given.top_n is not None:
        multipliers = keep_top(multipliers, (multipliers - 1).abs(), given.top_n)
    rule = f"task: max({task.minimum:g}, R + {task.offset:g})"
    more = {"preset": "task", "classes": len(task.classes), "task_concepts": len(gamma)}
    return Decision(multipliers, lambda place: f"{rule}; R {float(relevance[place]):.4g}", rule), more


def task_concepts(clip: ClipModel, dictionary: Dictionary, task: Any) -> Tensor:
    """Gamma_task (T,) int64: dictionary lines with a positive coefficient in the un-centred code of any class."""
    names = [shown(name) for name in task.classes]
    targets = torch.from_numpy(clip.encode_texts([task.template.replace("{}", name) for name in names]))
    left_out = {*task.classes} if task.filter_classes else set()
    kept = torch.tensor([line for line, text in enumerate(dictionary.texts) if text not in left_out], dtype=torch.int64)
    if len(kept) < task.class_k:
        raise DataError(
            f"class_k is {task.class_k}, and the dictionary has {len(kept)} concepts beside the class names"
        )
    code = comp(targets, UnitRows(dictionary.raw, dictionary.centring, kept), task.class_k, task.coherence)
    return kept[torch.unique(code.support[code.coefficients > 0])]


def code_arrays(codes: Codes, places: list[Place]) -> tuple[Tensor, Tensor]:
    """Support (n, K) int64, -1 where there is none, and coefficients (n, K) , of either sign, of the directions at ``places``."""
    width = max((len(codes.terms.get(place, ())) for place in places), default=0)
    support = np.full((len(places), width), -1, np.int64)
    coefficients = np.zeros((len(places), width), np.float32)
    for at, place in enumerate(places):
        rows = codes.terms.get(place, [])
        support[at, : len(rows)] = [row["atom"] for row in rows]
        coefficients[at, : len(rows)] = [row["coef"] for row in rows]
    return torch.from_numpy(support), torch.from_numpy(coefficients)


def _compact(
    support: Tensor, coefficients: Tensor, dictionary: Dictionary, task: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with only those rows of the dictionary in memory that codes or the task use."""
    used = torch.unique(torch.cat([support.clamp_min(0).flatten(), task]))
    place = torch.searchsorted(used, support.clamp_min(0))
    return place, coefficients, unit_of(dictionary.raw, dictionary.centring, used), torch.searchsorted(used, task)


# --- the reconstruction test -------------------------------------------------------------------------------------------


def _reconstructed(
    ctx: StepContext, clip: ClipModel, directions: HeadDirections, given: Inputs, dry_run: bool
) -> EditedClip:
    """W' = U diag(s) V_hat: right vectors as their codes say, zero where a code is empty, as they are where they were not
    explained (ours in detail)."""
    assert given.concepts is not None and given.dictionary is not None
    grid, dictionary = Grid(directions.model), read_dictionary(given.dictionary, clip.identity, ctx)
    codes = main_codes(grid, given.concepts, sign=1)
    places, visual = codes.explained, clip.network.visual
    support, coefficients = code_arrays(codes, places)
    used = torch.unique(support.clamp_min(0))
    rows = centred_of(dictionary.raw, dictionary.centring, used)[torch.searchsorted(used, support.clamp_min(0))]
    joint = (coefficients[..., None] * rows).sum(1)
    proj, mu = (torch.from_numpy(directions.arrays[name].copy()) for name in ("proj", "mu"))
    right = torch.stack([torch.from_numpy(directions.arrays[f"L{layer}.vh"].copy()) for layer in grid.layers])
    explained, empty = torch.zeros(grid.shape, dtype=torch.bool), joint.norm(dim=-1) <= TINY
    for place, vector in zip(places, residual_direction(joint, proj, mu).masked_fill(empty[:, None], 0), strict=True):
        right[place], explained[place] = vector, True
    layers = [at for at in range(grid.shape[0]) if bool(explained[at].any())]
    for at in layers:
        check_recomputed(visual, directions, grid.layers[at], grid.heads, explained[at])
    state = put_right_vectors(visual, directions, {grid.layers[at]: right[at] for at in layers})
    folder = ctx.folder("checkpoint")
    summary = {"rule": "reconstruction", "directions": right[..., 0].numel(), "coded": len(places) - int(empty.sum()),
               "emptied": int(empty.sum()), "dry_run": dry_run,
               "setting": [*codes.setting], "small": clip.small}  # fmt: skip
    write_checkpoint(
        folder, clip, None if dry_run else state, {"format": 1, "model": directions.model, "summary": summary}
    )
    return EditedClip(folder, summary, arrow_table("sith_edit", []))
