"""Steps: the verbs of a spec, and the typed things that pass between them.

A step is a plain function with an annotated signature::

    @step("c2b.caption", version="1")
    async def caption(ctx: StepContext, *, llm: ChatModel, biases: Biases, per_value: int = 1) -> Captions:
        '''Write one caption for each target, attribute and value.'''

Its keyword parameters are what a spec may write under the step; the annotation decides what may stand there:

- a subclass of ``Artifact``: a reference to a step (``$biases``), checked by type before anything runs;
- a subclass of ``ModelHandle``: a reference to an entry of ``models:`` (``$llm``);
- ``list[...]`` or ``dict[str, ...]`` of these: several references;
- ``Table``, ``Arrays`` or ``Folder``: a reference to one output of a step (``$biases.attributes``);
- anything else: a plain value that pydantic validates, a ``$params.x``, or a ``$step.field`` whose type agrees;
- a union of these: either.

The module that declares steps must stay light: it is imported to validate a spec, so torch, transformers and langgraph
are imported inside the functions that need them. Modules are listed in ``STEP_MODULES`` and imported on first use.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Table = pa.Table
    Arrays = dict[str, np.ndarray[Any, Any]]
    Folder = Path
else:

    class Table:
        """A pyarrow table; stored as Parquet."""

    class Arrays:
        """Named arrays; stored as safetensors."""

    class Folder:
        """A folder that the step filled (``ctx.folder(name)``)."""


@dataclass(frozen=True)
class Rows:
    """Marks a ``Table`` output whose rows go to the results table ``table`` of ``results/schema.sql``."""

    table: str


OutputKind = Literal["table", "arrays", "folder", "value"]


@dataclass(frozen=True)
class OutputField:
    """One named output of a step: its kind, its results table (tables only) and its annotation (values only)."""

    name: str
    kind: OutputKind
    table: str | None = None
    annotation: Any = None

    def agrees_with(self, wanted: OutputField) -> bool:
        """Whether this output may stand where ``wanted`` is asked for."""
        if self.kind != wanted.kind:
            return False
        if self.kind == "table":
            return wanted.table is None or self.table == wanted.table
        return self.kind != "value" or self.annotation == wanted.annotation


def output_field(name: str, annotation: Any) -> OutputField:
    """Classify one annotation of an artifact or a parameter."""
    table = None
    if typing.get_origin(annotation) is typing.Annotated:
        base, *marks = typing.get_args(annotation)
        table = next((m.table for m in marks if isinstance(m, Rows)), None)
        if base is Table:
            return OutputField(name, "table", table)
    if annotation is Table:
        return OutputField(name, "table")
    if annotation is Arrays:
        return OutputField(name, "arrays")
    if annotation is Folder:
        return OutputField(name, "folder")
    return OutputField(name, "value", annotation=annotation)


class Artifact:
    """Base of what steps return. Subclasses are frozen dataclasses whose fields are outputs.

    Fields annotated ``Table`` become Parquet, ``Arrays`` safetensors, ``Folder`` a folder, everything else JSON that
    pydantic can write and read. A ``Table`` marked ``Rows("name")`` also reaches the results database.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @classmethod
    def outputs(cls) -> dict[str, OutputField]:
        """The outputs by name, in declaration order."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {f.name: output_field(f.name, hints[f.name]) for f in dataclasses.fields(cls)}


class ModelHandle:
    """Base of loaded models. Kinds (chat model, classifier, encoder) are subclasses in ``runner.models.base``."""

    kind: ClassVar[str] = "model"

    def close(self) -> None:
        """Free what the handle holds (threads, memory, a server)."""


Many = Literal["one", "list", "dict"]


@dataclass(frozen=True)
class ParamField:
    """One parameter of a step, split by what may stand there.

    ``artifacts`` and ``models`` are the classes a reference may lead to, ``outputs`` the single outputs it may lead to,
    ``plain`` the annotation of literal values (None where only references fit), ``many`` how references are gathered.
    """

    name: str
    annotation: Any
    default: Any
    required: bool
    artifacts: tuple[type[Artifact], ...] = ()
    models: tuple[type[ModelHandle], ...] = ()
    outputs: tuple[OutputField, ...] = ()
    plain: Any = None
    many: Many = "one"
    description: str = ""

    @property
    def takes_reference_only(self) -> bool:
        """Whether no literal value can stand here."""
        return self.plain is None


@dataclass(frozen=True)
class Cost:
    """What a step is expected to spend, before it runs. None = not known beforehand."""

    llm_calls: int | None = 0
    images: int | None = 0
    bytes: int | None = 0


Params = Mapping[str, Any]
CostEstimate = Callable[[Params], Cost]


@dataclass(frozen=True)
class StepDefinition:
    """A registered step: what the spec, the planner and the engines need to know of it."""

    name: str
    version: str
    function: Callable[..., Any]
    output: type[Artifact]
    params: Mapping[str, ParamField]
    estimate: CostEstimate | None = None
    tags: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_async(self) -> bool:
        """Whether the step runs on the event loop (agents) rather than in a thread (numbers)."""
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @cached_property
    def outputs(self) -> dict[str, OutputField]:
        """Outputs by name."""
        return self.output.outputs()


STEP_MODULES = (
    "agents.circle_steps",
    "agents.debias_steps",
    "agents.head_steps",
    "agents.locality_steps",
    "agents.openworld_steps",
    "agents.proactive_open_steps",
    "agents.proactive_play_steps",
    "agents.proactive_steps",
    "agents.steps",
    "agents.vqa_steps",
    "retrieval.steps",
    "runner.data.benchmarks.steps",
    "runner.data.datasets.attribute_steps",
    "runner.data.datasets.steps",
    "runner.data.parts.made_steps",
    "runner.data.parts.steps",
    "runner.nodes.bias.compare_steps",
    "runner.nodes.bias.evaluation_steps",
    "runner.nodes.bias.measured_steps",
    "runner.nodes.bias.steps",
    "runner.nodes.bias.verify_steps",
    "runner.nodes.classify.steps",
    "runner.nodes.classify.vocabulary_steps",
    "runner.nodes.clip.steps",
    "runner.nodes.composing.steps",
    "runner.nodes.encoder.steps",
    "runner.nodes.faces.part_steps",
    "runner.nodes.faces.steps",
    "runner.nodes.finetuning.assembly_steps",
    "runner.nodes.finetuning.steps",
    "runner.nodes.leakage.dependence_steps",
    "runner.nodes.leakage.discovery_steps",
    "runner.nodes.leakage.feature_steps",
    "runner.nodes.leakage.locality_steps",
    "runner.nodes.leakage.probe_steps",
    "runner.nodes.merging.merge_steps",
    "runner.nodes.merging.ranking_steps",
    "runner.nodes.merging.score_steps",
    "runner.nodes.merging.search_steps",
    "runner.nodes.openworld.steps",
    "runner.nodes.proactive.data_steps",
    "runner.nodes.proactive.making_steps",
    "runner.nodes.proactive.score_steps",
    "runner.nodes.proactive.scripted_steps",
    "runner.nodes.proactive.training_steps",
    "runner.nodes.pruning.cut_steps",
    "runner.nodes.pruning.score_steps",
    "runner.nodes.sem.sae_steps",
    "runner.nodes.sem.steps",
    "runner.nodes.sith.concept_steps",
    "runner.nodes.sith.weight_steps",
    "runner.nodes.visual_questions.steps",
    "runner.nodes.vqa.steps",
)
ENTRY_POINT_GROUP = "runner.steps"

_registered: dict[str, StepDefinition] = {}
_loaded = False

F = TypeVar("F", bound=Callable[..., Any])


def step(
    name: str, *, version: str, estimate: CostEstimate | None = None, tags: frozenset[str] = frozenset()
) -> Callable[[F], F]:
    """Register a function as the step ``name``.

    ``version`` is part of the content key: raise it when the same inputs would give other rows. ``estimate`` says from
    the resolved plain parameters what a run would spend. The function is returned unchanged.
    """

    def register(function: F) -> F:
        known = _registered.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(f"step {name!r} is registered by {known.function.__module__} and {function.__module__}")
        _registered[name] = define(name, function, version=version, estimate=estimate, tags=tags)
        return function

    return register


def define(
    name: str,
    function: Callable[..., Any],
    *,
    version: str,
    estimate: CostEstimate | None = None,
    tags: frozenset[str] = frozenset(),
) -> StepDefinition:
    """Read a step's definition from its signature. Raises TypeError where the signature cannot be a step."""
    hints = typing.get_type_hints(function, include_extras=True, localns=_context_names())
    output = hints.pop("return", None)
    if not (isinstance(output, type) and issubclass(output, Artifact)):
        raise TypeError(f"step {name!r} must be annotated to return an Artifact, not {output!r}")
    params = {}
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        params[parameter.name] = _param_field(name, parameter, hints[parameter.name])
    return StepDefinition(name, version, function, output, params, estimate, tags=tags)


def _context_names() -> dict[str, Any]:
    from runner.context import StepContext

    return {"StepContext": StepContext}


def _param_field(step_name: str, parameter: inspect.Parameter, annotation: Any) -> ParamField:
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(f"step {step_name!r}: parameter {parameter.name!r} must be keyword-only")
    required = parameter.default is inspect.Parameter.empty
    description = ""
    if typing.get_origin(annotation) is typing.Annotated:
        for mark in typing.get_args(annotation)[1:]:
            description = getattr(mark, "description", None) or description
    options, many = _alternatives(annotation)
    artifacts, models, outputs, plain = [], [], [], []
    for option in options:
        if isinstance(option, type) and issubclass(option, Artifact):
            artifacts.append(option)
        elif isinstance(option, type) and issubclass(option, ModelHandle):
            models.append(option)
        elif option is not type(None) and output_field("", option).kind != "value":
            outputs.append(output_field(parameter.name, option))
        else:
            plain.append(option)
    references = bool(artifacts or models or outputs)
    only_none = plain == [type(None)]
    plain_annotation = None
    if plain and not only_none:
        plain_annotation = annotation if not references else typing.Union[tuple(plain)]  # noqa: UP007
    return ParamField(
        name=parameter.name,
        annotation=annotation,
        default=None if required else parameter.default,
        required=required,
        artifacts=tuple(artifacts),
        models=tuple(models),
        outputs=tuple(outputs),
        plain=plain_annotation,
        many=many if references else "one",
        description=description,
    )


def _alternatives(annotation: Any) -> tuple[list[Any], Many]:
    """Split a union; look through one level of list or dict when it gathers references."""
    if typing.get_origin(annotation) is typing.Annotated and output_field("", annotation).kind == "value":
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = list(typing.get_args(annotation))
    else:
        options = [annotation]
    for option in options:
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin in (list, dict) and args and _is_reference(args[-1]):
            rest = [o for o in options if o is not option]
            return [*_alternatives(args[-1])[0], *rest], "list" if origin is list else "dict"
    return options, "one"


def _is_reference(annotation: Any) -> bool:
    options = _alternatives(annotation)[0]
    return any(isinstance(o, type) and issubclass(o, (Artifact, ModelHandle)) for o in options)


def load_steps() -> Mapping[str, StepDefinition]:
    """All registered steps by name, importing the declaring modules on first use. Imports no torch."""
    global _loaded
    if not _loaded:
        for module in STEP_MODULES:
            importlib.import_module(module)
        for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
            entry.load()
        _loaded = True
    return types.MappingProxyType(dict(sorted(_registered.items())))
