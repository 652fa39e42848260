"""Many merged models from one loaded network: mixtures of LoRA experts side by side in one batch, or one after another in place.

Source of the two forms: the linear merge ``sum_k w_k theta_k`` of 2602.04937; how it is executed here is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from runner.errors import ModelRefused

if TYPE_CHECKING:
    from types import TracebackType

CHUNK = 1 << 22
"""Elements that are computed in float32 at a time where the network is kept in half precision."""


class LowRank(NamedTuple):
    """A difference ``scaling * b @ a``: ``a`` [r, in], ``b`` [out, r]."""

    a: Tensor
    b: Tensor
    scaling: float


Factors = Mapping[str, LowRank]
"""One expert: name of a Linear in the network -> its factors."""


@dataclass
class Coefficients:
    """Weights of the experts for the batch at hand, shared by all adapted modules.

    ``rows`` [B, K]: one mixture a sample. ``blocks`` [M, K] where the batch is M copies of the same samples, mixture by
    mixture: then inputs whose first axis is no sample (pictures, patches) are divided in M equal parts.
    """

    rows: Tensor | None = None
    blocks: Tensor | None = None
    cast: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def of(self, count: int) -> Tensor:
        """[count, K] for an input whose first axis has that length. Raises ``ValueError``."""
        if self.rows is None:
            raise ValueError("no mixture is assigned to this batch")
        if count == len(self.rows):
            return self.rows
        if self.blocks is not None and count % len(self.blocks) == 0:
            return self.blocks.repeat_interleave(count // len(self.blocks), dim=0)
        raise ValueError(f"mixtures are assigned to {len(self.rows)} samples, but a module was given {count} rows")


class MixedLinear(nn.Module):
    """``y = W x + ((x A^T) * c) B^T`` with the factors of all experts side by side and c by sample.

    ``a`` [R, in], ``b`` [out, R] (scaling within), ``owner`` int64 [R]: which expert a rank belongs to. Equal to the Linear of
    the model merged for that sample's weights.
    """

    def __init__(self, linear: nn.Linear, factors: Sequence[LowRank | None], coefficients: Coefficients) -> None:
        super().__init__()
        self.linear, self.coefficients = linear, coefficients
        weight, present = linear.weight, [(k, f) for k, f in enumerate(factors) if f is not None]
        self.a = torch.cat([f.a.float() for _, f in present]).to(weight.device, weight.dtype)
        self.b = torch.cat([f.b.float() * f.scaling for _, f in present], dim=1).to(weight.device, weight.dtype)
        self.owner = torch.tensor([k for k, f in present for _ in range(len(f.a))], device=weight.device)

    @property
    def weight(self) -> Tensor:
        """Of the base: some networks ask a Linear for its dtype."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """Of the base."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[n, ..., in] -> [n, ..., out]."""
        scale = self.coefficients.of(len(x))[:, self.owner].to(x.dtype)
        low = nn.functional.linear(x, self.a)
        low = low * scale.view(len(x), *[1] * (x.dim() - 2), -1)
        base: Tensor = self.linear(x)
        if torch.is_grad_enabled():
            return base + nn.functional.linear(low, self.b)
        # In place: the output of the base's product is nobody else's, and a second one would cost a pass over memory.
        base.view(-1, base.shape[-1]).addmm_(low.reshape(-1, low.shape[-1]), self.b.T)
        return base


class MixedLeaf(nn.Module):
    """A module whose output is affine in its parameters, for parameters that experts carry whole.

    ``y(sum) = y(theta_0) + sum_k c_k (y(theta_k) - y(theta_0))``: one forward of the module an expert, so for small modules.
    ``states``: of each expert its parameters by their names in the module; None: the base's.
    """

    def __init__(
        self, module: nn.Module, states: Sequence[Mapping[str, Tensor] | None], coefficients: Coefficients
    ) -> None:
        super().__init__()
        self.module, self.coefficients = module, coefficients
        own = dict(module.named_parameters())
        self.states = [
            state and {name: _shaped(name, x, own[name]).to(own[name]) for name, x in state.items()} for state in states
        ]

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...] -> [n, ...]."""
        base: Tensor = self.module(x)
        shares, total = self.coefficients.of(len(x)).to(base.dtype), base
        for k, state in enumerate(self.states):
            if state:
                change = torch.func.functional_call(self.module, dict(state), (x,)) - base
                total = total + shares[:, k].view(-1, *[1] * (base.dim() - 1)) * change
        return total


class BatchedMixtures:
    """Swaps the adapted Linears of a network for mixtures of LoRA experts; the base is back as it was on leaving.

    ``experts`` in the order of the weights: modules one of them does not adapt count as zero. ``whole``: parameters that each of
    them carries whole, by name (a trained projector). ``assign`` before a batch. Raises ``ModelRefused`` where an adapted module is
    no Linear of the network, or a whole parameter belongs to no Linear, norm or embedding of its own.
    """

    def __init__(
        self, network: nn.Module, experts: Sequence[Factors], whole: Sequence[Mapping[str, Tensor]] | None = None
    ) -> None:
        self.network, self.experts = network, list(experts)
        self.coefficients = Coefficients()
        self._swapped: list[tuple[nn.Module, str, nn.Module]] = []
        for name in self.names:
            self._check(name)
        self._leaves = self._grouped(list(whole or [{} for _ in experts]))

    @property
    def names(self) -> list[str]:
        """Modules that some expert adapts."""
        return list(dict.fromkeys(name for expert in self.experts for name in expert))

    def assign(self, coefficients: Tensor, copies: int | None = None) -> None:
        """One mixture a sample, [B, K]; ``copies`` M: the batch is M times the same samples, one mixture after another."""
        if coefficients.dim() != 2 or coefficients.shape[1] != len(self.experts):
            raise ValueError(
                f"weights of shape {tuple(coefficients.shape)} for {len(self.experts)} experts; [B, K] was expected"
            )
        if copies and len(coefficients) % copies:
            raise ValueError(f"{len(coefficients)} samples are not {copies} copies")
        device = next(self.network.parameters()).device
        self.coefficients.rows = coefficients.to(device, torch.float32)
        self.coefficients.blocks = self.coefficients.rows[:: len(coefficients) // copies] if copies else None

    def __enter__(self) -> BatchedMixtures:
        for name in self.names:
            parent, _, child = name.rpartition(".")
            holder = self.network.get_submodule(parent)
            linear: Any = getattr(holder, child)
            self._swapped.append((holder, child, linear))
            setattr(holder, child, MixedLinear(linear, [e.get(name) for e in self.experts], self.coefficients))
        for name, states in self._leaves.items():
            parent, _, child = name.rpartition(".")
            holder = self.network.get_submodule(parent)
            leaf: Any = getattr(holder, child)
            self._swapped.append((holder, child, leaf))
            setattr(holder, child, MixedLeaf(leaf, states, self.coefficients))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for holder, child, linear in reversed(self._swapped):
            setattr(holder, child, linear)
        self._swapped.clear()

    def _grouped(self, whole: list[Mapping[str, Tensor]]) -> dict[str, list[dict[str, Tensor] | None]]:
        """Whole parameters by the module that owns them, one state an expert."""
        owners = [id(p) for _, p in self.network.named_parameters(remove_duplicate=False)]
        names = dict.fromkeys(name for expert in whole for name in expert)
        grouped: dict[str, list[dict[str, Tensor] | None]] = {}
        for name in names:
            module, _, own = name.rpartition(".")
            parameter = dict(self.network.named_parameters()).get(name)
            leaf = self.network.get_submodule(module) if parameter is not None else None
            if leaf is None or not _is_affine(leaf) or module in self.names or owners.count(id(parameter)) > 1:
                raise ModelRefused(f"an expert carries {name} whole, which cannot be mixed in a batch")
            states = grouped.setdefault(module, [None] * len(whole))
            for k, expert in enumerate(whole):
                if name in expert:
                    states[k] = {**(states[k] or {}), own: expert[name]}
        return grouped

    def _check(self, name: str) -> None:
        try:
            linear = self.network.get_submodule(name)
        except AttributeError as error:
            raise ModelRefused(f"an expert adapts {name}, which the network does not have") from error
        if not isinstance(linear, nn.Linear):
            raise ModelRefused(f"an expert adapts {name}, a {type(linear).__name__}: mixtures in a batch want a Linear")
        for expert in self.experts:
            if name in expert and (expert[name].b.shape[0], expert[name].a.shape[1]) != tuple(linear.weight.shape):
                found = (expert[name].b.shape[0], expert[name].a.shape[1])
                raise ModelRefused(
                    f"{name}: an expert of shape {found} on a weight of shape {tuple(linear.weight.shape)}"
                )


def _is_affine(module: nn.Module) -> bool:
    """Whether a module's output is affine in its parameters; norms of transformers are known by their class names."""
    kinds = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.modules.conv._ConvNd)
    return isinstance(module, kinds) or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))


class ResidentDeltas:
    """Base and full experts in flat buffers aliased by the parameters: one fused pass over memory a mixture.

    ``experts``: name of a parameter -> the expert's tensor; parameters that an expert leaves out are the base's. Weights are
    always computed from the base and the experts, never from the mixture before: theta = (1 - sum w) theta_0 + sum_k w_k theta_k,
    which with sum w = 1 is the linear merge, and task arithmetic otherwise. Sums in float32, one cast at the end. Keeping the
    experts rather than their differences loses nothing in half precision, where a difference would be rounded.
    """

    def __init__(self, network: nn.Module, experts: Sequence[Mapping[str, Tensor]]) -> None:
        own = dict(network.named_parameters())
        self.names = [name for name in own if any(name in expert for expert in experts)]
        strangers = [name for expert in experts for name in expert if name not in own]
        if strangers or not self.names:
            raise ModelRefused(
                f"the network has no parameter {strangers[0]!r}"
                if strangers
                else "no parameter is changed by any expert"
            )
        groups: dict[tuple[torch.dtype, torch.device], list[str]] = {}
        for name in self.names:
            groups.setdefault((own[name].dtype, own[name].device), []).append(name)
        self.banks = [_Bank(own, names, experts) for names in groups.values()]

    def set(self, weights: Sequence[float] | Tensor, base: float | None = None) -> None:
        """Make the network the merge for ``weights`` [K]; ``base``: share of theta_0, default 1 - sum of the weights."""
        row = torch.as_tensor(weights, dtype=torch.float64)
        share = 1.0 - float(row.sum()) if base is None else base
        # Shares that sum to one but for rounding leave nothing of the base, so that one-hot is the expert to the bit.
        share = 0.0 if abs(share) < 1e-12 else share
        for bank in self.banks:
            bank.write(row, share)

    def is_finite(self) -> bool:
        """Whether the live weights are numbers."""
        return all(bool(torch.isfinite(bank.live.sum(dtype=torch.float32))) for bank in self.banks)

    def reset(self) -> None:
        """The base again, to the bit."""
        for bank in self.banks:
            bank.live.copy_(bank.base)

    def tensors(self) -> Iterator[tuple[str, Tensor, Tensor, list[Tensor]]]:
        """Name, live parameter, base and experts, as views that share the buffers."""
        for bank in self.banks:
            yield from bank.tensors()


class _Bank:
    """Parameters of one dtype and device: ``live`` [P] (aliased), ``base`` [P], ``experts`` [K, P]."""

    def __init__(self, own: dict[str, nn.Parameter], names: list[str], experts: Sequence[Mapping[str, Tensor]]) -> None:
        first = own[names[0]]
        self.places: dict[str, tuple[int, torch.Size]] = {}
        size = 0
        for name in names:
            self.places[name] = (size, own[name].shape)
            size += own[name].numel()
        self.live = torch.empty(size, dtype=first.dtype, device=first.device)
        self.base = torch.empty_like(self.live)
        # Wider experts stay wide: only the mixture is rounded, once.
        given = [expert[name].dtype for expert in experts for name in names if name in expert]
        dtype = reduce(torch.promote_types, given, first.dtype)
        self.experts = torch.empty((len(experts), size), dtype=dtype, device=first.device)
        for name in names:
            parameter, view = own[name], self._view(self.live, name)
            view.copy_(parameter.data)
            self._view(self.base, name).copy_(parameter.data)
            for k, expert in enumerate(experts):
                self._view(self.experts[k], name).copy_(_shaped(name, expert.get(name, parameter.data), parameter))
            parameter.data = view

    def write(self, weights: Tensor, share: float) -> None:
        row = weights.to(self.live.device, torch.float32)
        if self.live.dtype == self.experts.dtype == torch.float32:
            torch.addmv(self.base, self.experts.T, row, beta=share, out=self.live)
            return
        for start in range(0, len(self.live), CHUNK):
            part = slice(start, start + CHUNK)
            mixed = torch.addmv(self.base[part].float(), self.experts[:, part].float().T, row, beta=share)
            self.live[part].copy_(mixed)

    def tensors(self) -> Iterator[tuple[str, Tensor, Tensor, list[Tensor]]]:
        for name in self.places:
            yield name, self._view(self.live, name), self._view(self.base, name), [
                self._view(expert, name) for expert in self.experts
            ]  # fmt: skip

    def _view(self, flat: Tensor, name: str) -> Tensor:
        begin, shape = self.places[name]
        return flat[begin : begin + shape.numel()].view(shape)


def _shaped(name: str, tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.shape != parameter.shape:
        raise ModelRefused(
            f"{name}: an expert of shape {tuple(tensor.shape)}, a base of shape {tuple(parameter.shape)}"
        )
    return tensor.detach()


@contextmanager
def shared_pictures(vision: nn.Module | None, copies: int) -> Iterator[None]:
    """Run the frozen vision tower once for a batch that is ``copies`` times the same pictures, and repeat what it gives.

    Only for towers that no expert changes. The first axis of every tensor argument must be ``copies`` equal blocks; a call
    where it is not is passed on as it is.
    """
    if vision is None or copies <= 1:
        yield
        return
    forward, before = vision.forward, vision.__dict__.get("forward")

    def once(*args: Any, **kwargs: Any) -> Any:
        if not all(_repeats(value, copies) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)):
            return forward(*args, **kwargs)
        first = [_first(value, copies) for value in args]
        return _repeated(forward(*first, **{k: _first(value, copies) for k, value in kwargs.items()}), copies)

    vision.__dict__["forward"] = once
    try:
        yield
    finally:
        del vision.__dict__["forward"]
        if before is not None:
            vision.__dict__["forward"] = before


def _repeats(value: Tensor, copies: int) -> bool:
    if value.dim() == 0 or len(value) % copies:
        return False
    blocks = value.view(copies, -1, *value.shape[1:])
    return bool((blocks[1:] == blocks[:1]).all())


def _first(value: Any, copies: int) -> Any:
    return value[: len(value) // copies] if isinstance(value, Tensor) else value


def _repeated(value: Any, copies: int) -> Any:
    """The output of one block as that of all: tensors along their first axis, sequences and outputs by their parts."""
    if isinstance(value, Tensor):
        return value.repeat(copies, *[1] * (value.dim() - 1))
    if isinstance(value, dict):
        return type(value)(**{key: _repeated(part, copies) for key, part in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(_repeated(part, copies) for part in value)
    return value
