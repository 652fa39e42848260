"""Which rows and columns of a decoder layer belong together, in every layout of attention and MLP that can be cut.

Removing a unit (an attention head, a group of heads that share keys and values, a neuron) takes the same index from every
member. Fused matrices (``qkv_proj``, ``gate_up_proj``) are seen as views of their parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import ModelRefused

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["attention", "mlp"]
Unit = Literal["query", "kv", "neuron"]
ROWS, COLUMNS = 0, 1
ATTENTION, MLP = "self_attn", "mlp"
OUTPUTS = ("o_proj", "dense", "out_proj")
NORMS = ("q_norm", "k_norm", "q_layernorm", "k_layernorm")


@dataclass(frozen=True)
class Member:
    """A stretch of a Linear's weight: ``length`` rows (``axis`` 0: outputs) or columns (``axis`` 1: inputs) from ``start``.

    ``path``: of the Linear in its layer; ``role``: ``q``, ``k``, ``v``, ``o``, ``gate``, ``up``, ``down``; ``unit``: what its channels
    are counted in (query heads, key-value heads, neurons).
    """

    role: str
    path: str
    axis: int
    start: int
    length: int
    unit: Unit


@dataclass(frozen=True)
class AttentionGroups:
    """``kind``: ``mha`` (a head each), ``gqa`` (``n_heads // n_kv`` query heads share keys and values, contiguously)."""

    kind: Literal["mha", "gqa"]
    n_heads: int
    n_kv: int
    head_dim: int
    members: tuple[Member, ...]

    @property
    def queries(self) -> int:
        """Query heads of a key-value head."""
        return self.n_heads // self.n_kv


@dataclass(frozen=True)
class MlpGroups:
    """``kind``: ``gated`` (gate, up, down), ``plain`` (fc1, fc2) or ``fused`` (gate and up in one matrix)."""

    kind: Literal["gated", "plain", "fused"]
    width: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class LayerGroups:
    """Coupled groups of one decoder layer; ``layer`` is the module they were read from."""

    layer: Any
    attention: AttentionGroups
    mlp: MlpGroups

    @property
    def attention_output(self) -> Any:
        """The Linear whose columns are the heads' channels."""
        return self.linear(self.attention.members[-1])

    @property
    def mlp_output(self) -> Any:
        """The Linear whose columns are the neurons."""
        return self.linear(self.mlp.members[-1])

    def members(self, kind: Kind) -> tuple[Member, ...]:
        """Members of attention or of the MLP; the output is the last."""
        return self.attention.members if kind == "attention" else self.mlp.members

    def linear(self, member: Member) -> Any:
        """The Linear that a member is a stretch of."""
        return self.layer.get_submodule(member.path)

    def views(self, kind: Kind, *, grad: bool = False) -> list[tuple[Tensor, int]]:
        """Views of the members' weights (or of their gradients) with the axis that counts channels, in the members' order.

        That axis has length ``n_heads * head_dim`` (q, o), ``n_kv * head_dim`` (k, v) or ``width`` (MLP).
        """
        return [(self.view(member, grad=grad), member.axis) for member in self.members(kind)]

    def view(self, member: Member, *, grad: bool = False) -> Tensor:
        """A view of one member's weight or of its gradient. ``ValueError`` where there is no gradient."""
        weight: Tensor = self.linear(member).weight
        seen = weight.grad if grad else weight
        if seen is None:
            raise ValueError(f"{member.path} has no gradient")
        return seen.narrow(member.axis, member.start, member.length)


def coupled_groups(layer: Any, config: Any) -> LayerGroups:
    """Read a decoder layer's groups. ``config``: of the text model, asked where the layer itself does not say.

    Raises ``ModelRefused`` for layers that hold anything unknown: what is not understood would be cut wrongly.
    """
    for name in (ATTENTION, MLP):
        if getattr(layer, name, None) is None:
            kind = getattr(config, "model_type", "unknown")
            raise ModelRefused(f"a layer of {kind} ({type(layer).__name__}) has no {name!r}: its anatomy is unknown")
    return LayerGroups(layer, _attention(layer.self_attn, config), _mlp(layer.mlp))


def _attention(module: Any, config: Any) -> AttentionGroups:
    output = _named(module, OUTPUTS)
    size = int(getattr(module, "head_dim", None) or config.head_dim)
    channels = getattr(module, output).in_features
    if hasattr(module, "qkv_proj"):
        names, shared = ("qkv_proj",) * 3, (module.qkv_proj.out_features - channels) // 2
        starts = (0, channels, channels + shared)
    else:
        names, starts = ("q_proj", "k_proj", "v_proj"), (0, 0, 0)
        shared = getattr(module, _named(module, ("k_proj",))).out_features
    lengths: tuple[int, ...] = (channels, shared, shared)
    members = [
        Member(role, f"{ATTENTION}.{name}", ROWS, start, length, "query" if role == "q" else "kv")
        for role, name, start, length in zip("qkv", names, starts, lengths, strict=True)
    ]
    members.append(Member("o", f"{ATTENTION}.{output}", COLUMNS, 0, channels, "query"))
    _check(module, ATTENTION, members, size)
    heads, kv = channels // size, shared // size
    if channels % size or shared % size or kv == 0 or heads % kv:
        raise ModelRefused(
            f"attention of {heads} query and {kv} key-value heads of {size} channels makes no whole groups"
        )
    return AttentionGroups("mha" if heads == kv else "gqa", heads, kv, size, tuple(members))


def _mlp(module: Any) -> MlpGroups:
    kind: Literal["gated", "plain", "fused"]
    if hasattr(module, "gate_up_proj"):
        kind, rows, output = "fused", {"gate": "gate_up_proj", "up": "gate_up_proj"}, "down_proj"
    elif hasattr(module, "gate_proj"):
        kind, rows, output = "gated", {"gate": "gate_proj", "up": "up_proj"}, "down_proj"
    else:
        kind, rows, output = "plain", {"up": "fc1"}, "fc2"
    width = getattr(module, _named(module, (output,))).in_features
    members = [
        Member(role, f"{MLP}.{name}", ROWS, number * width if kind == "fused" else 0, width, "neuron")
        for number, (role, name) in enumerate(rows.items())
    ]
    members.append(Member("down", f"{MLP}.{output}", COLUMNS, 0, width, "neuron"))
    _check(module, MLP, members, 0)
    return MlpGroups(kind, width, tuple(members))


def _named(module: Any, names: Iterable[str]) -> str:
    for name in names:
        if hasattr(module, name):
            return name
    raise ModelRefused(f"{type(module).__name__} has none of {', '.join(names)}: its anatomy is unknown")


def _check(module: Any, place: str, members: list[Member], head_dim: int) -> None:
    """Every parameter must be a Linear of the members, covered exactly, or a norm over the channels of one head."""
    from torch.nn import Linear

    covered: dict[str, int] = {}
    for member in members:
        name = member.path.removeprefix(f"{place}.")
        linear = getattr(module, name, None)
        if not isinstance(linear, Linear):
            raise ModelRefused(f"{type(module).__name__}.{name} is no plain Linear ({type(linear).__name__})")
        covered[name] = covered.get(name, 0) + member.length
        if covered[name] > linear.weight.shape[member.axis]:
            raise ModelRefused(
                f"{type(module).__name__}.{name}: {covered[name]} channels do not fit {tuple(linear.weight.shape)}"
            )
    for name, parameter in module.named_parameters():
        owner = name.rpartition(".")[0]
        per_head = owner in NORMS and parameter.numel() == head_dim
        if owner not in covered and not per_head:
            raise ModelRefused(
                f"{type(module).__name__} holds {name}, which no known layout has: cutting it is not safe"
            )
    for name, length in covered.items():
        axis = next(m.axis for m in members if m.path.endswith(f".{name}"))
        if getattr(module, name).weight.shape[axis] != length:
            raise ModelRefused(f"{type(module).__name__}.{name} has rows that no member covers")
