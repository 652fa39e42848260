"""Names that specs of pruning use, light: they are read to validate a spec."""

from __future__ import annotations

from typing import Literal, get_args

Saliency = Literal["param_first", "vectorize", "param_second", "param_mix", "l1", "l2"]
Reduction = Literal["sum", "mean", "max", "prod", "first"]
LastState = Literal["pre_norm", "post_norm"]
Aggregate = Literal["token_sum", "token_mean", "sample_mean"]
Modality = Literal["image_text", "text", "any"]
Criterion = Literal[
    "block_influence", "angular", "perplexity", "last", "random",
    "taylor/param_first", "taylor/vectorize", "taylor/param_second", "taylor/param_mix",
    "activation", "wanda_sp", "flap", "l1", "l2",
]  # fmt: skip
SALIENCIES: tuple[Saliency, ...] = get_args(Saliency)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
OF_BLOCKS = ("block_influence", "angular", "perplexity", "last", "random")
"""Criteria that score decoder blocks; ``random`` also scores units."""
OF_COLUMNS = ("activation", "wanda_sp", "flap")
"""Criteria of units that read what enters o and down."""
OF_WEIGHTS = ("l1", "l2")
TAYLOR = "taylor/"
