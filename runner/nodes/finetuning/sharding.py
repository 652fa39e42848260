"""Weights of the decoder's blocks spread over the processes of a training (FSDP2), and read whole again.

What stands outside the blocks (embeddings, head, projector, vision tower) stays whole in each process: it is called in pieces, not as
one module, and its gradients are summed by ``Group.sum_gradients``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from runner.nodes.finetuning.group import Group
from runner.nodes.finetuning.learner import Learner


def shard(learner: Learner, group: Group) -> None:
    """Keep 1/size of every block's weights in each process. Gradients are sums over the processes, not means."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(torch.device(learner.loaded.device).type, (group.size,))
    for block in learner.parts.layers:
        sharded = fully_shard(block, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    learner.trained = {name: p for name, p in learner.network.named_parameters() if p.requires_grad}


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of it, detached; every process calls this."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of ``like``, and spread as that is."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def clip(parameters: Sequence[nn.Parameter], greatest: float) -> float:
    """Scale all gradients so that their joint norm is at most ``greatest``; gives the norm before that, the same in each process."""
    touched = [p for p in parameters if p.grad is not None]
    kinds = [[p for p in touched if is_sharded(p) is kind] for kind in (False, True)]
    norms = [
        float(whole(nn.utils.get_total_norm([p.grad for p in some if p.grad is not None]))) for some in kinds if some
    ]
    norm = math.hypot(*norms) if norms else 0.0
    for some in kinds:
        nn.utils.clip_grads_with_norm_(some, greatest, torch.tensor(norm))
    return norm
