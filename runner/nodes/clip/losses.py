"""What the student is trained to lower. Pure."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from runner.nodes.contrastive_loss import multi_positive_info_nce


class Losses(NamedTuple):
    """Scalars: contrastive loss, and the mean of 1 - cos for texts, pictures and the backbone's features."""

    contrastive: Tensor
    text: Tensor
    image: Tensor
    features: Tensor


def cosine_distance(x: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of 1 - cos(x_i, target_i), both [n, d]."""
    return 1 - functional.cosine_similarity(x.float(), target.float(), dim=1).mean()


def student_losses(
    images: Tensor,
    texts: Tensor,
    caption: Tensor,
    scale: Tensor,
    *,
    image_target: Tensor,
    text_target: Tensor,
    features: Tensor,
    feature_target: Tensor,
) -> Losses:
    """All losses of one step.

    ``images`` [n, d]; ``texts`` [n + m, d], the first n being the captions of the pictures; ``caption`` [n] numbers (equal =
    positive pair); ``scale`` the factor on cosines; ``features`` [n, p] what the extra map makes of the pictures.
    """
    x, y = functional.normalize(images.float(), dim=1), functional.normalize(texts[: len(images)].float(), dim=1)
    same = caption[:, None] == caption[None]
    return Losses(
        multi_positive_info_nce(scale * x @ y.T, same),
        cosine_distance(texts, text_target),
        cosine_distance(images, image_target),
        cosine_distance(features, feature_target),
    )
