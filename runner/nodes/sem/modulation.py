"""Sparse embedding modulation (SEM): neurons of a sparse autoencoder scored against prompts, and moved accordingly.

Source: Guimard et al., "SEM: Sparse Embedding Modulation for Post-Hoc Debiasing of Vision-Language Models" (2026), and its public
code for what the text leaves open. Everything here acts on activations h(z) = ReLU(W_e (z - b_pre) + b_e) over *all* latents; the
caller encodes raw, unnormalised embeddings and decodes the result. The functions take other features as well (raw CLIP
coordinates, image embeddings): those uses are ours.

Scores are shares of prompts, so they are exact multiples of 1/n. Each latent's reference is sorted once and searched by
bisection. Where a caller has many queries, ``sort_reference`` and ``bias_sensitivity`` are computed once an attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from runner.nodes.sem.checks import by_size, check_groups, check_rows

Variant = Literal["i", "b", "bi"]
Median = Literal["lower", "midpoint"]
Target = Literal["diverse_median", "zero", "diverse_mean"]
BiasScore = Literal["min", "general", "specific"]


class SortedReference(NamedTuple):
    """Activations of reference prompts, ascending by latent: ``columns`` [L, n]."""

    columns: Tensor


class Modulated(NamedTuple):
    """``latents`` [m, L] after modulation, ``multiplier`` [m, L] (M), ``s_concept`` [m, L] in [0, 1]."""

    latents: Tensor
    multiplier: Tensor
    s_concept: Tensor


def sort_reference(reference: Tensor | SortedReference) -> SortedReference:
    """Reference activations [n, L] sorted by latent, for ``percentile_scores``; what is sorted already is returned as it is."""
    if isinstance(reference, SortedReference):
        return reference
    check_rows("reference activations", reference)
    return SortedReference(reference.T.contiguous().sort(dim=1).values)


def lower_median(h: Tensor) -> Tensor:
    """Per latent, element floor((n - 1) / 2) of the sorted activations [..., n, L] -> [..., L] (the paper's median)."""
    return h.median(dim=-2).values


def midpoint_median(h: Tensor) -> Tensor:
    """Per latent, the mean of the two middle activations [..., n, L] -> [..., L] (ours; equal to the lower one for odd n)."""
    n = h.shape[-2]
    ordered = h.sort(dim=-2).values
    return (ordered.select(-2, (n - 1) // 2) + ordered.select(-2, n // 2)) / 2


def percentile_scores(reference: Tensor | SortedReference, x: Tensor) -> Tensor:
    """Share of reference rows strictly below: pct(A, x)_j = #{a : a_j < x_j} / n; [n, L] and [m, L] -> [m, L], at least float32.

    Raises ValueError for other widths, NaN or no rows. (SEM, content relevance.)
    """
    columns = sort_reference(reference).columns
    check_rows("activations", x, len(columns))
    wide = torch.promote_types(torch.promote_types(columns.dtype, x.dtype), torch.float32)
    below = torch.searchsorted(columns.to(wide), x.T.to(wide).contiguous(), out_int32=True)
    return (below.to(wide) / columns.shape[1]).T.contiguous()


def group_medians(groups: Sequence[Tensor], median: Median = "lower") -> Tensor:
    """Median of each group of activations [n_g, L] -> [groups, L]; groups may have unequal sizes."""
    of = _MEDIANS[median]
    medians = groups[0].new_empty(len(groups), groups[0].shape[1])
    for places, stacked in by_size(groups):
        medians[places] = of(stacked)
    return medians


def bias_sensitivity(
    diverse: Tensor | SortedReference, classes: Sequence[Tensor], which: BiasScore = "min", median: Median = "lower"
) -> Tensor:
    """S_bias [L] in [0, 1]: how strongly each latent answers to one bias class and not to neutral prompts or other classes.

    ``diverse`` [n, L] activations of neutral prompts, ``classes`` one [n_c, L] a bias class. With m_c the median of class c:
    general_c = pct(diverse, m_c), specific_c = pct(prompts of all other classes, m_c), S_bias = max_c min(general_c,
    specific_c). ``general`` and ``specific`` take only one of the two (ours). Raises ValueError for fewer than two classes
    (the published form is NaN there), an empty class, other widths, NaN.
    """
    if len(classes) < 2:
        raise ValueError(f"bias sensitivity compares bias classes: at least 2 are needed, not {len(classes)}")
    reference = sort_reference(diverse)
    check_groups("bias prompts", classes, len(reference.columns))
    medians = group_medians(classes, median)
    scores = {
        "general": lambda: percentile_scores(reference, medians),
        "specific": lambda: _share_of_other_classes(classes, medians),
    }
    wanted = ("general", "specific") if which == "min" else (which,)
    return torch.stack([scores[name]() for name in wanted]).amin(0).amax(0)


def modulate(
    query: Tensor,
    *,
    diverse: Tensor | SortedReference,
    bias: Tensor | None = None,
    paraphrases: Sequence[Tensor] | None = None,
    content: Tensor | None = None,
    variant: Variant = "bi",
    exponent: float = 2.0,
    clamp_max: float | None = None,
    target: Target = "diverse_median",
    median: Median = "lower",
) -> Modulated:
    """h' = h_base * M + (1 - M) * target, for query activations [m, L]; memory is a few times that of the queries.

    Variant ``b``: M = (1 + S_concept - S_bias)^exponent with S_concept = pct(diverse, query); ``bi``: the same with the median of
    the query's paraphrases in place of the query; ``i``: M = S_concept^exponent, and h_base is that median too (the query's own
    activations are not used). ``diverse`` [n, L] (or sorted), ``bias`` [L] from ``bias_sensitivity`` (b, bi), ``paraphrases`` one
    [n_p, L] a query (i, bi). ``content`` [m, L]: activations of a neutral wording that S_concept is read from in place of the
    query's; in i and bi it stands for a query's paraphrases where none are given. ``clamp_max`` bounds M above, ``target``
    other than ``diverse_median``, ``median`` other than ``lower`` and ``exponent`` other than 2 are ours.

    Raises ValueError for what the variant needs and was not given, groups != queries, other widths, NaN, exponent < 0.
    """
    reference = sort_reference(diverse)
    _check_modulation(query, len(reference.columns), bias, paraphrases, content, variant, exponent)
    told = query if content is None else content
    if variant != "b" and paraphrases is not None:
        told = group_medians(paraphrases, median)
    s_concept = percentile_scores(reference, told)
    base = told if variant == "i" else query
    offset = 0.0 if variant == "i" or bias is None else 1 - bias
    multiplier = (s_concept + offset) ** exponent
    if clamp_max is not None:
        multiplier = multiplier.clamp(max=clamp_max)
    towards = _target(reference, target, median)
    return Modulated(base * multiplier + (1 - multiplier) * towards, multiplier, s_concept)


_MEDIANS = {"lower": lower_median, "midpoint": midpoint_median}


def _share_of_other_classes(classes: Sequence[Tensor], medians: Tensor) -> Tensor:
    """specific [C, L]: share of the other classes' prompts strictly below each class's median (counts, so exact)."""
    everything = SortedReference(torch.cat(list(classes)).T.contiguous().sort(dim=1).values)
    total = everything.columns.shape[1]
    below = torch.searchsorted(everything.columns, medians.T.contiguous(), out_int32=True).T
    own = torch.stack([(h < m).sum(0) for h, m in zip(classes, medians, strict=True)])
    others = torch.tensor([total - len(h) for h in classes], device=medians.device)
    return (below - own).to(torch.promote_types(medians.dtype, torch.float32)) / others[:, None]


def _target(reference: SortedReference, target: Target, median: Median) -> Tensor:
    """Where attenuated activations go, [L]."""
    columns = reference.columns
    if target == "zero":
        return columns.new_zeros(len(columns))
    if target == "diverse_mean":
        return columns.mean(1)
    n = columns.shape[1]
    low = columns[:, (n - 1) // 2]
    return low if median == "lower" else (low + columns[:, n // 2]) / 2


def _check_modulation(
    query: Tensor,
    width: int,
    bias: Tensor | None,
    paraphrases: Sequence[Tensor] | None,
    content: Tensor | None,
    variant: Variant,
    exponent: float,
) -> None:
    check_rows("query activations", query, width)
    if variant not in ("i", "b", "bi"):
        raise ValueError(f"unknown variant {variant!r}; known: i, b, bi")
    if not exponent >= 0:
        raise ValueError(f"the exponent must not be negative, not {exponent}")
    if variant != "i":
        if bias is None or bias.shape != (width,):
            raise ValueError(f"variant {variant} needs a bias sensitivity for each of {width} latents")
        check_rows("bias sensitivities", bias[None])
    if variant != "b" and paraphrases is None and content is None:
        raise ValueError(f"variant {variant} needs paraphrases of each query")
    if variant != "b" and paraphrases is not None:
        check_groups("paraphrases", paraphrases, width, len(query))
    if content is not None:
        check_rows("content activations", content, width)
        if len(content) != len(query):
            raise ValueError(f"there must be one content text for each of {len(query)} queries, not {len(content)}")
