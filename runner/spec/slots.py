"""pydantic models made from registered steps: what a spec may write under a step, field by field."""

from __future__ import annotations

import re
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from runner.spec.fill import MARK
from runner.steps import OutputField, ParamField, StepDefinition

REFERENCE_LABEL = "\0reference"
PLAIN_LABEL = "\0plain"
_TYPES: dict[Any, str] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping", Any: "any value"
}  # fmt: skip
REFERENCE_SCHEMA = {"type": "string", "pattern": r"^\$[A-Za-z_][A-Za-z0-9_.-]*$"}


@dataclass(frozen=True)
class Slot:
    """pydantic glue: a reference, or what the annotation says.

    References arrive as texts that begin with ``MARK``. Where both may stand they are two labelled members of a union,
    so that the errors of each can be told apart.
    """

    param: ParamField

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        reference = self._reference()
        options: list[tuple[CoreSchema, str]] = [(reference, REFERENCE_LABEL)]
        if self.param.many != "one" and self.param.plain is not None:
            options.append((core_schema.str_schema(pattern=f"^{MARK}"), REFERENCE_LABEL))
        if allows_none(self.param) and self.param.plain is None:
            return core_schema.nullable_schema(reference)
        if self.param.plain is None:
            return reference
        return core_schema.union_schema([*options, (handler(source), PLAIN_LABEL)], mode="left_to_right")

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        options: list[dict[str, Any]] = []
        if self.param.plain is not None:
            options.append(handler(typing.cast(Any, schema)["choices"][-1][0]))
        if takes_reference(self.param):
            options.append(self._reference_json())
        if allows_none(self.param) and self.param.plain is None:
            options.append({"type": "null"})
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _reference(self) -> CoreSchema:
        one = core_schema.custom_error_schema(
            core_schema.str_schema(pattern=f"^{MARK}"),
            custom_error_type="needs_reference",
            custom_error_message="{expected}",
            custom_error_context={"expected": wanted(self.param)},
        )
        if self.param.many == "list":
            return core_schema.list_schema(one)
        return core_schema.dict_schema(core_schema.str_schema(), one) if self.param.many == "dict" else one

    def _reference_json(self) -> dict[str, Any]:
        one = {**REFERENCE_SCHEMA, "description": wanted(self.param)}
        if self.param.many == "list":
            return {"type": "array", "items": one}
        return {"type": "object", "additionalProperties": one} if self.param.many == "dict" else one


def takes_reference(param: ParamField) -> bool:
    """Whether the parameter is made for references (any plain value may be a ``$step.field`` as well)."""
    return bool(param.artifacts or param.models or param.outputs)


def allows_none(param: ParamField) -> bool:
    """Whether ``null`` may be written."""
    annotation = param.annotation
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return is_union and type(None) in typing.get_args(annotation)


def wanted(param: ParamField) -> str:
    """What a reference in this parameter may lead to, in words."""
    options = [f"a step that gives {kind.__name__}" for kind in param.artifacts]
    options += [f"a model that is {_article(_kind(kind))}" for kind in param.models]
    options += [f"{output_words(output)} of a step" for output in param.outputs]
    return f"{' or '.join(options)} (written $name{'.output' if param.outputs and len(options) == 1 else ''})"


def output_words(output: OutputField) -> str:
    """The kind of an output in words."""
    if output.kind == "table":
        return f"a table of {output.table}" if output.table else "a table"
    return {"arrays": "named arrays", "folder": "a folder"}.get(output.kind) or type_words(output.annotation)


def type_words(annotation: Any) -> str:
    """A plain type in words."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_words(args[0])
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(option) for option in args if option is not type(None))
    if origin in (list, tuple):
        return "a list" if not args or args[0] is Any else f"a list (items: {type_words(args[0])})"
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return _TYPES.get(origin or annotation, f"a mapping ({name})" if isinstance(annotation, type) else name)


def _kind(model: type[Any]) -> str:
    return str(model.kind)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"


_models: dict[int, tuple[StepDefinition, type[BaseModel]]] = {}


def step_model(step: StepDefinition) -> type[BaseModel]:
    """The pydantic model of what may stand under a step; made on first use."""
    known = _models.get(id(step))
    if known is None or known[0] is not step:
        known = _models[id(step)] = (step, _made(step))
    return known[1]


def _made(step: StepDefinition) -> type[BaseModel]:
    fields: dict[str, Any] = {"uses": (Literal[step.name], Field(description=step.summary or None))}
    for name, param in step.params.items():
        fields[f"param_{name}"] = (_annotation(param), _field(param))
    config = ConfigDict(extra="forbid", title=step.name, protected_namespaces=(), arbitrary_types_allowed=True)
    made: Any = create_model(re.sub(r"\W", "_", step.name), __config__=config, __doc__=step.summary or None, **fields)
    return typing.cast("type[BaseModel]", made)


def _annotation(param: ParamField) -> Any:
    return Annotated[param.plain if param.plain is not None else str, Slot(param)]


def _field(param: ParamField) -> Any:
    about: dict[str, Any] = {"alias": param.name, "description": param.description or None}
    return Field(**about) if param.required else Field(default=param.default, **about)
