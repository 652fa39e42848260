"""Content keys: what a step's result depends on, as one hash.

The key of a node is the hash of its step's name and version, its resolved parameters (what paths and assets *contain*,
not how they are spelled), the keys of its inputs, the identities of its models, and the run's seed unless the step is
tagged ``seedless``. Names in the spec and the order in which anything is written do not enter.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.errors import SpecError
from runner.graph.canonical import Resolve, canonical, digest
from runner.graph.nodes import Argument, ModelInput, PlannedModel, Source, StepInput, sources
from runner.models.registry import LinkMark, ModelConfig

if TYPE_CHECKING:
    from runner.spec.model import StepNode, Variant

SEEDLESS = "seedless"


def link_fields(config: ModelConfig) -> dict[str, str]:
    """The link fields of a model that are set, with what they say (``$name`` or ``$step.field``)."""
    return {
        name: str(getattr(config, name))
        for name, info in type(config).model_fields.items()
        if getattr(config, name) is not None and _is_link((info.annotation, *info.metadata))
    }


def _is_link(annotation: Any) -> bool:
    if isinstance(annotation, LinkMark):
        return True
    parts = annotation if isinstance(annotation, tuple) else typing.get_args(annotation)
    return any(_is_link(part) for part in parts if part is not annotation and not isinstance(part, str))


class VariantKeys:
    """Keys of one variant's steps and models, computed in the order of dependence."""

    def __init__(self, variant: Variant, seed: int, resolve: Resolve) -> None:
        self.variant, self.seed, self.resolve = variant, seed, resolve
        self.models: dict[str, PlannedModel] = {}
        self.steps: dict[str, str] = {}

    def arguments(self, node: StepNode) -> dict[str, Argument]:
        """The node's references as sources."""
        return {name: self._argument(reference) for name, reference in node.references.items()}

    def _argument(self, reference: Any) -> Argument:
        if isinstance(reference, Mapping):
            return {str(name): self._source(one) for name, one in reference.items()}
        if isinstance(reference, (list, tuple)):
            return tuple(self._source(one) for one in reference)
        return self._source(reference)

    def _source(self, reference: Any) -> Source:
        if reference.kind == "model":
            return ModelInput(self.model(reference.name).key)
        return StepInput(self.steps[reference.name], reference.field)

    def model(self, name: str) -> PlannedModel:
        """The planned model ``name``; what it links to is planned first."""
        if name not in self.models:
            self.models[name] = self._plan_model(name, self.variant.models[name])
        return self.models[name]

    def _plan_model(self, name: str, config: ModelConfig) -> PlannedModel:
        links = {field: self._link(text) for field, text in link_fields(config).items()}
        linked = {field: self._name_source(source) for field, source in links.items()}
        identity = canonical(config.identity(), self.resolve) | linked
        whole = {**canonical(config, self.resolve), **linked, "provider": config.provider}
        return PlannedModel(digest(whole), name, config, identity, links)

    def _link(self, text: str) -> Source:
        name, _, field = text.removeprefix("$").partition(".")
        if name in self.variant.models:
            return ModelInput(self.model(name).key)
        return StepInput(self.steps[name], field or None)

    def _name_source(self, source: Source) -> Any:
        if isinstance(source, StepInput):
            return {"$step": [source.key, source.field]}
        return {"$model": next(m.identity for m in self.models.values() if m.key == source.key)}

    def ingredients(self, node: StepNode, arguments: Mapping[str, Argument]) -> dict[str, Any]:
        """Everything that enters the node's key, as canonical JSON."""
        return {
            "uses": node.definition.name,
            "version": node.definition.version,
            "seed": None if SEEDLESS in node.definition.tags else self.seed,
            "params": {name: self._param(node, name, value) for name, value in sorted(node.values.items())},
            "inputs": {
                name: {label: self._name_source(source) for label, source in sources(argument)}
                for name, argument in sorted(arguments.items())
            },
        }

    def _param(self, node: StepNode, name: str, value: Any) -> Any:
        try:
            return canonical(value, self.resolve)
        except TypeError as error:
            from runner.errors import Problem

            raise SpecError(
                [Problem("unkeyable", f"{name}: {error}", node.position, ("steps", node.name, name))]
            ) from error

    def depends_on(self, arguments: Mapping[str, Argument]) -> tuple[str, ...]:
        """Keys of the nodes that must be there first, also those that the models in use link to."""
        waiting = [source for argument in arguments.values() for _, source in sources(argument)]
        found: dict[str, None] = {}
        while waiting:
            source = waiting.pop(0)
            if isinstance(source, StepInput):
                found[source.key] = None
            else:
                model = next(m for m in self.models.values() if m.key == source.key)
                waiting += model.links.values()
        return tuple(found)
