"""What heads read while pictures pass through a vision tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from runner.errors import ModelRefused
from runner.nodes.sith.tower import attention_weights, norm_affine, plain_tower, precise

FINAL = "final"


@contextmanager
def listening(
    visual: Any, layers: Sequence[int], take: Callable[[int, Tensor], Tensor]
) -> Iterator[dict[int | str, Tensor]]:
    """While images pass: ``take(layer, stream)`` of the residual stream [n, t, D] before each block, by layer, and the
    class token [n, D] before the final norm as ``FINAL``. Only what ``take`` makes of a stream is kept.

    Raises ``ModelRefused`` for towers that do not read the class token.
    """
    if getattr(visual, "pool_type", "tok") != "tok":
        raise ModelRefused(
            f"the vision tower pools by {visual.pool_type!r}: what heads write into the class token is not what is read",
            hint="Models with a class token can be listened to, such as ViT-B-32.",
        )
    heard: dict[int | str, Tensor] = {}
    first = bool(getattr(visual.transformer, "batch_first", True))

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
            heard[layer] = take(layer, precise(inputs[0] if first else inputs[0].transpose(0, 1)))

        return hook

    def keep_final(module: Any, inputs: tuple[Tensor, ...]) -> None:
        final = precise(inputs[0])
        heard[FINAL] = final if final.ndim == 2 else final[:, 0]

    handles = [visual.transformer.resblocks[at].ln_1.register_forward_pre_hook(keep(at)) for at in layers]
    handles.append(visual.ln_post.register_forward_pre_hook(keep_final))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def class_reads(visual: Any, layer: int, stream: Tensor, *, fold_ln: bool) -> Tensor:
    """sum_i A_cls,i n(x_i): what each head of a block reads for the class token, [n, H, D] of a ``stream`` [n, t, D].

    n is ln_1, without its affine part where that is folded into the weights; A_cls is the class token's attention row.
    """
    tower, weights = plain_tower(visual), attention_weights(visual, layer, fold_ln=fold_ln)
    norm, D = visual.transformer.resblocks[layer].ln_1, tower.width
    gain, bias = (None, None) if fold_ln else norm_affine(norm, stream)
    tokens = layer_norm(stream, (D,), gain, bias, norm.eps)
    queries, keys = (
        (own @ weights.w_in[rows].mT + weights.b_in[rows]).reshape(*own.shape[:-1], tower.heads, tower.head_dim)
        for own, rows in ((tokens[:, 0], slice(D)), (tokens, slice(D, 2 * D)))
    )
    attention = (torch.einsum("nhr,nthr->nht", queries, keys) / tower.head_dim**0.5).softmax(-1)
    return torch.einsum("nht,ntd->nhd", attention, tokens)


def final_deviation(visual: Any, final: Tensor) -> Tensor:
    """Standard deviation [n, 1] by which the final norm divides class tokens [n, D]."""
    deviation: Tensor = (final.var(-1, unbiased=False, keepdim=True) + visual.ln_post.eps).sqrt()
    return deviation
