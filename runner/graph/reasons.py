"""Why a step will run: what differs from the newest earlier plan of the same spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from runner.graph.nodes import PlanNode
from runner.graph.workspace import RunFolder, Workspace

_SHOWN = 40

Earlier = Mapping[tuple[str, str], Mapping[str, Any]]
"""Nodes of an earlier ``plan.json`` by (variant, step)."""


def earlier_plan(workspace: Workspace, name: str) -> Earlier:
    """The newest stored plan of the spec ``name``; empty where there is none."""
    for run in workspace.runs():
        plan = _readable(run)
        if plan.get("name") == name:
            return {(p[0], p[1]): node for node in plan["nodes"] for p in node["placements"]}
    return {}


def _readable(run: RunFolder) -> dict[str, Any]:
    try:
        plan = json.loads(run.plan_path.read_text("utf8"))
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) and isinstance(plan.get("nodes"), list) else {}


def reason(node: PlanNode, earlier: Earlier, steps: Mapping[str, str]) -> str:
    """One line; ``steps`` names the steps of this plan by key."""
    before = earlier.get((node.first.variant, node.first.step))
    if before is None:
        return "never run"
    if before["key"] == node.key:
        return "not finished yet"
    return "; ".join(_changes(node, before, steps)) or "its inputs changed"


def _changes(node: PlanNode, before: Mapping[str, Any], steps: Mapping[str, str]) -> list[str]:
    now, then = node.ingredients, before["ingredients"]
    found = []
    for name, what in (("uses", "step"), ("version", "version of the step"), ("seed", "seed")):
        if now[name] != then[name]:
            found.append(f"{what} changed {then[name]} -> {now[name]}")
    for name in sorted(now["params"].keys() | then["params"].keys()):
        if now["params"].get(name) != then["params"].get(name):
            found.append(_param_change(name, before["shown"], node.shown))
    for name in sorted(now["inputs"].keys() | then["inputs"].keys()):
        if now["inputs"].get(name) != then["inputs"].get(name):
            found.append(_input_change(name, now["inputs"].get(name), steps))
    return found


def _param_change(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if then.get(name) == now.get(name):
        return f"content of {name} changed ({_short(now.get(name))})"
    return f"parameter {name} changed {_short(then.get(name))} -> {_short(now.get(name))}"


def _input_change(name: str, now: Any, steps: Mapping[str, str]) -> str:
    if now is None:
        return f"{name} is no longer given"
    if any("$model" in source for source in now.values()):
        return f"model {name} changed"
    names = sorted({steps.get(source["$step"][0], name) for source in now.values()})
    return f"input {', '.join(names)} changed"


def _short(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"$path"}:
        value = PurePath(value["$path"]).name
    elif isinstance(value, dict) and set(value) == {"$asset"}:
        value = value["$asset"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
