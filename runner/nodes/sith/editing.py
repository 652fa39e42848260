"""From multipliers of directions to an edited checkpoint, its record and its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from results.tables import arrow_table
from runner.artifacts import EditedClip, HeadDirections
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sith.checkpoint import write_checkpoint
from runner.nodes.sith.edit import Rule, apply_rules, keep_top
from runner.nodes.sith.evidence import Grid
from runner.nodes.sith.weights import (
    HeadFactors,
    near_degenerate,
    svd_of_product,
    vo_factors,
    write_back,
    write_factors,
)

Row = dict[str, Any]
Place = tuple[int, int, int]
SAME = 1e-3


class Decision(NamedTuple):
    """Multipliers float32 [layers, heads, rank], why each changed direction has its own, and what decided."""

    multipliers: Tensor
    reason: Callable[[Place], str]
    rule: str


def decide(evidence: Mapping[str, Tensor], rules: Sequence[Rule], note: Callable[[Place], str], top_n: int | None) -> Decision:  # fmt: skip
    """Apply rules to the evidence; with ``top_n`` only the strongest of each head, those of the first
    kind of evidence that the rules name before those of the next, since their values do not compare. ``note``: more about a direction."""
    found = apply_rules(evidence, rules)
    multipliers = found.multipliers
    if top_n is not None:
        multipliers = keep_top(multipliers, _strength(evidence, rules, found.rule), top_n)

    def reason(place: Place) -> str:
        rule = rules[int(found.rule[place])]
        return f"{rule.text()}; {rule.of} {float(evidence[rule.of][place]):.4g}{note(place)}"

    return Decision(multipliers, reason, "; ".join(rule.text() for rule in rules))


def _strength(evidence: Mapping[str, Tensor], rules: Sequence[Rule], chosen: Tensor) -> Tensor:
    """Numbers to order directions by: one stretch a kind of evidence, within it by value (equal ones stay equal)."""
    strength = torch.full(chosen.shape, -torch.inf, dtype=torch.float64)
    kinds = list(dict.fromkeys(rule.of for rule in rules))
    for number, rule in enumerate(rules):
        values = evidence[rule.of].double().nan_to_num()
        order = torch.unique(-values if rule.of.endswith("rank") else values, return_inverse=True)[1]
        strength = torch.where(chosen == number, order / order.numel() - kinds.index(rule.of), strength)
    return strength


def check_editable(clip: ClipModel, directions: HeadDirections) -> Grid:
    """The grid of the directions. Raises ``DataError`` where they are of another model, or of a difference of two."""
    model = directions.model
    if model["identity"] != clip.identity:
        raise DataError(
            f"the directions are those of {model['name']}, not of {clip.name}",
            hint="Decompose the model that is edited.",
        )
    if model.get("minus") is not None:
        raise DataError(
            f"the directions are those of the difference to {model['minus']}; only a model's own can be rescaled"
        )
    return Grid(model)


def apply_decision(
    ctx: StepContext,
    clip: ClipModel,
    directions: HeadDirections,
    decision: Decision,
    *,
    truncate: bool,
    dry_run: bool,
    more: Mapping[str, Any],
    means: Tensor | None = None,
) -> EditedClip:
    """Write the edited checkpoint (none in a dry run). Blocks without a change keep their weights as they are.

    ``means`` [layers, heads, rank]: mean coefficients; what changed directions then add on average stays in the block's bias.
    """
    grid, m = Grid(directions.model), decision.multipliers
    cut = truncate and grid.shape[2] < directions.model["head_dim"]
    layers = [at for at in range(grid.shape[0]) if cut or bool((m[at] != 1).any())]
    visual, fold = clip.network.visual, bool(directions.model["fold_ln"])
    for at in layers:
        check_recomputed(visual, directions, grid.layers[at], grid.heads, m[at] != 1)
    if not layers:
        ctx.warn(f"no direction is changed by: {decision.rule}")
    edits = {
        grid.layers[at]: _whole(m[at], directions.model, grid.heads, 0.0 if truncate else 1.0, visual) for at in layers
    }
    state = None if dry_run else write_back(visual, edits, fold)
    if state is not None and means is not None:
        _keep_means(state, directions, grid, m, means)
    rows = edit_rows(directions, decision)
    summary = {**_summary(directions, m), "rule": decision.rule, "dry_run": dry_run, "truncated": cut, **more}
    folder = ctx.folder("checkpoint")
    record = {"format": 1, "model": directions.model, "summary": summary, "edits": rows}
    write_checkpoint(folder, clip, state, record)
    return EditedClip(folder, summary, arrow_table("sith_edit", rows))


def _keep_means(state: dict[str, Tensor], directions: HeadDirections, grid: Grid, m: Tensor, means: Tensor) -> None:
    """b_out += sum over heads and directions of (1 - m_j) mean c_j v_j. Ours."""
    kept = ((1 - m) * means.nan_to_num()).double()
    for at, layer in enumerate(grid.layers):
        vh = torch.from_numpy(directions.arrays[f"L{layer}.vh"]).double()
        name = f"transformer.resblocks.{layer}.attn.out_proj.bias"
        state[name] = state[name] + torch.einsum("hr,hrd->d", kept[at], vh[:, : kept.shape[-1]]).to(state[name])


def _whole(m: Tensor, model: Mapping[str, Any], heads: Sequence[int], rest: float, visual: Any) -> Tensor:
    """Multipliers (H, r) of all heads: 1 for those not looked at, ``rest`` beyond the rank that was."""
    full = torch.ones(int(visual.transformer.resblocks[0].attn.num_heads), int(model["head_dim"]))
    full[list(heads)] = rest
    full[list(heads), : m.shape[1]] = m.float()
    return full


def check_recomputed(
    visual: Any, directions: HeadDirections, layer: int, heads: Sequence[int], changed: Tensor
) -> None:
    """Raise ``DataError`` unless the changed directions come out of these weights again (but for a rotation among equals)."""
    factors = vo_factors(visual, layer, bool(directions.model["fold_ln"]))
    svd = svd_of_product(factors.A[list(heads)].cpu(), factors.B[list(heads)].cpu())
    s, vh = (torch.from_numpy(directions.arrays[f"L{layer}.{name}"].copy()) for name in ("s", "vh"))
    rank = s.shape[-1]
    cosine = (svd.vh[..., :rank, :].to(vh) * vh).sum(-1).abs()
    sure = changed & ~near_degenerate(svd.s)[..., :rank]
    moved = (svd.s[..., :rank].to(s) - s).abs() > SAME * s[..., :1]
    if bool((moved & changed).any() or ((cosine < 1 - SAME) & sure & (s > SAME * s[..., :1])).any()):
        raise DataError(
            f"layer {layer}: these weights give other singular vectors than the directions hold",
            hint="They were decomposed elsewhere or with other settings: run sith.decompose again.",
        )


def edit_rows(directions: HeadDirections, decision: Decision) -> list[Row]:
    """Rows of ``sith_edit``: the changed directions, in order."""
    grid = Grid(directions.model)
    rows = []
    for place in (decision.multipliers != 1).nonzero().tolist():
        at, head, sv = place
        sigma = float(directions.arrays[f"L{grid.layers[at]}.s"][head, sv])
        multiplier = float(decision.multipliers[at, head, sv])
        rows.append(
            {
                "layer": grid.layers[at],
                "head": grid.heads[head],
                "sv": sv,
                "multiplier": multiplier,
                "sigma_old": sigma,
                "sigma_new": sigma * multiplier,
                "reason": decision.reason((at, head, sv)),
            }
        )
    return rows


def _summary(directions: HeadDirections, m: Tensor) -> Row:
    grid = Grid(directions.model)
    energy = (
        torch.stack([torch.from_numpy(directions.arrays[f"L{layer}.s"].copy()) for layer in grid.layers]).double() ** 2
    )
    whole = sum(
        float(row["fro_norm"]) ** 2 for row in directions.heads.to_pylist()
    )  # also of directions beyond the rank
    changed = m != 1
    return {
        "directions": m.numel(),
        "changed": int(changed.sum()),
        "removed": int((m == 0).sum()),
        "turned": int((m < 0).sum()),
        "energy_share_changed": float(energy[changed].sum()) / whole if whole else 0.0,
        "small": bool(directions.model["small"]),
    }


def put_right_vectors(visual: Any, directions: HeadDirections, right: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """State dict of the tower with W' = U diag(s) V_hat: ``right`` (heads, k, D) by layer in place of the k rows of V that the
    directions hold, U and s as they hold them (codes are of V with that sign); directions beyond k stay.

    Ours in detail (the reconstruction test): the paper names the test, not how it was made.
    """
    fold, factors = bool(directions.model["fold_ln"]), {}
    for layer, rows in right.items():
        own = vo_factors(visual, layer, fold)
        svd, heads, k = svd_of_product(own.A, own.B), list(directions.model["heads"]), rows.shape[1]
        u, s = (torch.from_numpy(directions.arrays[f"L{layer}.{name}"].copy()) for name in ("u", "s"))
        A, vh = svd.u * svd.s[..., None, :], svd.vh.clone()
        A[heads, :, :k], vh[heads, :k] = (u * s[..., None, :]).to(A), rows.to(vh)
        factors[layer] = HeadFactors(A, vh, own.bias)
    return write_factors(visual, factors, fold)
