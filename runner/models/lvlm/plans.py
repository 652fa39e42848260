"""What of a decoder is kept: layers, attention heads, neurons, by their indices in the original model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.errors import DataError
from runner.models.lvlm.groups import AttentionGroups, LayerGroups

FIELDS = ("heads", "kv_heads", "neurons")


@dataclass(frozen=True)
class LayerWidths:
    """Indices kept in one layer, ascending: query heads, key-value heads, neurons.

    Each kept key-value head keeps the same number of its query heads, which stand contiguously behind it.
    """

    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    neurons: tuple[int, ...]

    @classmethod
    def whole(cls, groups: LayerGroups) -> LayerWidths:
        """All of a layer."""
        attention = groups.attention
        return cls(*(tuple(range(n)) for n in (attention.n_heads, attention.n_kv, groups.mlp.width)))

    @classmethod
    def by_groups(
        cls, groups: LayerGroups, kv_heads: Iterable[int] | None = None, neurons: Iterable[int] | None = None
    ) -> LayerWidths:
        """Keep whole groups of heads: key-value heads with all their query heads. None keeps all."""
        whole, r = cls.whole(groups), groups.attention.queries
        kept = whole.kv_heads if kv_heads is None else _ascending(kv_heads)
        heads = tuple(g * r + i for g in kept for i in range(r))
        return cls(heads, kept, whole.neurons if neurons is None else _ascending(neurons))._checked(groups)

    @classmethod
    def by_queries(cls, groups: LayerGroups, heads: Iterable[int], neurons: Iterable[int] | None = None) -> LayerWidths:
        """Keep single query heads, the same number of each group; all key-value heads stay."""
        whole = cls.whole(groups)
        kept = whole.neurons if neurons is None else _ascending(neurons)
        return cls(_ascending(heads), whole.kv_heads, kept)._checked(groups)

    def _checked(self, groups: LayerGroups) -> LayerWidths:
        whole = type(self).whole(groups)
        for name in FIELDS:
            kept, had = getattr(self, name), getattr(whole, name)
            if not kept or not set(kept) <= set(had):
                raise DataError(f"{name} to keep must be 1 to {len(had)} of 0..{len(had) - 1}, not {list(kept)[:8]}")
        check_queries(self, groups.attention)
        return self


def check_queries(widths: LayerWidths, attention: AttentionGroups) -> None:
    """DataError unless every kept key-value head keeps equally many query heads, and no query head stays without its own."""
    counts = dict.fromkeys(widths.kv_heads, 0)
    for head in widths.heads:
        group = head // attention.queries
        if group not in counts:
            raise DataError(f"query head {head} would stay without its key-value head {group}")
        counts[group] += 1
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise DataError(f"key-value heads would keep unequal numbers of query heads: {counts}")


WidthPlan = Mapping[int, LayerWidths]
"""Position of a layer in the network -> indices kept there, in the network's present numbering. Layers left out stay whole."""


@dataclass(frozen=True)
class Plan:
    """``layers``: original indices of the layers kept; ``widths``: of each, original indices of what it keeps."""

    layers: tuple[int, ...]
    widths: tuple[LayerWidths, ...]

    @classmethod
    def whole(cls, groups: Sequence[LayerGroups]) -> Plan:
        """Nothing removed."""
        return cls(tuple(range(len(groups))), tuple(LayerWidths.whole(g) for g in groups))

    def drop(self, keep: Sequence[int]) -> Plan:
        """After ``drop_layers``: ``keep`` are positions in the present network."""
        return Plan(tuple(self.layers[i] for i in keep), tuple(self.widths[i] for i in keep))

    def narrow(self, plan: WidthPlan) -> Plan:
        """After ``slice_widths``: indices of the present network become original ones."""
        widths = list(self.widths)
        for position, kept in plan.items():
            had = widths[position]
            widths[position] = LayerWidths(*(tuple(getattr(had, f)[i] for i in getattr(kept, f)) for f in FIELDS))
        return Plan(self.layers, tuple(widths))

    def width_plan(self) -> dict[int, LayerWidths]:
        """Original index of each kept layer -> what it keeps."""
        return dict(zip(self.layers, self.widths, strict=True))

    def unequal(self) -> list[int]:
        """Original indices of the layers whose numbers of heads or neurons differ from the first one's."""
        sizes = [tuple(len(getattr(w, f)) for f in FIELDS) for w in self.widths]
        return [layer for layer, size in zip(self.layers, sizes, strict=True) if size != sizes[0]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: ``layers``, and per kept layer ``heads``, ``kv_heads``, ``neurons``."""
        return {"layers": [*self.layers], **{f: [[*getattr(w, f)] for w in self.widths] for f in FIELDS}}

    @classmethod
    def from_dict(cls, given: Any) -> Plan:
        """Read ``to_dict``. DataError where it is none."""
        names = ("layers", *FIELDS)
        if not isinstance(given, dict) or not all(isinstance(given.get(name), list) for name in names):
            raise DataError(f"a plan of what is kept has the lists {', '.join(names)}")
        layers = _indices(given["layers"], "layers")
        if any(len(given[f]) != len(layers) for f in FIELDS) or not layers:
            raise DataError(f"a plan has one list of {', '.join(FIELDS)} for each kept layer, and at least one layer")
        rows = zip(*(given[f] for f in FIELDS), strict=True)
        return cls(layers, tuple(LayerWidths(*(_indices(v, f) for v, f in zip(r, FIELDS, strict=True))) for r in rows))


def _indices(given: Any, name: str) -> tuple[int, ...]:
    is_list = isinstance(given, list) and all(type(i) is int and i >= 0 for i in given)
    if not is_list or list(given) != sorted(set(given)) or not given:
        raise DataError(f"{name} kept must be a list of whole numbers, ascending, none twice, not empty")
    return tuple(given)


def _ascending(indices: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({int(i) for i in indices}))
