"""TextSpan: which texts span what a head writes on pictures; and what each head writes, in the joint space.

Source: "Interpreting CLIP's Image Representation via Text-Based Decomposition" (arXiv 2310.05916). Ours: variances come from
the covariance of the outputs, which gives the same picks without a pictures x texts matrix; a text of which nothing is left
is never picked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.tower import attention_weights, norm_affine, plain_tower, projection

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
    with torch.inference_mode(), _listening(visual, layers) as heard:
        visual(images)
        final = heard["final"] if heard["final"].ndim == 2 else heard["final"][:, 0]
        scale = (final.var(-1, unbiased=False, keepdim=True) + visual.ln_post.eps).sqrt()
        gain, proj = norm_affine(visual.ln_post, final)[0], projection(visual).to(final)
        parts = [_written(visual, layer, heard[str(layer)]) for layer in layers]
        written = torch.stack(parts, 1)
        normed = (written - written.mean(-1, keepdim=True)) / scale[:, :, None, None] * gain
        joint: Tensor = normed @ proj
        return joint


def _written(visual: Any, layer: int, tokens: Tensor) -> Tensor:
    """What the heads of one block add to the class token's residual, [n, H, D]; ``tokens`` [n, t, D] after ln_1."""
    tower = plain_tower(visual)
    D, H, r = tower.width, tower.heads, tower.head_dim
    weights = attention_weights(visual, layer, fold_ln=False)
    wide = tokens @ weights.w_in[D:].mT + weights.b_in[D:]
    keys, values = (part.reshape(*part.shape[:-1], H, r) for part in torch.tensor_split(wide, 2, -1))
    query = (tokens[:, 0] @ weights.w_in[:D].mT + weights.b_in[:D]).reshape(-1, H, r)
    attention = (torch.einsum("nhr,nthr->nht", query, keys) / r**0.5).softmax(-1)
    mixed = torch.einsum("nht,nthr->nhr", attention, values)
    return torch.einsum("nhr,dhr->nhd", mixed, weights.w_out.reshape(D, H, r))


@contextmanager
def _listening(visual: Any, layers: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Outputs of ln_1 of the blocks, [n, t, D], and the input of the final norm, while images pass."""
    heard: dict[str, Tensor] = {}
    first = bool(getattr(visual.transformer, "batch_first", True))

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            heard[name] = output if first else output.transpose(0, 1)

        return hook

    def keep_final(module: Any, inputs: tuple[Tensor, ...]) -> None:
        heard["final"] = inputs[0]

    handles = [visual.transformer.resblocks[i].ln_1.register_forward_hook(keep(str(i))) for i in layers]
    handles.append(visual.ln_post.register_forward_pre_hook(keep_final))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


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
