"""A plan for people and for files: aligned text, Mermaid, JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runner.steps import Cost

if TYPE_CHECKING:
    from runner.graph.nodes import PlanNode
    from runner.graph.plan import Plan

_FORMAT = 1


def plan_text(plan: Plan) -> str:
    """What is done, what will run and why, what that will spend and fetch."""
    waiting = [node for node in plan.nodes if not node.done]
    variants = len(plan.spec.variants)
    head = f"{plan.spec.name}: {_count(len(plan.nodes), 'step')}"
    head += f" in {_count(variants, 'variant')}" if variants > 1 else ""
    head += f", {len(plan.nodes) - len(waiting)} done, {len(waiting)} to run"
    rows = [(_status(node), _label(node), node.definition.name, _why(node)) for node in plan.nodes]
    lines = [head, *_aligned(rows)]
    if waiting:
        lines.append(f"to spend: {cost_text(plan.cost)}")
    missing = [need for need in plan.assets.values() if need.file is None]
    if missing:
        lines.append("assets:   " + ", ".join(f"{need.name} ({size_text(need.bytes)})" for need in missing))
    return "\n".join(lines)


def _status(node: PlanNode) -> str:
    return "done" if node.done else "will run"


def _label(node: PlanNode) -> str:
    more = len(node.placements) - 1
    return f"{node.label} (+{more} more)" if more else node.label


def _why(node: PlanNode) -> str:
    spending = "" if node.done or node.cost == Cost() else f" ({cost_text(node.cost)})"
    return f"{node.reason}{spending}"


def _aligned(rows: list[tuple[str, str, str, str]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(3)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join(["", *cells, row[3]]).rstrip()


def cost_text(cost: Cost) -> str:
    """Calls, images and bytes in words; '?' where a step cannot say beforehand."""
    calls = "?" if cost.llm_calls is None else str(cost.llm_calls)
    images = "?" if cost.images is None else str(cost.images)
    parts = [f"{calls} language-model calls", f"{images} images"]
    if cost.bytes != 0:
        parts.append("? bytes" if cost.bytes is None else size_text(cost.bytes))
    return ", ".join(parts)


def size_text(size: float) -> str:
    """Bytes in the largest unit that leaves at least one."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plan_mermaid(plan: Plan) -> str:
    """A flow chart: one box a node, filled where it is done, edges along the data."""
    number = {node.key: f"n{i}" for i, node in enumerate(plan.nodes)}
    lines = ["flowchart TD"]
    for node in plan.nodes:
        lines.append(f'  {number[node.key]}["{_escaped(_label(node))}<br/>{_escaped(node.definition.name)}"]')
    for node in plan.nodes:
        lines += [f"  {number[key]} --> {number[node.key]}" for key in node.depends_on]
    done = [number[node.key] for node in plan.nodes if node.done]
    if done:
        lines += ["  classDef done fill:#d9ead3,stroke:#6aa84f,color:#000", f"  class {','.join(done)} done"]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def plan_json(plan: Plan) -> dict[str, Any]:
    """Keys and what they are made of, with the resolved values: enough to say later what changed."""
    return {
        "format": _FORMAT,
        "name": plan.spec.name,
        "key": plan.key,
        "seed": plan.spec.seed,
        "nodes": [_node_json(node) for node in plan.nodes],
        "models": {
            f"{variant}/{name}": plan.models[key].identity for (variant, name), key in plan.variant_models.items()
        },
        "assets": {name: need.sha256 for name, need in plan.assets.items()},
    }


def _node_json(node: PlanNode) -> dict[str, Any]:
    return {
        "id": node.id,
        "key": node.key,
        "placements": [[p.variant, p.step] for p in node.placements],
        "depends_on": list(node.depends_on),
        "ingredients": node.ingredients,
        "shown": node.shown,
        "done": node.done,
        "reason": node.reason,
    }
