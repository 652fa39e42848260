"""pydantic's verdict on one model or step, as placed problems or as validated values."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from runner.errors import Problem
from runner.models.registry import ModelConfig
from runner.spec.entries import Entry, Surroundings
from runner.spec.fill import MARK, Filled, Mention
from runner.spec.report import Reporter
from runner.spec.slots import step_model
from runner.spec.source import Path, Source
from runner.spec.words import ModelWords, StepWords, dotted, field_names, link_marks
from runner.steps import ParamField, StepDefinition


@dataclass
class Judged:
    """The outcome for one entry. ``values`` or ``config`` is None where ``problems`` says why.

    ``mentions`` holds the references by parameter (steps) or link field (models), with their paths.
    """

    entry: Entry
    definition: StepDefinition | None = None
    provider: type[ModelConfig] | None = None
    values: dict[str, Any] | None = None
    config: ModelConfig | None = None
    mentions: dict[str, dict[Path, Mention]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def judge_step(entry: Entry, filled: Filled, definition: StepDefinition, around: Surroundings) -> Judged:
    """Validate a step's body against the model made from its definition."""
    judged = Judged(entry, definition=definition, problems=list(filled.problems))
    for path, mention in filled.mentions.items():
        param = definition.params.get(str(path[0])) if path else None
        if param is None or _may_stand(param, path):
            judged.mentions.setdefault(str(path[0]), {})[path] = mention
        else:
            judged.problems.append(_misplaced(around.source, entry, mention))
    made = _validated(step_model(definition), filled.body, around)
    if isinstance(made, ValidationError):
        judged.problems += Reporter(entry, filled, around, StepWords(definition)).problems(made, judged.problems)
    elif not judged.problems:
        judged.values = _values(made, definition, judged.mentions)
    return judged


def judge_model(entry: Entry, filled: Filled, provider: type[ModelConfig], around: Surroundings) -> Judged:
    """Validate a model's body against its provider's class."""
    judged = Judged(entry, provider=provider, problems=list(filled.problems))
    links = link_marks(provider)
    for path, mention in filled.mentions.items():
        if len(path) == 1 and path[0] in links:
            judged.mentions[str(path[0])] = {path: mention}
        elif path and path[0] in field_names(provider):
            judged.problems.append(_misplaced(around.source, entry, mention))
    made = _validated(provider, _unmarked(filled.body), around)
    if isinstance(made, ValidationError):
        judged.problems += Reporter(entry, filled, around, ModelWords(provider, filled.body["provider"])).problems(
            made, judged.problems
        )
    elif not judged.problems:
        judged.config = typing.cast(ModelConfig, made)
    return judged


def _validated(model: type[BaseModel], body: Any, around: Surroundings) -> BaseModel | ValidationError:
    """Strict, but by JSON's rules: a list may become a tuple, a text an enum, and nothing else is converted."""
    try:
        return model.model_validate_json(json.dumps(body), strict=True, context=around.context)
    except ValidationError as error:
        return error


def _values(made: BaseModel, definition: StepDefinition, mentions: Mapping[str, Any]) -> dict[str, Any]:
    given = made.model_fields_set
    return {
        name: getattr(made, f"param_{name}") if f"param_{name}" in given else param.default
        for name, param in definition.params.items()
        if name not in mentions
    }


def _may_stand(param: ParamField, path: Path) -> bool:
    """Whether a reference at ``path`` is a whole value, or a member of a parameter that gathers references."""
    return len(path) == 1 or (len(path) == 2 and param.many == ("list" if isinstance(path[1], int) else "dict"))


def _misplaced(source: Source, entry: Entry, mention: Mention) -> Problem:
    where = f'field "{dotted(mention.path)}" of {entry.section[:-1]} "{entry.name}"'
    message = f"the reference {mention} cannot stand in {where}: this part takes plain values"
    allowed = 'plain values and $params.name; write "$$" for a text that begins with a dollar'
    return source.problem(
        "misplaced-reference", message, mention.span, path=(*entry.path, *mention.path), allowed=allowed
    )


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmarked(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_unmarked(part) for part in value]
    return value.removeprefix(MARK) if isinstance(value, str) else value
