"""What a sparse autoencoder is, besides its tensors. Light: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Architecture = Literal["msae", "topk", "batch_topk", "relu_l1"]
Weighting = Literal["reverse", "uniform"]
Layout = Literal["native", "sem", "msae"]


@dataclass(frozen=True)
class SaeAbout:
    """What a reader must know of a sparse autoencoder besides its tensors.

    ``backbone``: name of the encoder whose embeddings it codes, ``encoder``: that encoder's identity where it is known.
    ``levels``: Matryoshka levels, ascending, or the one k of ``topk`` and ``batch_topk``; none for ``relu_l1``.
    ``target_norm``: mean norm that ``scale`` was meant to give (MSAE).
    """

    backbone: str
    architecture: Architecture = "msae"
    levels: tuple[int, ...] = ()
    weighting: Weighting | None = None
    encoder: str | None = None
    small: bool = False
    modality: Literal["text", "image", "both"] | None = None
    target_norm: float | None = None


def check_levels(architecture: Architecture, levels: Sequence[int], latents: int) -> None:
    """Raise ValueError unless the levels fit: ascending without repetition, within 1 .. latents, as many as the
    architecture takes (one k for ``topk`` and ``batch_topk``, none for ``relu_l1``)."""
    wanted = {"msae": len(levels) >= 1, "relu_l1": not levels}.get(architecture, len(levels) == 1)
    if not wanted:
        how_many = {"msae": "at least one level", "relu_l1": "no levels"}.get(architecture, "exactly one level, its k")
        raise ValueError(f"{architecture} takes {how_many}, not {list(levels)}")
    if sorted(set(levels)) != list(levels):
        raise ValueError(f"levels must ascend without repetition, not {list(levels)}")
    if levels and not 1 <= levels[0] <= levels[-1] <= latents:
        raise ValueError(f"levels {list(levels)} must lie between 1 and the number of latents, {latents}")
