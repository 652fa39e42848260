"""Surgery on a decoder, in place on the caller's network: fewer layers, narrower layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner.errors import DataError
from runner.models.lvlm.anatomy import anatomy, text_configs
from runner.models.lvlm.groups import ROWS, LayerGroups, Member, coupled_groups
from runner.models.lvlm.plans import LayerWidths, WidthPlan, check_queries

if TYPE_CHECKING:
    from torch import Tensor


def layer_groups(network: Any, decoder: str = "auto") -> list[LayerGroups]:
    """Coupled groups of every layer of the decoder, in order."""
    found = anatomy(network, decoder)
    return [coupled_groups(layer, found.config) for layer in found.layers]


def drop_layers(network: Any, keep: Sequence[int], decoder: str = "auto") -> Any:
    """Keep the layers at these positions, ascending. The network is changed and returned.

    Slots of the key-value cache are renumbered; ``num_hidden_layers`` and lists by layer change in configs of the network's
    own, since decoders read them at every forward: a shared config would silently drop layers of another network.
    """
    from torch.nn import ModuleList

    found = anatomy(network, decoder)
    had, kept = len(found.layers), [int(i) for i in keep]
    if not kept or kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < had:
        raise DataError(f"layers to keep must be some of 0..{had - 1}, ascending, at least one; got {kept[:8]}")
    own_configs(network)
    found.decoder.layers = ModuleList(found.layers[i] for i in kept)
    _renumber(found.decoder.layers)
    for config in text_configs(network, anatomy(network, decoder)):
        _shorten(config, had, kept)
    return network


def slice_widths(network: Any, plan: WidthPlan, decoder: str = "auto") -> Any:
    """Cut rows and columns so that each layer keeps what ``plan`` says. The network is changed and returned.

    ``head_dim`` stays what it was. Where all layers are equal afterwards the config says their widths, with ``head_dim`` explicit.
    """
    groups = layer_groups(network, decoder)
    beyond = [i for i in plan if not 0 <= i < len(groups)]
    if beyond:
        raise DataError(f"there is no layer {beyond[0]}: the model has {len(groups)}, counted from 0")
    for position, widths in plan.items():
        check_queries(widths, groups[position].attention)
        slice_layer(groups[position], widths)
    own_configs(network)
    describe_widths(network, decoder)
    return network


def slice_layer(groups: LayerGroups, widths: LayerWidths) -> None:
    """Cut one layer's Linears and set the counts that its modules keep."""
    for path, members in _by_linear(groups).items():
        picked = [_channels(m, widths, groups.attention.head_dim) + m.start for m in members]
        _cut(groups.layer.get_submodule(path), picked, members[0].axis)
    _set_counts(groups.layer, len(widths.heads), len(widths.kv_heads), len(widths.neurons))


def channels_kept(member: Member, widths: LayerWidths, head_dim: int) -> Tensor:
    """int64: channels of the member (counted from its ``start``) that belong to the kept units, ascending."""
    return _channels(member, widths, head_dim)


def _channels(member: Member, widths: LayerWidths, head_dim: int) -> Tensor:
    import torch

    if member.unit == "neuron":
        return torch.tensor(widths.neurons, dtype=torch.int64)
    units = torch.tensor(widths.heads if member.unit == "query" else widths.kv_heads, dtype=torch.int64)
    return (units[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _by_linear(groups: LayerGroups) -> dict[str, list[Member]]:
    """Members of each Linear in the order they stand in it."""
    found: dict[str, list[Member]] = {}
    for member in (*groups.attention.members, *groups.mlp.members):
        found.setdefault(member.path, []).append(member)
    return {path: sorted(members, key=lambda m: m.start) for path, members in found.items()}


def _cut(linear: Any, picked: list[Tensor], axis: int) -> None:
    import torch

    index = torch.cat(picked).to(linear.weight.device)
    linear.weight = _parameter(linear.weight, index, axis)
    if axis == ROWS:
        linear.out_features = len(index)
        if linear.bias is not None:
            linear.bias = _parameter(linear.bias, index, 0)
    else:
        linear.in_features = len(index)


def _parameter(old: Any, index: Tensor, axis: int) -> Any:
    from torch.nn import Parameter

    return Parameter(old.detach().index_select(axis, index), requires_grad=old.requires_grad)


def _set_counts(layer: Any, heads: int, kv_heads: int, neurons: int) -> None:
    attention = layer.self_attn
    counts = {"num_heads": heads, "num_key_value_heads": kv_heads, "num_key_value_groups": heads // kv_heads}
    for name, count in counts.items():
        if hasattr(attention, name):
            setattr(attention, name, count)
    if hasattr(attention, "qkv_proj"):  # where the parts begin is read from the config at every forward
        attention.config = copy.deepcopy(attention.config)
        attention.config.num_attention_heads, attention.config.num_key_value_heads = heads, kv_heads
    if hasattr(layer.mlp, "intermediate_size"):
        layer.mlp.intermediate_size = neurons


# --- configs ---------------------------------------------------------------------------------------------------------


def own_configs(network: Any) -> None:
    """Give the network copies of all its configs; objects that were one stay one."""
    memo: dict[int, Any] = {}
    for module in network.modules():
        if module.__dict__.get("config") is not None:
            module.config = copy.deepcopy(module.config, memo)


def describe_widths(network: Any, decoder: str = "auto") -> bool:
    """Write the widths into the configs where one number of each says it for all layers. Whether it does."""
    found = anatomy(network, decoder)
    groups = [coupled_groups(layer, found.config) for layer in found.layers]
    sizes = {(g.attention.n_heads, g.attention.n_kv, g.attention.head_dim, g.mlp.width) for g in groups}
    if len(sizes) > 1:
        return False
    names = ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
    for config in text_configs(network, found):
        for name, size in zip(names, next(iter(sizes)), strict=True):
            if getattr(config, name, None) != size and (name != "head_dim" or _needs_head_dim(config, size)):
                setattr(config, name, size)
    return True


def _needs_head_dim(config: Any, size: int) -> bool:
    """Whether hidden size and number of heads (set before) do not already say it."""
    return bool(getattr(config, "head_dim", None) or config.hidden_size != config.num_attention_heads * size)


def _renumber(layers: Any) -> None:
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(module.__dict__.get("layer_idx"), int):
                module.layer_idx = number


def _shorten(config: Any, had: int, keep: Sequence[int]) -> None:
    """Number of layers, and every list that has one entry a layer (``layer_types``, ``no_rope_layers`` ...)."""
    if getattr(config, "num_hidden_layers", had) != had:
        return
    config.num_hidden_layers = len(keep)
    fields: Mapping[str, Any] = dict(vars(config))
    for name, value in fields.items():
        if isinstance(value, list | tuple) and len(value) == had and "layer" in name:
            setattr(config, name, type(value)(value[i] for i in keep))
