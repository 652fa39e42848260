"""What a plan consists of: one node for each piece of content to make, and the models they use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.errors import Position
from runner.models.registry import ModelConfig
from runner.steps import Cost, StepDefinition


@dataclass(frozen=True)
class StepInput:
    """The output of another node: the whole artifact, or one ``field`` of it."""

    key: str
    field: str | None = None


@dataclass(frozen=True)
class ModelInput:
    """A loaded model; ``key`` finds it in ``Plan.models``."""

    key: str


Source = StepInput | ModelInput
Argument = Source | tuple[Source, ...] | dict[str, Source]


def sources(argument: Argument) -> Iterator[tuple[str, Source]]:
    """The single sources of an argument with a label ('' for one, the index or key for many)."""
    if isinstance(argument, dict):
        yield from argument.items()
    elif isinstance(argument, tuple):
        yield from ((str(i), source) for i, source in enumerate(argument))
    else:
        yield "", argument


@dataclass(frozen=True)
class PlannedModel:
    """A model as some variant configures it.

    ``key`` is the hash of the whole configuration (equal ones are loaded once); ``identity`` what of it enters content
    keys; ``links`` what its link fields lead to.
    """

    key: str
    name: str
    config: ModelConfig
    identity: Any
    links: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Placement:
    """Where a node stands in the spec. ``variant`` is '' without a sweep."""

    variant: str
    step: str

    def __str__(self) -> str:
        return f"{self.step} [{self.variant}]" if self.variant else self.step


@dataclass(frozen=True)
class PlanNode:
    """One piece of content to make, for all the places of the spec that ask for it.

    ``ingredients`` is the JSON that ``key`` is the hash of, with the values as written beside it; ``done`` and
    ``reason`` say whether and why it will run, ``anew`` that it runs although its artifact is there.
    """

    id: str
    key: str
    definition: StepDefinition
    position: Position
    seed: int
    values: Mapping[str, Any]
    arguments: Mapping[str, Argument]
    placements: tuple[Placement, ...]
    depends_on: tuple[str, ...]
    ingredients: Mapping[str, Any]
    shown: Mapping[str, Any]
    cost: Cost = field(default_factory=Cost)
    done: bool = False
    anew: bool = False
    reason: str = ""

    @property
    def first(self) -> Placement:
        """The place under which the node's calls and messages are recorded."""
        return self.placements[0]

    @property
    def label(self) -> str:
        """For people: the step's name, with its variant in a sweep."""
        return str(self.first)
