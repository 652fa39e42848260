"""From YAML text to a validated, resolved spec.

``load_spec(path)`` reads, validates and resolves a spec, or raises ``SpecError`` with every problem in it, each placed;
``render_problems`` shows them. Nothing is imported until it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.spec.compile import compile_text, load_spec
    from runner.spec.model import CompiledSpec, Reference, StepNode, Variant
    from runner.spec.render import problems_json, render_problems
    from runner.spec.schema import json_schema

__all__ = [
    "CompiledSpec",
    "Reference",
    "StepNode",
    "Variant",
    "compile_text",
    "json_schema",
    "load_spec",
    "problems_json",
    "render_problems",
]

_HOMES = {
    "CompiledSpec": "model",
    "Reference": "model",
    "StepNode": "model",
    "Variant": "model",
    "compile_text": "compile",
    "json_schema": "schema",
    "load_spec": "compile",
    "problems_json": "render",
    "render_problems": "render",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
