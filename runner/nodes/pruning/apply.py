"""Cutting a loaded network, or zeroing what would be cut, and counting what is left."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.errors import DataError
from runner.models.lvlm.anatomy import anatomy
from runner.models.lvlm.cutting import channels_kept, drop_layers, layer_groups, slice_widths
from runner.models.lvlm.groups import ROWS, LayerGroups, Unit
from runner.models.lvlm.plans import LayerWidths, Plan, WidthPlan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "LayerWidths",
    "Plan",
    "Sizes",
    "WidthPlan",
    "compensate",
    "count",
    "drop_layers",
    "layer_groups",
    "mask_layers",
    "mask_plan",
    "mask_widths",
    "slice_widths",
    "unit_parameters",
]


# --- zeroing -----------------------------------------------------------------------------------------------------------


def mask_widths(network: Any, plan: WidthPlan, decoder: str = "auto") -> Any:
    """Zero the rows and columns that ``slice_widths`` would cut: the same function in the original shapes."""
    groups = layer_groups(network, decoder)
    for position, widths in plan.items():
        _mask_layer(groups[position], widths)
    return network


def mask_layers(network: Any, remove: Collection[int], decoder: str = "auto") -> Any:
    """Zero the outputs of attention and MLP of these layers, so that they add nothing to the residual stream."""
    import torch

    groups = layer_groups(network, decoder)
    with torch.no_grad():
        for position in remove:
            for linear in (groups[position].attention_output, groups[position].mlp_output):
                linear.weight.zero_()
                if linear.bias is not None:
                    linear.bias.zero_()
    return network


def mask_plan(network: Any, plan: Plan, decoder: str = "auto") -> Any:
    """Zero everything that a plan (of this network as it is) does not keep."""
    removed = set(range(len(anatomy(network, decoder).layers))) - set(plan.layers)
    return mask_layers(mask_widths(network, plan.width_plan(), decoder), removed, decoder)


def _mask_layer(groups: LayerGroups, widths: LayerWidths) -> None:
    import torch

    with torch.no_grad():
        for member in (*groups.attention.members, *groups.mlp.members):
            gone = torch.ones(member.length, dtype=torch.bool)
            gone[channels_kept(member, widths, groups.attention.head_dim)] = False
            where = gone.nonzero().flatten().to(groups.linear(member).weight.device)
            groups.view(member).index_fill_(member.axis, where, 0)
            bias = groups.linear(member).bias
            if member.axis == ROWS and bias is not None:
                bias.narrow(0, member.start, member.length).index_fill_(0, where, 0)


def compensate(linear: Any, columns: Tensor, means: Tensor) -> Tensor:
    """Add what the columns about to be cut give on average to the output bias (FLAP); makes the bias where there is none.

    ``columns`` int64 [K]: inputs that go; ``means`` [in_features]: their mean over tokens. Returns what was added, float32 [out].
    """
    import torch
    from torch.nn import Parameter

    weight = linear.weight.detach()
    columns = columns.to(weight.device)
    added: Tensor = weight[:, columns].float() @ means.to(weight.device).float()[columns]
    old = linear.bias.detach().float() if linear.bias is not None else torch.zeros_like(added)
    linear.bias = Parameter((old + added).to(weight.dtype), requires_grad=linear.weight.requires_grad)
    return added


# --- counting ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Parameters of the language model (decoder and output head, tied ones once) and of the whole model; layers, and per layer
    query heads and neurons."""

    llm: int
    total: int
    layers: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]


def count(network: Any, decoder: str = "auto") -> Sizes:
    """Count a network, loaded or on the meta device."""
    found, groups = anatomy(network, decoder), layer_groups(network, decoder)
    language = [*found.decoder.parameters(), *(found.lm_head.parameters() if found.lm_head is not None else ())]
    return Sizes(
        _elements(language), _elements(network.parameters()), len(groups),
        tuple(g.attention.n_heads for g in groups), tuple(g.mlp.width for g in groups),
    )  # fmt: skip


def unit_parameters(groups: LayerGroups, unit: Unit) -> int:
    """Parameters of one query head, key-value head (without its query heads) or neuron, biases of cut rows included."""
    members = [m for m in (*groups.attention.members, *groups.mlp.members) if m.unit == unit]
    if not members:
        raise DataError(f"a layer has no units of kind {unit!r}")
    channels = 1 if unit == "neuron" else groups.attention.head_dim
    total = 0
    for member in members:
        linear = groups.linear(member)
        total += linear.weight.shape[1 - member.axis] + (member.axis == ROWS and linear.bias is not None)
    return total * channels


def _elements(parameters: Any) -> int:
    return sum({id(p): p.numel() for p in parameters}.values())
