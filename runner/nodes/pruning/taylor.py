"""Taylor importance from gradients that are dropped as soon as they are read.

A hook on each prunable weight sums saliencies by row or column when its gradient is complete and lets go of it, so that at most
one matrix of gradient is alive beside what ``backward`` itself holds. That is exact where the gradient is complete after one
backward pass; over several batches a float32 sum is kept for each prunable matrix. ``param_second`` is linear in the Fisher
diagonal, so it needs no such sum at all; ``param_mix`` needs the diagonal whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from runner.models.lvlm.anatomy import Anatomy
from runner.models.lvlm.groups import LayerGroups, Member
from runner.nodes.pruning.importance import FISHER, GRADIENTS, channel_scores, exact, weight_saliency
from runner.nodes.pruning.names import Saliency
from runner.nodes.pruning.running import Sequences, Subject, checkpointed, sequence_losses

Place = tuple[int, str]
"""Layer, then attention or mlp."""
Channels = dict[Place, list[Tensor]]
"""Channel scores of each member, in the members' order."""
Reader = Callable[[Any, Tensor], None]
Tick = Callable[[], None]


def taylor_channels(
    subject: Subject,
    groups: Mapping[int, LayerGroups],
    batches: Sequence[Sequences],
    kinds: Sequence[Saliency],
    *,
    by_sample: bool = False,
    checkpointing: bool = False,
    tick: Tick = lambda: None,
) -> dict[Saliency, Channels]:
    """Channel scores of all members for each kind, float32 or better.

    The loss is the mean cross-entropy over all label positions (``by_sample``: mean of the sequences' means); squared gradients are
    those of each sequence's mean. The network's ``requires_grad`` is put back. ``tick`` is called after each backward pass.
    """
    weights = Weights(groups)
    second, whole = [k for k in kinds if k in FISHER], [k for k in kinds if k in GRADIENTS]
    with (
        only_gradients_of(subject.anatomy, weights.parameters),
        checkpointed(subject) if checkpointing else nullcontext(),
    ):
        if second:
            _read_samples(subject, weights, batches, second, tick)
        if whole:
            _read_whole(subject, weights, batches, whole, by_sample, tick)
    return {kind: weights.channels[kind] for kind in kinds}


class Weights:
    """Prunable weights, the members that are stretches of each, and what has been summed for them."""

    def __init__(self, groups: Mapping[int, LayerGroups]) -> None:
        self.members: dict[Any, list[tuple[Place, int, Member]]] = {}
        self.sizes: dict[Place, int] = {}
        for number, group in groups.items():
            for kind in ("attention", "mlp"):
                members = group.members(kind)
                self.sizes[number, kind] = len(members)
                for place, member in enumerate(members):
                    self.members.setdefault(group.linear(member).weight, []).append(((number, kind), place, member))
        self.channels: dict[Saliency, Channels] = {}
        self.fisher: dict[Any, Tensor] = {}

    @property
    def parameters(self) -> list[Any]:
        """Each weight once."""
        return list(self.members)

    def read(
        self, kind: Saliency, weight: Any, grad: Tensor | None, fisher: Tensor | None = None, share: float = 1.0
    ) -> None:
        """Add ``share`` of the channel scores that a weight's gradient gives to its members."""
        kept = self.channels.setdefault(kind, {place: [torch.zeros(())] * n for place, n in self.sizes.items()})
        for place, index, member in self.members[weight]:
            parts = [None if t is None else t.narrow(member.axis, member.start, member.length) for t in (grad, fisher)]
            stretch = weight.detach().narrow(member.axis, member.start, member.length)
            scores = channel_scores(weight_saliency(kind, stretch, *parts), member.axis, kind)
            kept[place][index] = kept[place][index].to(scores.device) + share * scores


def _read_whole(
    subject: Subject,
    weights: Weights,
    batches: Sequence[Sequences],
    kinds: Sequence[Saliency],
    by_sample: bool,
    tick: Tick,
) -> None:
    """One gradient of the loss of all batches together."""
    sums: dict[Any, Tensor] = {}
    positions, rows = sum(int(b.counts.sum()) for b in batches), sum(len(b.counts) for b in batches)
    last = batches[-1]

    def read(weight: Any, grad: Tensor) -> None:
        if len(batches) > 1:
            grad = sums[weight].add_(grad) if weight in sums else sums.setdefault(weight, exact(grad))
        if current is last:
            for kind in kinds:
                weights.read(kind, weight, grad, weights.fisher.get(weight))
            sums.pop(weight, None)
            weights.fisher.pop(weight, None)

    with reading_gradients(weights.parameters, read):
        for current in batches:
            losses = sequence_losses(subject, current)
            (losses / (current.counts * rows if by_sample else positions)).sum().backward()  # type: ignore[no-untyped-call]
            tick()


def _read_samples(
    subject: Subject, weights: Weights, batches: Sequence[Sequences], kinds: Sequence[Saliency], tick: Tick
) -> None:
    """The gradient of every sequence by itself, squared and averaged: a backward pass each."""
    share = 1 / sum(len(batch.counts) for batch in batches)

    def read(weight: Any, grad: Tensor) -> None:
        squared = exact(grad).square()
        if "param_second" in kinds:
            weights.read("param_second", weight, None, squared, share)
        if "param_mix" in kinds:
            kept = weights.fisher.get(weight)
            weights.fisher[weight] = squared.mul_(share) if kept is None else kept.add_(squared, alpha=share)

    with reading_gradients(weights.parameters, read):
        for batch in batches:
            losses = sequence_losses(subject, batch) / batch.counts
            for row in range(len(losses)):
                losses[row].backward(retain_graph=row < len(losses) - 1)  # type: ignore[no-untyped-call]
                tick()


@contextmanager
def reading_gradients(parameters: Sequence[Any], read: Reader) -> Iterator[None]:
    """Show every gradient as soon as it is complete, and drop it."""

    def hook(weight: Any) -> None:
        grad, weight.grad = weight.grad, None
        read(weight, grad)

    handles = [weight.register_post_accumulate_grad_hook(hook) for weight in parameters]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def only_gradients_of(anatomy: Anatomy, parameters: Sequence[Any]) -> Iterator[None]:
    """Nothing but these parameters takes gradients; all flags and gradients as before afterwards."""
    modules = [m for m in (anatomy.decoder, anatomy.lm_head) if m is not None]
    everything = list({p: None for module in modules for p in module.parameters()})
    before = [(p, p.requires_grad, p.grad) for p in everything]
    wanted = set(parameters)
    for parameter in everything:
        parameter.grad = None
        parameter.requires_grad_(parameter in wanted)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag, grad in before:
            parameter.requires_grad_(flag)
            parameter.grad = grad
