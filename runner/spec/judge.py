"""pydantic's verdict on one model or step, as placed problems or as validated values."""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from runner.errors import Problem
from runner.models.registry import LinkMark, ModelConfig
from runner.spec.complaints import Complaint, complaints
from runner.spec.explain import LIST, Explained
from runner.spec.fill import MARK, Filled, Mention
from runner.spec.locate import KEY_LABEL, fields_at
from runner.spec.names import listed, nearest
from runner.spec.slots import output_words, step_model, takes_reference, type_words, wanted
from runner.spec.source import Path, Source, Span
from runner.spec.yaml12 import Node
from runner.steps import OutputField, ParamField, StepDefinition


@dataclass(frozen=True)
class Surroundings:
    """What judging needs to know besides the entry: the text, the spec's folder, the environment, the names in use."""

    source: Source
    base: FilePath
    env: Mapping[str, str]
    names: frozenset[str]

    @property
    def context(self) -> dict[str, Any]:
        """The validation context that path fields and providers see."""
        return {"base": self.base, "env": self.env}


@dataclass(frozen=True)
class Entry:
    """One model or step of the document."""

    section: str
    name: str
    node: Node
    span: Span

    @property
    def path(self) -> Path:
        """Where the entry stands."""
        return (self.section, self.name)

    @property
    def key(self) -> tuple[str, str]:
        """Section and name, to remember things by."""
        return (self.section, self.name)


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
        judged.problems += _Reporter(entry, filled, around, _StepWords(definition)).problems(made, judged.problems)
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
        elif path and path[0] in _names(provider):
            judged.problems.append(_misplaced(around.source, entry, mention))
    made = _validated(provider, _unmarked(filled.body), around)
    if isinstance(made, ValidationError):
        judged.problems += _Reporter(entry, filled, around, _ModelWords(provider)).problems(made, judged.problems)
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


def link_marks(provider: type[ModelConfig]) -> dict[str, LinkMark]:
    """The link fields of a provider by name, also optional ones."""
    found = {}
    for name, info in provider.model_fields.items():
        mark = next((m for m in info.metadata if isinstance(m, LinkMark)), None) or _mark_in(info.annotation)
        if mark is not None:
            found[info.alias or name] = mark
    return found


def _mark_in(annotation: Any) -> LinkMark | None:
    for part in typing.get_args(annotation):
        found = part if isinstance(part, LinkMark) else _mark_in(part)
        if found is not None:
            return found
    return None


def _names(provider: type[ModelConfig]) -> list[str]:
    return [info.alias or name for name, info in provider.model_fields.items()]


def dotted(path: Path) -> str:
    """A path for people: ``corpus.folder``, ``classes[2]``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


class _StepWords:
    """Names and types of a step's fields."""

    choose = "uses"

    def __init__(self, definition: StepDefinition) -> None:
        self.definition, self.label = definition, definition.name

    def fields(self, loc: Path) -> list[str]:
        if not loc:
            return ["uses", *self.definition.params]
        param = self.definition.params.get(str(loc[0]))
        return fields_at(param.plain, loc[1:]) if param else []

    def expects(self, name: str) -> str:
        param = self.definition.params[name]
        if takes_reference(param):
            return wanted(param)
        return output_words(OutputField(name, "value", annotation=param.plain))

    def alternative(self, path: Path) -> str | None:
        """What a reference could be there, where plain values may stand too."""
        param = self.definition.params.get(str(path[0])) if len(path) == 1 else None
        return wanted(param) if param and param.plain is not None and takes_reference(param) else None

    def link(self, path: Path) -> str | None:
        return None


class _ModelWords:
    """Names and types of a provider's fields."""

    choose = "provider"

    def __init__(self, provider: type[ModelConfig]) -> None:
        self.provider = provider
        self.label = ""
        self.links = link_marks(provider)

    def fields(self, loc: Path) -> list[str]:
        return fields_at(self.provider, loc)

    def expects(self, name: str) -> str:
        if name in self.links:
            return link_words(self.links[name])
        return next(type_words(f.annotation) for n, f in self.provider.model_fields.items() if name in (n, f.alias))

    def alternative(self, path: Path) -> str | None:
        return None

    def link(self, path: Path) -> str | None:
        return link_words(self.links[str(path[0])]) if len(path) == 1 and path[0] in self.links else None


def link_words(mark: LinkMark) -> str:
    """What a link may lead to, in words."""
    if mark.model is not None:
        return f"a model that is a {mark.model.kind} (written $name)".replace(" a image", " an image")
    return (
        f"{output_words(OutputField('', mark.output or 'value', annotation=object))} of a step (written $step.output)"
    )


def _near_file(base: FilePath, name: str) -> str | None:
    """The file beside a missing one whose name is nearest."""
    wanted_ = FilePath(name)
    try:
        near = nearest(wanted_.name, sorted(p.name for p in itertools.islice((base / wanted_.parent).iterdir(), 1000)))
    except (OSError, ValueError):
        return None
    return str(wanted_.with_name(near)) if near else None


@dataclass
class _Reporter:
    """Turns one ValidationError into problems with places."""

    entry: Entry
    filled: Filled
    around: Surroundings
    words: _StepWords | _ModelWords

    def problems(self, error: ValidationError, known: list[Problem]) -> list[Problem]:
        """All problems of ``error`` but those at places that ``known`` already speaks of."""
        spoken = [p.path[len(self.entry.path) :] for p in known]
        found = complaints(error, self.filled.body)
        made = [self._problem(c) for c in found if not any(c.path[: len(path)] == path for path in spoken)]
        meant = {(*p.path[:-1], p.suggestion) for p in made if p.code == "unknown-field"}
        return [p for p in made if p.code != "missing-field" or p.path not in meant]

    @property
    def _owner(self) -> str:
        label = self.words.label or self.filled.body.get(self.words.choose)
        return f'{self.entry.section[:-1]} "{self.entry.name}" ({label})'

    def _problem(self, complaint: Complaint) -> Problem:
        special: dict[str, Callable[[Complaint], Problem]] = {
            "missing": self._missing,
            "extra_forbidden": self._unknown,
            "union_tag_not_found": self._missing,
        }
        return special.get(complaint.kind, self._wrong)(complaint)

    def _missing(self, complaint: Complaint) -> Problem:
        *above, name = complaint.path
        owner = f"{dotted(tuple(above))} of {self._owner}" if above else self._owner
        kind = f": {self.words.expects(str(name))}" if not above else ""
        message = f'{owner} needs a field "{name}"{kind}'
        return self._at("missing-field", message, complaint.path, self._key_span(tuple(above)))

    def _unknown(self, complaint: Complaint) -> Problem:
        names = self.words.fields(complaint.loc[:-1])
        near = nearest(str(complaint.path[-1]), names)
        message = f'unknown field "{dotted(complaint.path)}" in {self._owner}'
        span = self._key_span(complaint.path)
        return self._at("unknown-field", message, complaint.path, span, near, listed(names) or None)

    def _wrong(self, complaint: Complaint) -> Problem:
        explained = self._fitted(complaint)
        is_key = complaint.loc[-1:] == (KEY_LABEL,)
        said = explained.message(complaint.path[-1] if is_key else complaint.found)
        field_ = f'field "{dotted(complaint.path)}" of {self._owner}' if complaint.path else self._owner
        param = self.filled.origin(complaint.path)
        message = f"{field_}: {said}" + (f" (from $params.{param})" if param else "")
        span = self._key_span(complaint.path) if is_key else self._value_span(complaint.path)
        return self._at(explained.code, message, complaint.path, span, explained.suggestion, explained.allowed)

    def _fitted(self, complaint: Complaint) -> Explained:
        """The explanation, made aware of references: what could stand here, and a forgotten dollar."""
        explained, link = complaint.explained, self.words.link(complaint.path)
        if link and explained.expected:
            explained = Explained("needs-reference", link)
        if complaint.kind == "needs_reference":
            explained = explained._replace(code="needs-reference")
        if complaint.kind == "missing_path":
            return explained._replace(suggestion=_near_file(self.around.base, str(complaint.found)))
        if isinstance(complaint.found, str) and complaint.found.startswith(MARK) and explained.expected == LIST:
            return explained._replace(suggestion=f"[{complaint.found[1:]}]")
        if explained.code == "needs-reference" and str(complaint.found).partition(".")[0] in self.around.names:
            return explained._replace(suggestion=f"${complaint.found}")
        other = self.words.alternative(complaint.path)
        return (
            explained._replace(expected=f"{explained.expected} or {other}")
            if other and explained.expected
            else explained
        )

    def _value_span(self, path: Path) -> Span:
        for length in range(len(path), 0, -1):
            node = self.entry.node.at(path[:length])
            if node is not None:
                return node.span
        return self.entry.span

    def _key_span(self, path: Path) -> Span:
        return (self.entry.node.key_span(path) if path else None) or self._value_span(path)

    def _at(
        self,
        code: str,
        message: str,
        path: Path,
        span: Span,
        suggestion: str | None = None,
        allowed: str | None = None,
    ) -> Problem:
        place = (*self.entry.path, *path)
        return self.around.source.problem(code, message, span, path=place, suggestion=suggestion, allowed=allowed)
