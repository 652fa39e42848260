"""Concept codes of singular vectors: from directions and a dictionary to rows of ``sith_code`` and ``sith_concept``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.artifacts import HeadDirections
from runner.context import StepContext
from runner.errors import DataError, StepError
from runner.nodes.sith.coding import (
    nested,
    omp,
    reconstruct,
    sweep,
    top_k,
)
from runner.nodes.sith.coding_int8 import available
from runner.nodes.sith.coding_picked import Code, Settings
from runner.nodes.sith.coding_relaxed import lasso, matching_pursuit
from runner.nodes.sith.coding_rows import Rows
from runner.nodes.sith.coding_search import Precision, stretches
from runner.nodes.sith.decomposing import joint_name
from runner.nodes.sith.dictionary import UnitRows, centred_rows
from runner.nodes.sith.dictionary_making import Dictionary
from runner.nodes.sith.metrics import fidelity, joint_cosine
from runner.nodes.sith.weights import unit

Row = dict[str, Any]
_ROWS_AT_ONCE = 512
_CODERS: dict[str, Callable[..., Code]] = {"omp": omp, "mp": matching_pursuit, "top_k": top_k}


@dataclass(frozen=True)
class Asked:
    """What is asked for; ``coherences`` is (0,) for coders without it."""

    method: str
    ks: tuple[int, ...]
    coherences: tuple[float, ...]
    l1: float
    signs: tuple[int, ...]
    side: str
    top_singular: int | None
    settings: Settings


class Targets(NamedTuple):
    """Directions to explain: ``vectors`` [B, D] as the weights hold them times the sign, ``joint`` [B, d] these in the joint
    space, unit rows (that of -v is not minus that of v); ``places``: layer, head, sv, side, sign of each."""

    joint: Tensor
    vectors: Tensor
    places: list[tuple[int, int, int, str, int]]


def targets_of(directions: HeadDirections, asked: Asked) -> Targets:
    """The first ``top_singular`` directions of every head. Raises ``DataError`` where a side was not decomposed, or for NaN."""
    joint, vectors, places = [], [], []
    sides = ("right", "left") if asked.side == "both" else (asked.side,)
    for layer in directions.model["layers"]:
        for side in sides:
            for sign in asked.signs:
                space, own = _side(directions, layer, side, sign)
                n = min(space.shape[1], asked.top_singular or space.shape[1])
                joint.append(space[:, :n].flatten(0, 1))
                vectors.append(sign * own[:, :n].flatten(0, 1))
                places += [(layer, head, sv, side, sign) for head in directions.model["heads"] for sv in range(n)]
    targets = Targets(torch.cat(joint), torch.cat(vectors), places)
    if not torch.isfinite(targets.joint).all():
        raise DataError("the directions contain NaN or infinity", hint="Decompose the model again.")
    return targets


def _side(directions: HeadDirections, layer: int, side: str, sign: int) -> tuple[Tensor, Tensor]:
    """Vectors of one layer, times the sign, in the joint space [H, r, d], and as they are in the weights [H, r, D]."""
    name = joint_name(layer, side, sign)
    if name not in directions.arrays:
        raise DataError(
            f"the {'negated ' if sign < 0 else ''}{side} vectors of layer {layer} were not carried into the joint space",
            hint=f"Set `side: {side}` or `side: both` in sith.decompose.",
        )
    own = torch.from_numpy(directions.arrays[f"L{layer}." + ("vh" if side == "right" else "u")])
    return torch.from_numpy(directions.arrays[name]), own if side == "right" else own.mT


def explained(
    ctx: StepContext, directions: HeadDirections, dictionary: Dictionary, asked: Asked
) -> tuple[list[Row], list[Row]]:
    """Rows of ``sith_code`` and of ``sith_concept`` for every setting; the first k and coherence come first."""
    targets, atoms = targets_of(directions, asked), centred_rows(dictionary.raw, dictionary.centring)
    check_sizes(ctx, asked, atoms)
    codes = coded(targets.joint.to(ctx.device), _on(atoms, ctx.device), asked)
    raw = UnitRows(dictionary.raw, dictionary.centring)
    code_rows: list[Row] = []
    concept_rows: list[Row] = []
    for (k, coherence), code in ctx.track(codes.items(), unit="settings", total=len(codes)):
        fixed = {"method": asked.method, "k": k, "coherence": coherence}
        code = Code(*(part.cpu() for part in code))
        code_rows += _code_rows(directions, targets, atoms, raw, code, fixed)
        concept_rows += _concept_rows(dictionary, targets, code, fixed)
    return code_rows, concept_rows


def _on(atoms: Rows, device: str) -> Tensor | Rows:
    values = getattr(atoms, "values", None)
    return atoms if values is None else values.to(device)


def check_sizes(ctx: StepContext, asked: Asked, atoms: Rows) -> None:
    """Raise ``StepError`` for more atoms than there are; warn where codes cannot be unique."""
    total, dim = atoms.shape
    if max(asked.ks) > total:
        raise StepError(f"k is {max(asked.ks)}, and the dictionary has {total} concepts", step=ctx.step)
    if max(asked.ks) > dim:
        ctx.warn(f"k is {max(asked.ks)} in {dim} dimensions: such codes are not unique")


def coded(targets: Tensor, atoms: Tensor | Rows, asked: Asked) -> dict[tuple[int, float], Code]:
    """Codes by k and coherence, in the order asked for; paths that share a start are gone once."""
    ks, settings = asked.ks, asked.settings
    found: dict[tuple[int, float], Code]
    if asked.method == "comp":
        swept = sweep(targets, atoms, ks, asked.coherences, settings=settings)
        found = {(k, coherence): code for (_, coherence, k), code in swept.items()}
    elif asked.method == "nnomp":
        found = {(k, 0.0): code for k, code in nested(targets, atoms, ks, 0.0, settings=settings).items()}
    elif asked.method == "lasso":
        found = {(ks[0], 0.0): lasso(targets, atoms, asked.l1, settings=settings)}
    else:
        found = {(k, 0.0): _CODERS[asked.method](targets, atoms, k, settings=settings) for k in ks}
    return {(k, c): found[k, c] for c in asked.coherences for k in ks if (k, c) in found}


def _code_rows(
    directions: HeadDirections, targets: Targets, atoms: Rows, raw: UnitRows, code: Code, fixed: Row
) -> Iterator[Row]:
    mu, proj = (torch.from_numpy(directions.arrays[name]) for name in ("mu", "proj"))
    sums = reconstruct(code, atoms)
    columns = {
        "fidelity": fidelity(sums, targets.vectors, proj, mu),
        "joint_cos": joint_cosine(sums, targets.joint),
        "resid_norm": code.residual_norm,
        "atom_cosine": mean_cosine(code, atoms),
        "atom_cosine_raw": mean_cosine(code, raw),
        "n_active": (code.coefficients > 0).sum(1) if fixed["method"] != "omp" else (code.coefficients != 0).sum(1),
    }
    values = {name: _nullable(column) for name, column in columns.items()}
    for i, place in enumerate(targets.places):
        yield _named(place) | fixed | {name: column[i] for name, column in values.items()}


def _concept_rows(dictionary: Dictionary, targets: Targets, code: Code, fixed: Row) -> Iterator[Row]:
    lines = dictionary.centring.kept[code.support.clamp_min(0)].tolist()
    order = code.coefficients.abs().argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1).tolist()
    columns = (code.support.tolist(), code.coefficients.tolist(), _nullable(code.gap.flatten()))
    width = code.support.shape[1]
    for i, place in enumerate(targets.places):
        head = _named(place) | fixed
        for pick in range(width):
            if columns[0][i][pick] >= 0:
                coef, line = columns[1][i][pick], lines[i][pick]
                yield head | {
                    "pick": pick,
                    "rank": ranks[i][pick] if coef else None,
                    "atom": line,
                    "concept": dictionary.texts[line],
                    "coef": coef,
                    "gap": columns[2][i * width + pick],
                }


def _named(place: tuple[int, int, int, str, int]) -> Row:
    return dict(zip(("layer", "head", "sv", "side", "sign"), place, strict=True))


def _nullable(column: Tensor) -> list[Any]:
    """Values, with None for NaN."""
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in column.tolist()]


def mean_cosine(code: Code, rows: Rows | UnitRows) -> Tensor:
    """Mean cosine [B] of all pairs of atoms with a coefficient; NaN where there are fewer than two. Ours: a measure of how
    coherent a list is that asks no judge."""
    found = torch.full((len(code.support),), torch.nan)
    for some in stretches(len(code.support), _ROWS_AT_ONCE):
        active = ((code.coefficients[some] != 0) & (code.support[some] >= 0)).double()
        held = unit(rows.take(code.support[some].clamp_min(0)).double()) * active[:, :, None]
        n = active.sum(1)
        # The squared length of a sum of unit vectors holds every pair twice.
        pairs = (held.sum(1).square().sum(1) - n) / (n * (n - 1))
        found[some] = torch.where(n > 1, pairs, torch.nan).float()
    return found


def settings_of(asked: Asked) -> dict[str, Any]:
    """What ``HeadConcepts.settings`` says; ``main``: the setting that later steps go by."""
    return {
        "method": asked.method,
        "k": list(asked.ks),
        "coherence": list(asked.coherences),
        "l1": asked.l1 if asked.method == "lasso" else None,
        "signs": list(asked.signs),
        "side": asked.side,
        "top_singular": asked.top_singular,
        "main": {"method": asked.method, "k": asked.ks[0], "coherence": asked.coherences[0]},
    }


def asked_of(
    ctx: StepContext,
    method: str,
    ks: Sequence[int],
    coherences: Sequence[float],
    l1: float,
    signs: str,
    side: str,
    top_singular: int | None,
    settings: Settings,
) -> Asked:
    """Settings as the coders take them. Raises ``StepError`` for repeated ones."""
    for name, values in (("k", ks), ("coherence", coherences)):
        if len(set(values)) < len(values):
            raise StepError(f"{name} names a value twice: {list(values)}", step=ctx.step)
    weights = tuple(coherences) if method == "comp" else (0.0,)
    both = (1, -1) if signs == "both" else (1,)
    counts = tuple(ks) if method != "lasso" else tuple(ks)[:1]
    return Asked(method, counts, weights, l1, both, side, top_singular, settings)


def precision_for(device: str, asked: str) -> Precision:
    """``auto``: the fastest products that the processor has, int8, bfloat16 or float32. What is found is the same."""
    if asked in ("fp32", "bf16"):
        return "bf16" if asked == "bf16" else "fp32"
    if device != "cpu":
        return "bf16"
    if available(torch.device(device)):
        return "int8"
    capable = torch.cpu.get_capabilities()
    return "bf16" if capable.get("avx512_bf16") or capable.get("amx_bf16") else "fp32"
