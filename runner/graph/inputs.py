"""The keyword arguments of a step: plain values, artifacts and single outputs from disk, loaded models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.engines.models import ModelPool
from runner.graph.nodes import Argument, PlannedModel, PlanNode, Source, StepInput
from runner.graph.plan import Plan
from runner.graph.store import ArtifactStore
from runner.models.registry import Services
from runner.references import AssetRef
from runner.steps import Artifact, ModelHandle, ParamField


class Inputs:
    """Loads what the nodes of one plan ask for. Thread-safe; models are loaded once."""

    def __init__(self, plan: Plan, store: ArtifactStore, pool: ModelPool, device: str) -> None:
        self.plan, self.store, self.pool, self.device = plan, store, pool, device

    def gather(self, node: PlanNode) -> dict[str, Any]:
        """All arguments of ``node``. Raises ``DamagedArtifact`` naming the input that must be made again."""
        arguments = dict(node.values)
        for name, argument in node.arguments.items():
            arguments[name] = self._argument(argument, node.definition.params[name])
        return arguments

    def _argument(self, argument: Argument, param: ParamField) -> Any:
        if isinstance(argument, dict):
            return {name: self._value(source, param) for name, source in argument.items()}
        if isinstance(argument, tuple):
            return [self._value(source, param) for source in argument]
        return self._value(argument, param)

    def _value(self, source: Source, param: ParamField | None = None) -> Any:
        if not isinstance(source, StepInput):
            return self.model(source.key)
        producer = self.plan.by_key[source.key].definition
        if source.field is not None:
            return self.store.load_field(source.key, producer.outputs[source.field])
        return self.store.load(source.key, _wanted_class(producer.output, param))

    def model(self, key: str) -> ModelHandle:
        """The loaded model; what it links to is loaded first."""
        planned = self.plan.models[key]
        return self.pool.get(key, lambda: self._load(planned))

    def _load(self, planned: PlannedModel) -> ModelHandle:
        linked = {field: self._value(source) for field, source in planned.links.items()}
        cache = self.store.workspace.cache
        return planned.config.load(Services(self.device, cache, linked, self.resolver()))

    def notes(self) -> dict[str, tuple[str, ...]]:
        """What small models say of themselves, by key: those that were loaded, and those that say it without their weights."""
        found = {}
        for key in self.plan.models:
            handle = self.pool.loaded(key)
            if handle is None and self._is_light(key):
                with contextlib.suppress(Exception):  # the step that writes it did not run, or its folder is gone
                    handle = self.model(key)
            if getattr(handle, "small", False):
                found[key] = tuple(getattr(handle, "notes", ()))
        return found

    def _is_light(self, key: str) -> bool:
        """Whether neither the model nor one that it links to reads weights when it is loaded."""
        planned = self.plan.models[key]
        linked = [source.key for source in planned.links.values() if not isinstance(source, StepInput)]
        return planned.config.light and all(self._is_light(one) for one in linked)

    def resolver(self) -> Callable[[str], Path]:
        """Turns a path or asset of the spec into a local path."""

        def resolve(value: str) -> Path:
            need = self.plan.assets.get(value.name) if isinstance(value, AssetRef) else None
            return need.file.path if need and need.file else Path(value)

        return resolve


def _wanted_class(output: type[Artifact], param: ParamField | None) -> type[Artifact]:
    """The class that the parameter names for this output: the nearest base, or the output's own class."""
    named = set(param.artifacts) if param else set()
    return next((cls for cls in output.__mro__ if cls in named), output)
