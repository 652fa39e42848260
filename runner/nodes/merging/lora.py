"""Low-rank adapters as algebra: ``delta_k = s_k B_k A_k``, and the one adapter that is a whole mixture of them.

s_k = alpha_k / r_k, or alpha_k / sqrt(r_k) where trained as rsLoRA (arXiv 2312.03732). The base plus the concatenated adapter
A = [A_1; ...; A_K], B = [w_1 s_1 B_1, ..., w_K s_K B_K] is the linear merge exactly; adding up the A and the B apart from each
other is not, it brings in products B_i A_j. Modules that an adapter leaves out count as zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from runner.errors import DataError
from runner.nodes.merging.adapter_files import LoraAdapter, read_adapter, write_adapter

__all__ = [
    "LoraAdapter", "concatenate_adapters", "delta", "merged_weight", "padded", "read_adapter", "write_adapter",
]  # fmt: skip

REST = 1e-9
"""Share of the base below which the weights of full tensors count as one in sum."""


def delta(adapter: LoraAdapter, name: str) -> Tensor:
    """s B A of the module ``name`` (or its ``.weight``), float32 or better [out, in]. KeyError where it is not adapted."""
    module = name.removesuffix(".weight")
    a, b = adapter.factors[module]
    return adapter.scaling[module] * (_precise(b) @ _precise(a))


def merged_weight(
    weight: Tensor,
    adapters: Sequence[LoraAdapter],
    weights: Sequence[float],
    name: str,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """W + sum_k w_k s_k B_k A_k in float32 or better, then in ``dtype`` (default: that of ``weight``)."""
    total = _precise(weight).clone()
    for adapter, share in zip(adapters, weights, strict=True):
        module = name.removesuffix(".weight")
        if module in adapter.factors:
            a, b = adapter.factors[module]
            total.addmm_(_precise(b).to(total), _precise(a).to(total), alpha=share * adapter.scaling[module])
    return total.to(dtype or weight.dtype)


def concatenate_adapters(
    adapters: Sequence[LoraAdapter], weights: Sequence[float], base: Mapping[str, Tensor] | None = None
) -> LoraAdapter:
    """One adapter of rank sum_k r_k whose delta is sum_k w_k delta_k; scaling 1, float32.

    Weights may be zero or negative. Full tensors (``modules_to_save``) are merged linearly: where some adapter lacks one, or the
    weights do not sum to 1, the rest is the base's, which ``base`` must then hold. Raises ``DataError``.
    """
    if len(adapters) != len(weights) or not adapters:
        raise DataError(f"one weight an adapter is needed; found {len(weights)} for {len(adapters)} adapters")
    modules = dict.fromkeys(name for adapter in adapters for name in adapter.factors)
    factors = {name: _concatenated(name, adapters, weights) for name in modules}
    names = dict.fromkeys(name for adapter in adapters for name in adapter.full)
    full = {name: _mixed(name, adapters, weights, base or {}) for name in names}
    clash = next((name for name in full if name.removesuffix(".weight") in factors), None)
    if clash is not None:
        raise DataError(f"{clash}: one adapter holds it in full, another as low-rank factors",
                        hint="Merge the experts as whole models.")  # fmt: skip
    return LoraAdapter(factors, dict.fromkeys(factors, 1.0), full, adapters[0].base_name)


def padded(adapter: LoraAdapter, rank: int | None = None) -> LoraAdapter:
    """All modules at one rank (the largest by default) and scaling 1, by zero rows of A: what servers without patterns need."""
    rank = max((len(a) for a, _ in adapter.factors.values()), default=0) if rank is None else rank
    factors = {}
    for name, (a, b) in adapter.factors.items():
        if len(a) > rank:
            raise DataError(f"{name} has rank {len(a)}, more than {rank}")
        missing = rank - len(a)
        scaled = _precise(b) * adapter.scaling[name]
        factors[name] = (
            torch.cat([_precise(a), a.new_zeros((missing, a.shape[1]), dtype=_precise(a).dtype)]),
            torch.cat([scaled, scaled.new_zeros((len(b), missing))], dim=1),
        )
    return replace(adapter, factors=factors, scaling=dict.fromkeys(factors, 1.0))


def _concatenated(name: str, adapters: Sequence[LoraAdapter], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    present = [(x, w) for x, w in zip(adapters, weights, strict=True) if name in x.factors]
    shapes = {(x.factors[name][1].shape[0], x.factors[name][0].shape[1]) for x, _ in present}
    if len(shapes) > 1:
        raise DataError(f"{name}: adapters of different shapes {sorted(shapes)}: their bases differ")
    a = torch.cat([_precise(x.factors[name][0]) for x, _ in present])
    b = torch.cat([_precise(x.factors[name][1]) * (w * x.scaling[name]) for x, w in present], dim=1)
    return a, b


def _mixed(name: str, adapters: Sequence[LoraAdapter], weights: Sequence[float], base: Mapping[str, Tensor]) -> Tensor:
    present = [(x.full[name], w) for x, w in zip(adapters, weights, strict=True) if name in x.full]
    rest = 1 - sum(w for _, w in present)
    if abs(rest) > REST:
        if name not in base:
            raise DataError(f"{name}: not every adapter holds this full tensor, or the weights do not sum to 1; "
                            "the base's is needed")  # fmt: skip
        present.append((base[name], rest))
    if len({tensor.shape for tensor, _ in present}) > 1:
        raise DataError(f"{name}: tensors of different shapes {[list(tensor.shape) for tensor, _ in present]}")
    total = torch.zeros_like(_precise(present[0][0]))
    for tensor, share in present:
        total.add_(_precise(tensor).to(total), alpha=share)
    return total


def _precise(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
