"""Scores of pruning: block influence by rows, memory of Taylor scores, and many ratios from one pass.

    OMP_NUM_THREADS=1 python benchmarks/pruning_scores.py [influence] [memory] [sweep]

``influence``: against the published form, which multiplies all pairs of unit vectors (S x S) and reads the diagonal, same states.
``memory``: bytes of tensors alive at the peak of a forward and backward pass on a Llama of random weights (8 layers, width 512), counted
from every storage that an operation makes, weights left out: forward alone (activations kept for the backward), Taylor scores with
gradients dropped as they are read, and with all gradients kept. ``sweep``: seconds of one scoring pass and of choosing what stays.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from runner.models.lvlm.anatomy import anatomy
from runner.models.lvlm.groups import coupled_groups
from runner.nodes.pruning.importance import block_influence
from runner.nodes.pruning.running import Sequences, Subject, sequence_losses
from runner.nodes.pruning.scoring import score_model
from runner.nodes.pruning.select import keep_units

LAYERS, WIDTH, NEURONS, ROWS, LENGTH = 8, 512, 1376, 4, 64


class Alive(TorchDispatchMode):
    """Bytes of storages made inside that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_flatten((args, kwargs or {}))[0] if isinstance(t, Tensor)}
        made = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(made)[0]:
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), given)
        return made

    def _count(self, storage: Any, given: set[int]) -> None:
        name = storage._cdata
        if name in self.known or name in given:
            return
        self.known[name] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, name)

    def _gone(self, name: int) -> None:
        self.now -= self.known.pop(name, 0)


def timed(run: Callable[[], object], times: int = 3) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def by_gram(x: Tensor, y: Tensor) -> Tensor:
    """The plain form: all pairs of tokens, of which the diagonal is read."""
    similarity = (x @ y.transpose(-1, -2)) / (x.norm(dim=-1, keepdim=True) * y.norm(dim=-1)[..., None, :])
    return 1 - similarity.diagonal(dim1=-2, dim2=-1).nan_to_num(0.5)


def influence() -> None:
    for length, width in ((700, 4096), (2048, 2560)):
        x = torch.randn(1, length, width)
        y = x + 0.1 * torch.randn_like(x)
        plain, ours = timed(lambda: by_gram(x, y)), timed(lambda: block_influence(x, y))  # noqa: B023
        apart = (by_gram(x, y) - block_influence(x, y)).abs().max()
        print(f"{length} tokens of {width}: all pairs {plain:.3f} s, rows {ours:.4f} s, {plain / ours:.1f} x; largest difference {apart:.1e}")  # fmt: skip


def subject() -> tuple[Subject, Sequences]:
    """A random network and one batch."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(
        vocab_size=2048, hidden_size=WIDTH, intermediate_size=NEURONS, num_hidden_layers=LAYERS, num_attention_heads=8,
        num_key_value_heads=8,
    )).eval()  # fmt: skip
    ids = torch.randint(0, 2048, (ROWS, LENGTH))
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        inputs = {"inputs_embeds": network.model.embed_tokens(ids), "attention_mask": mask.long()}
    return Subject(network, anatomy(network)), Sequences(inputs, mask, ids)


def peak(run: Callable[[], object]) -> float:
    """MiB."""
    with Alive() as alive:
        run()
    return alive.peak / 2**20


def memory() -> None:
    found, batch = subject()
    groups = [coupled_groups(layer, found.anatomy.config) for layer in found.anatomy.layers]
    weights = [g.linear(m).weight for g in groups for kind in ("attention", "mlp") for m in g.members(kind)]
    largest, everything = max(w.nbytes for w in weights), sum(w.nbytes for w in weights)
    found.network.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    forward = peak(lambda: sequence_losses(found, batch).sum())
    stored = peak(lambda: sequence_losses(found, batch).sum().backward())
    found.network.zero_grad()
    print(f"prunable weights {everything / 2**20:.0f} MiB, the largest {largest / 2**20:.1f} MiB")
    print(f"forward with activations kept {forward:.0f} MiB; backward with gradients kept {stored:.0f} MiB, {stored / forward:.2f} x")  # fmt: skip
    for kinds in (["taylor/param_first"], ["taylor/param_second"], ["taylor/param_first", "taylor/vectorize"]):
        hooked = peak(lambda: score_model(found.network, [batch], kinds))  # noqa: B023
        print(f"{', '.join(kinds)}: {hooked:.0f} MiB, {hooked / forward:.2f} x")


def sweep() -> None:
    found, batch = subject()
    start = time.perf_counter()
    scores = score_model(found.network, [batch], ["block_influence", "flap", "taylor/param_first"])
    once = time.perf_counter() - start
    ratios = [r / 20 for r in range(1, 20)]
    units = scores.units["taylor/param_first"]
    chosen = timed(lambda: [keep_units(value, ratio) for ratio in ratios for value in units.values()])
    print(f"one pass {once:.2f} s; what stays at {len(ratios)} ratios {chosen * 1e3:.1f} ms: {len(ratios) * once / (once + chosen):.1f} x of a pass a ratio")  # fmt: skip


def main() -> None:
    parts = {"influence": influence, "memory": memory, "sweep": sweep}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
