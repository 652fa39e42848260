"""Judged entries of one combination, joined into a ``Variant``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.spec.fill import Mention
from runner.spec.judge import Judged
from runner.spec.links import ordered
from runner.spec.model import Reference, References, StepNode, Variant
from runner.spec.source import Path, Source
from runner.steps import ParamField


def variant_of(
    name: str,
    params: Mapping[str, Any],
    models: Mapping[str, Judged],
    steps: Mapping[str, Judged],
    needs: Mapping[str, list[Mention]],
    source: Source,
) -> Variant:
    """The variant; models that none of its steps reaches are left out."""
    nodes = {n: _node(steps[n], waits, models, source) for n, waits in ordered(steps, needs).items()}
    reached, waiting = set(), [m.name for step in steps for m in needs[step]]
    while waiting:
        other = waiting.pop()
        if other in models and other not in reached:
            reached.add(other)
            waiting += [m.name for m in needs[other]]
    configs = {n: judged.config for n, judged in models.items() if n in reached and judged.config is not None}
    return Variant(name, dict(params), configs, nodes)


def _node(judged: Judged, waits: tuple[str, ...], models: Mapping[str, Judged], source: Source) -> StepNode:
    assert judged.definition is not None
    assert judged.values is not None
    references = {
        name: _references(judged.definition.params[name], mentions, models, source)
        for name, mentions in judged.mentions.items()
    }
    position = source.position(judged.entry.span)
    return StepNode(judged.entry.name, judged.definition, judged.values, references, position, waits)


def _references(
    param: ParamField, mentions: Mapping[Path, Mention], models: Mapping[str, Judged], source: Source
) -> References:
    found = {
        path: Reference("model" if m.name in models else "step", m.name, m.field, source.position(m.span))
        for path, m in mentions.items()
    }
    if (param.name,) in found:
        return found[param.name,]
    if param.many == "dict":
        return {str(path[1]): reference for path, reference in found.items()}
    return tuple(found.values())
