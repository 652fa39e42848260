"""The JSON Schema of specs, for completion and checks in editors.

It is made of the pydantic models that judge specs, with one addition: wherever a plain value stands, ``$params.x`` (or
``$step.output``) may stand too. What a schema cannot say (names that exist, types along references) is left to
``runner validate``.

``python -m runner.spec.schema --write`` renews the file shipped with the package; ``--check`` compares.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, PydanticJsonSchemaWarning, models_json_schema

from runner.models.registry import ModelConfig, load_providers
from runner.spec.header import NAME_PATTERN, Header
from runner.spec.slots import REFERENCE_SCHEMA, step_model
from runner.steps import StepDefinition, load_steps

SCHEMA_FILE = Path(__file__).with_name("schema.json")
REFERENCE = "#/$defs/Reference"
PARAM = "#/$defs/Parameter"
PARAM_PATTERN = r"^\$params\.[A-Za-z_][A-Za-z0-9_-]*$"


def json_schema(
    steps: Mapping[str, StepDefinition] | None = None, providers: Mapping[str, type[ModelConfig]] | None = None
) -> dict[str, Any]:
    """The schema of specs over the given steps and providers (default: everything registered)."""
    steps = load_steps() if steps is None else steps
    providers = load_providers() if providers is None else providers
    models: list[type[BaseModel]] = [Header, *(step_model(s) for s in steps.values()), *providers.values()]
    names, definitions = _definitions(models)
    header = _resolved(names[Header], definitions)
    step_names = {name: names[step_model(step)] for name, step in steps.items()}
    provider_names = {name: names[provider] for name, provider in providers.items()}
    for name, place in provider_names.items():
        definitions[place]["properties"]["provider"] = {"const": name}
    open_ = {name: _opened(schema) for name, schema in definitions.items()}
    open_ |= {"Reference": REFERENCE_SCHEMA, "Parameter": {"type": "string", "pattern": PARAM_PATTERN}}
    properties = header["properties"]
    properties["steps"] |= _entries("uses", "step", step_names, steps)
    properties["models"] |= _entries("provider", "model", provider_names, providers)
    definitions = {name: schema for name, schema in sorted(open_.items()) if name != "Header"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **header, "$defs": definitions}


def _definitions(models: list[type[BaseModel]]) -> tuple[dict[Any, str], dict[str, Any]]:
    """Names of the models' schemas, and all schemas by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        refs, whole = models_json_schema(
            [(model, "validation") for model in models], schema_generator=_Untitled, ref_template="#/$defs/{model}"
        )
    names = {model: ref["$ref"].rpartition("/")[2] for (model, _), ref in refs.items()}
    return names, whole["$defs"]


class _Untitled(GenerateJsonSchema):
    """Without a title for every field, which would only repeat its name, and with keys of mappings really checked."""

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        """pydantic lets a key that breaks its pattern escape its value's schema; the judge does not."""
        made = super().dict_schema(schema)
        patterns = made.pop("patternProperties", None)
        if patterns:
            (pattern, values), *_ = patterns.items()
            made |= {"additionalProperties": values, "propertyNames": {"pattern": pattern}}
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def _resolved(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(json.dumps(definitions[name]))
    return schema


def _entries(choice: str, noun: str, names: Mapping[str, str], things: Mapping[str, Any]) -> dict[str, Any]:
    """Models or steps by name: the field ``choice`` decides which schema holds."""
    chosen = {"anyOf": [{"enum": list(names)}, {"$ref": PARAM}]}
    about = "\n".join(f"{name}: {_summary(thing)}" for name, thing in things.items())
    cases = [
        {
            "if": {"properties": {choice: {"const": name}}, "required": [choice]},
            "then": {"$ref": f"#/$defs/{place}"},
        }
        for name, place in names.items()
    ]
    entry = {
        "type": "object",
        "required": [choice],
        "properties": {choice: {"description": f"Which {noun} this is.\n{about}", **chosen}},
        "allOf": cases,
    }
    names_ = {"pattern": NAME_PATTERN, "maxLength": 64, "not": {"const": "params"}}
    return {"additionalProperties": entry, "propertyNames": names_}


def _summary(thing: StepDefinition | type[ModelConfig]) -> str:
    return thing.summary if isinstance(thing, StepDefinition) else (thing.__doc__ or "").strip().partition("\n")[0]


def _opened(schema: Any) -> Any:
    """The schema with references allowed wherever a plain value stands."""
    if not isinstance(schema, dict):
        return schema
    opened = {key: value for key, value in schema.items() if key != "discriminator"}
    if "oneOf" in opened:
        opened["anyOf"] = opened.pop("oneOf")
    if "properties" in opened:
        keep = ("uses", "provider")
        opened["properties"] = {n: s if n in keep else _or_reference(s) for n, s in opened["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(opened.get(key), dict):
            opened[key] = _or_reference(opened[key])
    for key in ("anyOf", "allOf", "prefixItems"):
        if key in opened:
            opened[key] = [_or_reference(s) if key == "prefixItems" else _opened(s) for s in opened[key]]
    return opened


def _or_reference(schema: Any) -> Any:
    """``if`` a reference: fine, ``else`` the schema; what editors show stays outside."""
    if not isinstance(schema, dict) or not schema or schema.get("pattern") == REFERENCE_SCHEMA["pattern"]:
        return schema
    shown = {key: schema[key] for key in ("description", "default") if key in schema}
    rest = _opened({key: value for key, value in schema.items() if key not in shown})
    allowed = PARAM if _gathers_references(schema) else REFERENCE
    return {**shown, "if": {"$ref": allowed}, "else": rest} if rest else shown


def _gathers_references(schema: dict[str, Any]) -> bool:
    """Whether the schema is a list or mapping of references, where one alone would be wrong."""
    inner = schema.get("items", schema.get("additionalProperties"))
    return isinstance(inner, dict) and inner.get("pattern") == REFERENCE_SCHEMA["pattern"]


def schema_text() -> str:
    """The schema of everything registered, as the shipped file holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """``--write`` renews the shipped file, ``--check`` says whether it is up to date; else print the schema."""
    text = schema_text()
    if "--write" in arguments:
        SCHEMA_FILE.write_text(text, "utf8")
    elif "--check" in arguments:
        return 0 if SCHEMA_FILE.is_file() and SCHEMA_FILE.read_text("utf8") == text else 1
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
