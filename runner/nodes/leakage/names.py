"""Names that settings of part vectors are chosen from. Light: read to validate a spec."""

from __future__ import annotations

from typing import Any, Literal

Rule = Literal["any", "majority", "all", "nearest_exact"]
RULES: tuple[Rule, ...] = ("any", "majority", "all", "nearest_exact")
Fill = str | tuple[float, float, float]
FILLS = ("mean", "zero", "noise", "blur")
Mode = Literal["attn_mask", "token_drop", "packed", "pixel_fill", "crop"]
TOKEN_MODES: tuple[Mode, ...] = ("attn_mask", "token_drop", "packed")
MODES: tuple[Mode, ...] = (*TOKEN_MODES, "pixel_fill", "crop")
Pool = Literal["mean", "mean_all", "max", "keypoint", "soft"]
POOLS: tuple[Pool, ...] = ("mean", "mean_all", "max", "keypoint", "soft")
Norm = Literal["final", "raw", "projected"]
Control = Literal["random_region", "background", "whole", "mask_only", "swap", "no_artefacts"]


def each_once(values: list[Any]) -> list[Any]:
    """Refuse a list in which a value stands twice."""
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands there twice")
    return values


def boundary_leaks(mode: str, rule: str, strict_pixels: bool) -> bool:
    """Whether pixels outside a part come into its two-stage vector: at the border of patches, or within its box."""
    return mode != "pixel_fill" and not strict_pixels and (mode == "crop" or rule != "all")


def misplaced(kind: str, penalty: float | None, grid: object) -> str | None:
    """What is wrong with the penalties that were asked for, or None."""
    if grid and kind != "ridge":
        return f"penalty_grid is for ridge probes, not {kind}; leave it out, or write kind: ridge"
    if penalty is not None and (kind == "mlp" or grid):
        return "penalty has no meaning for mlp probes, nor beside penalty_grid; leave it out"
    return None
