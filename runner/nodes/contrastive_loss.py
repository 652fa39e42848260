"""The symmetric contrastive loss of image-text training, with several positives a row."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def multi_positive_info_nce(logits: Tensor, same: Tensor) -> Tensor:
    """Mean over both directions of -sum_j p_ij log softmax(logits)_ij, with p uniform over the positives of row i.

    ``logits`` [n, n] scaled cosines of image i and text j; ``same`` [n, n] boolean, symmetric, true on the diagonal:
    whether i and j carry the same caption. With one positive a row this is CLIP's loss (Radford et al. 2021); several
    positives as L_out of Khosla et al. (2020), equation 2.
    """
    share = same.float() / same.sum(1, keepdim=True)
    one_way = -(share * functional.log_softmax(logits, 1)).sum(1).mean()
    other_way = -(share * functional.log_softmax(logits.T, 1)).sum(1).mean()
    return (one_way + other_way) / 2
