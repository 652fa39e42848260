"""TextSpan: which texts span what a head writes on pictures; and what each head writes, in the joint space.

Source: "Interpreting CLIP's Image Representation via Text-Based Decomposition" (arXiv 2310.05916). Ours: variances come from
the covariance of the outputs, which gives the same picks without a pictures x texts matrix; a text of which nothing is left
is never picked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.listening import FINAL, class_reads, final_deviation, listening
from runner.nodes.sith.tower import attention_weights, norm_affine, projection

SPENT = 1e-12
"""Squared norm below which nothing is left of a text."""


class Span(NamedTuple):
    """``picked`` int64 [k], ``deviation`` [k]: standard deviation of the outputs along what was left of the text,
    ``explained`` [k]: share of their variance in the span of the texts so far."""

    picked: Tensor
    deviation: Tensor
    explained: Tensor


def textspan(data: Tensor, texts: Tensor, rank: int, picks: int) -> Span:
    """Greedy texts [M, d] for outputs [n, d] of one head; fewer than ``picks`` where nothing is left.

    The texts are projected onto the span of the ``rank`` leading right singular vectors of the outputs, not centred. Then,
    again and again: the text with the largest standard deviation (ddof 1) of its products with the centred outputs is
    picked and taken out of the outputs and of all texts. Raises ValueError for fewer than two outputs.
    """
    if len(data) < 2:
        raise ValueError(f"a standard deviation needs at least two outputs, there are {len(data)}")
    exact = data.double()
    leading = torch.linalg.svd(exact, full_matrices=False).Vh[:rank]
    centred = exact - exact.mean(0)
    covariance = centred.mT @ centred / (len(data) - 1)
    left = (texts.double() @ leading.mT) @ leading
    total, used = covariance.trace(), covariance.new_zeros(covariance.shape[0], 0)
    picked, deviations, explained = [], [], []
    for _ in range(min(picks, len(texts))):
        variance = ((left @ covariance) * left).sum(1).masked_fill(left.square().sum(1) < SPENT, -torch.inf)
        best = int(variance.argmax())
        if not variance[best] > 0:
            break
        direction = left[best] / left[best].norm()
        picked.append(best)
        deviations.append(variance[best].sqrt())
        used = torch.cat([used, direction[:, None]], 1)
        left = left - torch.outer(left @ direction, direction)
        left[best] = 0
        keep = torch.eye(len(covariance), dtype=covariance.dtype, device=data.device) - torch.outer(
            direction, direction
        )
        covariance = keep @ covariance @ keep
        explained.append(1 - covariance.trace() / total)
    values = [torch.stack(part) if part else total.new_zeros(0) for part in (deviations, explained)]
    return Span(torch.tensor(picked, dtype=torch.int64), *values)


def head_outputs(visual: Any, images: Tensor, layers: Sequence[int]) -> Tensor:
    """What each head adds to the class token, in the joint space: [n, layers, H, d] for preprocessed images [n, 3, h, w].

    Summed over the tokens attended to, the value bias with it, the output bias of the block without. The final LayerNorm is
    split: each part is centred and scaled as the whole class token was. All parts of a model would add up to its embedding,
    before that is scaled to unit norm. Only for towers that read the class token.
    """

    def take(layer: int, stream: Tensor) -> Tensor:
        return _written(visual, layer, class_reads(visual, layer, stream, fold_ln=False))

    with torch.inference_mode(), listening(visual, layers, take) as heard:
        visual(images)
        final = heard[FINAL]
        gain, proj = norm_affine(visual.ln_post, final)[0], projection(visual).to(final)
        written = torch.stack([heard[layer] for layer in layers], 1)
        centred = written - written.mean(-1, keepdim=True)
        joint: Tensor = (centred / final_deviation(visual, final)[:, None, None] * gain) @ proj
        return joint


def _written(visual: Any, layer: int, reads: Tensor) -> Tensor:
    """What the heads of one block add to the class token's residual, [n, H, D], from what they read for it."""
    H, D = reads.shape[1:]
    weights = attention_weights(visual, layer, fold_ln=False)
    w_v, b_v = weights.w_in[2 * D :].reshape(H, -1, D), weights.b_in[2 * D :].reshape(H, -1)
    values = torch.einsum("nhd,hrd->nhr", reads, w_v) + b_v
    return torch.einsum("nhr,dhr->nhd", values, weights.w_out.reshape(D, H, -1))


def mean_ablated(total: Tensor, parts: Tensor, ablated: Mapping[int, Sequence[int]], layers: Sequence[int]) -> Tensor:
    """Embeddings [n, d] with what some heads write replaced by its mean over the pictures.

    ``total`` [n, d]: embeddings before they are scaled; ``parts`` [n, layers, H, d] as ``head_outputs`` gives them;
    ``ablated``: heads by layer. The protocol of the source for Waterbirds, without its ablation of MLPs.
    """
    found = total.clone()
    for at, layer in enumerate(layers):
        heads = list(ablated.get(layer, ()))
        own = parts[:, at, heads]
        found = found - (own - own.mean(0)).sum(1)
    return found
