"""What the compiler hands on: a spec whose values are validated and whose references lead somewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import Position

if TYPE_CHECKING:
    from runner.models.registry import ModelConfig
    from runner.steps import StepDefinition


@dataclass(frozen=True)
class Reference:
    """``$name`` or ``$name.field``: what stands behind it, and where it was written.

    ``field`` is None where the whole artifact (or the model) is meant.
    """

    kind: Literal["step", "model"]
    name: str
    field: str | None
    position: Position

    def __str__(self) -> str:
        return f"${self.name}.{self.field}" if self.field else f"${self.name}"


References = Reference | tuple[Reference, ...] | dict[str, Reference]
"""What one parameter refers to: one thing, several in order, or several by name."""


@dataclass(frozen=True)
class StepNode:
    """One step of one variant.

    Every parameter of ``definition`` is either in ``values`` (validated plain value, or the default) or in
    ``references``. ``depends_on`` names the steps that must be finished first, also those a used model needs, in the
    order of the variant's steps.
    """

    name: str
    definition: StepDefinition
    values: Mapping[str, Any]
    references: Mapping[str, References]
    position: Position
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One combination of a sweep (the only one, named ``''``, without a sweep).

    ``params`` holds all parameters with their values of this combination, and ``seed``. ``models`` holds what the
    steps use; ``steps`` is in topological order, ties in the order of the spec.
    """

    name: str
    params: Mapping[str, Any]
    models: Mapping[str, ModelConfig]
    steps: Mapping[str, StepNode]

    @property
    def seed(self) -> int:
        """The seed of this combination."""
        return int(self.params["seed"])


@dataclass(frozen=True)
class CompiledSpec:
    """A spec that can be planned and run.

    ``results`` is absolute. ``budget`` holds the limits that the spec sets (``llm_calls``, ``tokens``, ``images``,
    ``minutes``). ``overrides`` holds what ``--set`` was given (``k=20``), ``sweep`` the values of each swept parameter.
    ``seed`` is that of the spec; a variant that sweeps the seed has its own. ``text`` is the spec as written, ``path``
    the absolute path of the file it came from. ``fail_on``: numbers of verdicts from which the command fails.
    """

    name: str
    description: str
    profile: str | None
    seed: int
    results: Path
    budget: Mapping[str, float]
    text: str
    path: Path
    overrides: tuple[str, ...] = ()
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    fail_on: Mapping[str, int] = field(default_factory=dict)
