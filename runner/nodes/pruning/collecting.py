"""What one forward pass tells of blocks and of the inputs of o and down, gathered by hooks; no hidden state outlives its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from runner.models.lvlm.anatomy import Anatomy
from runner.models.lvlm.groups import LayerGroups
from runner.nodes.pruning.importance import angular_triangle, block_influence, exact
from runner.nodes.pruning.names import LastState
from runner.nodes.pruning.running import Sequences

Watch = Callable[[Tensor], None]


class TokenSums:
    """Values by token summed over tokens, and their means by sample summed over samples (float64, any shape before tokens)."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.sample_means: Tensor | float = 0.0
        self.tokens = self.samples = 0

    def add(self, sums: Tensor, counts: Tensor) -> None:
        """``sums`` [..., B] over the tokens of each sample, ``counts`` int64 [B]."""
        sums, counts = sums.double().cpu(), counts.cpu()
        self.total = self.total + sums.sum(-1)
        self.sample_means = self.sample_means + (sums / counts).sum(-1)
        self.tokens += int(counts.sum())
        self.samples += len(counts)

    def sums(self) -> Tensor:
        """Over all tokens."""
        return torch.as_tensor(self.total)

    def means(self, *, by_sample: bool = False) -> Tensor:
        """Over tokens, or over samples of their means."""
        return torch.as_tensor(self.sample_means) / self.samples if by_sample else self.sums() / self.tokens


class Influence:
    """Block influence of every block. ``last_state``: whether the last block is compared before or after the final norm (as
    the reference does, which reads the hidden states that transformers returns)."""

    def __init__(self, anatomy: Anatomy, last_state: LastState = "pre_norm") -> None:
        self.anatomy, self.last_state, self.found = anatomy, last_state, TokenSums()

    @contextmanager
    def watching(self, sequences: Sequences) -> Iterator[None]:
        """Gather from the forward pass inside."""
        sums: list[Tensor] = []
        before: list[Tensor] = []

        def compare(after: Tensor) -> None:
            scores = block_influence(before.pop(), after, sequences.mask)
            sums.append(scores.sum(-1, dtype=torch.float64))

        ends = list(self.anatomy.layers)
        if self.last_state == "post_norm":
            ends[-1] = self.anatomy.norm
        with hooked(inputs=[(m, before.append) for m in self.anatomy.layers], outputs=[(m, compare) for m in ends]):
            yield
        self.found.add(torch.stack(sums), sequences.mask.sum(1))


class Angles:
    """Angular distances between all pairs of states, hence of every run of blocks; keeps L + 1 states of one batch at a time."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy, self.found = anatomy, TokenSums()

    @contextmanager
    def watching(self, sequences: Sequences) -> Iterator[None]:
        """Gather from the forward pass inside."""
        states: list[Tensor] = []
        last = self.anatomy.layers[-1]
        with hooked(inputs=[(m, states.append) for m in self.anatomy.layers], outputs=[(last, states.append)]):
            yield
        stacked = torch.stack(states)
        triangles = [angular_triangle(stacked[:, row], mask) for row, mask in enumerate(sequences.mask)]
        self.found.add(torch.stack(triangles, -1), sequences.mask.sum(1))


class Columns:
    """Statistics over tokens of what enters the output matrix of each layer's attention and MLP, float64 [C].

    ``mean``, ``spread`` (sum of squared deviations, joined batch by batch after Chan et al.), ``squares`` (sum of x^2) and
    ``sample_squares`` (sum over samples of the square of mean |x|).
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.mean: Tensor = torch.zeros(())
        self.spread: Tensor = torch.zeros(())
        self.sample_squares: Tensor = torch.zeros(())

    def add(self, x: Tensor, mask: Tensor) -> None:
        """``x`` [B, S, C], ``mask`` bool [B, S]."""
        x = exact(x).masked_fill(~mask[..., None], 0)
        counts = mask.sum(1)
        self.sample_squares = self.sample_squares + _total(_total(x.abs(), 1).div(counts[:, None]).square(), 0)
        flat = x[mask]
        mean = _total(flat, 0) / len(flat)
        spread = _total((flat - mean.to(flat.dtype)).square(), 0)
        apart, total = mean - self.mean, self.tokens + len(flat)
        self.spread = self.spread + spread + apart.square() * self.tokens * len(flat) / total
        self.mean = self.mean + apart * len(flat) / total
        self.tokens = total

    @property
    def squares(self) -> Tensor:
        """Sums over tokens of x^2."""
        return self.spread + self.tokens * self.mean.square()

    @property
    def variance(self) -> Tensor:
        """Over tokens, unbiased."""
        return self.spread / max(1, self.tokens - 1)


def _total(x: Tensor, dim: int) -> Tensor:
    return x.sum(dim, dtype=torch.float64)


class ColumnStatistics:
    """``Columns`` of (layer, kind) for the layers given."""

    def __init__(self, groups: dict[int, LayerGroups]) -> None:
        self.modules = {
            (number, kind): module
            for number, group in groups.items()
            for kind, module in (("attention", group.attention_output), ("mlp", group.mlp_output))
        }
        self.found = {key: Columns() for key in self.modules}

    @contextmanager
    def watching(self, sequences: Sequences) -> Iterator[None]:
        """Gather from the forward pass inside."""
        watches = [(module, self._watch(key, sequences.mask)) for key, module in self.modules.items()]
        with hooked(inputs=watches):
            yield

    def _watch(self, key: tuple[int, str], mask: Tensor) -> Watch:
        return lambda x: self.found[key].add(x.reshape(*mask.shape, -1), mask)


@contextmanager
def hooked(inputs: Sequence[tuple[Any, Watch]] = (), outputs: Sequence[tuple[Any, Watch]] = ()) -> Iterator[None]:
    """Show what enters and what leaves modules while inside."""
    handles = [module.register_forward_pre_hook(_on_input(watch), with_kwargs=True) for module, watch in inputs]
    handles += [module.register_forward_hook(_on_output(watch)) for module, watch in outputs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_input(watch: Watch) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
    return lambda module, args, given: watch((args[0] if args else given["hidden_states"]).detach())


def _on_output(watch: Watch) -> Callable[[Any, Any, Any], None]:
    return lambda module, args, output: watch((output[0] if isinstance(output, tuple) else output).detach())
