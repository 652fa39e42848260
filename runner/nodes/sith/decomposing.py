"""From a CLIP model to its heads' directions: the arrays and rows of ``HeadDirections``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from results.tables import arrow_table
from runner.artifacts import ConceptDictionary, HeadDirections, ImageFeatures
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sith.dictionary_making import check_identity, read_dictionary
from runner.nodes.sith.metrics import ceiling, difference
from runner.nodes.sith.tower import layer_indices, plain_tower, projection
from runner.nodes.sith.weights import (
    HeadSvd,
    Readout,
    near_degenerate,
    svd_of_product,
    to_joint,
    turned,
    unit,
    vo_factors,
)

Row = dict[str, Any]


class Reading(NamedTuple):
    """How directions are carried into the joint space, and how many of which heads."""

    layers: list[int]
    heads: list[int]
    fold_ln: bool
    rank: int
    sides: tuple[str, ...]
    ln_post: Readout
    centre: bool


def reading_of(visual: Any, layers: Sequence[int], heads: Any, fold_ln: bool, rank: int | None, side: str, ln_post: Readout, centre: bool) -> Reading:  # fmt: skip
    """Settings with all numbers made absolute. Raises ``DataError`` for layers, heads or a rank that the tower has not."""
    tower = plain_tower(visual)
    if rank is not None and rank > tower.head_dim:
        raise DataError(f"rank {rank}: a head of this model has {tower.head_dim} directions", hint="Leave rank out.")
    chosen = list(range(tower.heads)) if heads == "all" else [int(head) for head in heads]
    if len(set(chosen)) < len(chosen) or not chosen or not all(0 <= head < tower.heads for head in chosen):
        raise DataError(f"heads {chosen}: give each once, from 0 to {tower.heads - 1}, or `all`")
    sides = ("right", "left") if side == "both" else (side,)
    found = layer_indices(layers, tower.layers)
    return Reading(found, chosen, fold_ln, rank or tower.head_dim, sides, ln_post, centre)


def head_svds(visual: Any, layer: int, reading: Reading, base: Any | None = None) -> HeadSvd:
    """All directions (r, or 2r with ``base``) of the chosen heads of one block; with ``base`` those of W - W_base, which is
    made in float64, so that a small difference is not that of two roundings."""
    if base is None:
        return _svd(visual, layer, reading)
    first, second = (_svd(each, layer, reading, torch.float64) for each in (base, visual))
    return turned(difference(first, second))


def _svd(visual: Any, layer: int, reading: Reading, dtype: torch.dtype | None = None) -> HeadSvd:
    factors = vo_factors(visual, layer, reading.fold_ln, dtype)
    return svd_of_product(factors.A[reading.heads], factors.B[reading.heads])


def leading(svd: HeadSvd, rank: int) -> HeadSvd:
    """The first ``rank`` directions."""
    return HeadSvd(svd.u[..., :rank], svd.s[..., :rank], svd.vh[..., :rank, :])


# --- the image mean ----------------------------------------------------------------------------------------------------


def image_mean(
    ctx: StepContext,
    clip: ClipModel,
    features: ImageFeatures | None,
    file: Path | None,
    dictionary: ConceptDictionary | None,
    zero: bool,
    centre: bool,
) -> tuple[Tensor, str]:
    """The mean (d,) that is taken off, not scaled to unit norm, and where it comes from; zeros without centring.

    Raises ``DataError`` where not exactly one source is named, for another encoder's embeddings, and for a file that does
    not hold one finite vector [d].
    """
    given = sum([features is not None, file is not None, dictionary is not None, zero])
    if not centre and not given:
        return torch.zeros(clip.dim), "not centred"
    if given != 1:
        raise DataError(
            f"the image mean is named {given} times",
            hint="Give one of features (their mean), mean_file, dictionary (mean of its texts), or image_mean: zero.",
        )
    mean, source = np.zeros(clip.dim), "zero"
    if features is not None:
        check_identity(features.encoder, {"name": clip.name, "identity": clip.identity}, "features were made")
        vectors = torch.from_numpy(features.features["features"]).double()
        mean, source = unit(vectors).mean(0).numpy(), f"mean of {len(vectors)} image embeddings"
    elif dictionary is not None:
        read = read_dictionary(dictionary, clip.identity, ctx)
        mean, source = read.centring.mean.double().numpy(), f"mean of {len(read.texts)} text embeddings"
    elif file is not None:
        mean, source = _mean_of_file(file), f"file {file.name}"
    if mean.shape != (clip.dim,) or not np.isfinite(mean).all():
        raise DataError(f"the image mean has shape {list(mean.shape)}; expected [{clip.dim}] finite numbers")
    return (torch.from_numpy(mean).float() if centre else torch.zeros(clip.dim)), source if centre else "not centred"


def _mean_of_file(path: Path) -> NDArray[np.float64]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".safetensors":
            (found,) = load_file(path).values()
        else:
            found = np.load(path, allow_pickle=False)
        return np.asarray(found, np.float64)
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        # What numpy says of other files is advice to lift a restriction.
        why = str(error) if isinstance(error, OSError | SafetensorError) else "it holds no such array, or is damaged"
        raise DataError(
            f"{path.name}: expected one vector [d] of numbers as .npy or .safetensors: {why}",
            hint="Write it with numpy.save, or leave mean_file out and give features, dictionary or image_mean: zero.",
        ) from error


# --- rows --------------------------------------------------------------------------------------------------------------


def directions_of(ctx: StepContext, clip: ClipModel, base: ClipModel | None, reading: Reading, mean: tuple[Tensor, str]) -> HeadDirections:  # fmt: skip
    """Decompose the layers, one after the other."""
    visual, (mu, source) = clip.network.visual, mean
    for note in plain_tower(visual).notes:
        ctx.warn(note)
    proj = projection(visual).float().cpu()
    arrays = {"mu": mu.numpy(), "proj": proj.numpy()}
    heads: list[Row] = []
    directions: list[Row] = []
    for layer in ctx.track(reading.layers, unit="layers"):
        whole = head_svds(visual, layer, reading, None if base is None else base.network.visual)
        svd = HeadSvd(*(part.float() for part in leading(whole, reading.rank)))
        ceilings = {}
        for side in dict.fromkeys(("right", *reading.sides)):
            vectors = svd.vh if side == "right" else svd.u.transpose(-1, -2)
            # The final norm's bias and the mean do not turn round with a vector: -v has a place of its own.
            joint, negated = (
                to_joint(sign * vectors, visual, mu, ln_post=reading.ln_post, centre=reading.centre) for sign in (1, -1)
            )
            ceilings[side] = ceiling(joint, vectors, proj.to(joint), mu).cpu()
            arrays[joint_name(layer, side, 1)] = joint.cpu().numpy()
            arrays[joint_name(layer, side, -1)] = negated.cpu().numpy()
        svd = HeadSvd(*(part.cpu().contiguous() for part in svd))
        arrays |= {f"L{layer}.{name}": part.numpy() for name, part in zip(("u", "s", "vh"), svd, strict=True)}
        heads += _head_rows(clip.name, layer, reading.heads, whole.s, ceilings[reading.sides[0]])
        for side in reading.sides:
            directions += _direction_rows(clip.name, layer, reading.heads, side, whole.s, ceilings[side])
    return HeadDirections(
        _model(clip, base, reading, source),
        arrow_table("sith_head", heads),
        arrow_table("sith_direction", directions),
        {name: np.ascontiguousarray(value) for name, value in arrays.items()},
    )


def joint_name(layer: int, side: str, sign: int) -> str:
    """Name of the array of a block's vectors, or negated ones, in the joint space."""
    return f"L{layer}.joint" + ("_neg" if sign < 0 else "") + ("_left" if side == "left" else "")


def _model(clip: ClipModel, base: ClipModel | None, reading: Reading, source: str) -> Row:
    tower = plain_tower(clip.network.visual)
    return {
        "name": clip.name,
        "identity": clip.identity,
        "small": clip.small,
        "layers": reading.layers,
        "heads": reading.heads,
        "width": tower.width,
        "head_dim": tower.head_dim,
        "dim": tower.dim,
        "fold_ln": reading.fold_ln,
        "rank": reading.rank,
        "ln_post": reading.ln_post,
        "centre": reading.centre,
        "image_mean_source": source,
        "sign": "max_u",
        "minus": None if base is None else base.name,
    }


def _head_rows(model: str, layer: int, heads: Sequence[int], s: Tensor, ceilings: Tensor) -> Iterator[Row]:
    """``s`` (heads, all directions), so that norms and shares are those of the whole head whatever the rank."""
    spread = torch.special.entr(_shares(s)).sum(-1).exp().tolist()
    norms, means = s.double().norm(dim=-1).tolist(), ceilings.double().mean(-1).tolist()
    for at, head in enumerate(heads):
        yield {
            "model": model,
            "layer": layer,
            "head": head,
            "spectral_norm": float(s[at, 0]),
            "fro_norm": norms[at],
            "eff_rank": spread[at],
            "ceiling_mean": means[at],
        }


def _direction_rows(model: str, layer: int, heads: Sequence[int], side: str, s: Tensor, ceilings: Tensor) -> Iterator[Row]:  # fmt: skip
    kept = ceilings.shape[-1]
    parts = (*(part[..., :kept] for part in (s, _shares(s), near_degenerate(s))), ceilings)
    for head, columns in zip(heads, zip(*(part.tolist() for part in parts), strict=True), strict=True):
        for sv, (sigma, share, close, most) in enumerate(zip(*columns, strict=True)):
            yield {
                "model": model,
                "layer": layer,
                "head": head,
                "sv": sv,
                "side": side,
                "sigma": sigma,
                "sigma_share": share,
                "near_degenerate": close,
                "ceiling": most,
            }


def _shares(s: Tensor) -> Tensor:
    energy = s.double().square()
    shares: Tensor = energy / energy.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return shares
