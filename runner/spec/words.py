"""Names and kinds of the fields of steps and models, in words for messages."""

from __future__ import annotations

import typing
from typing import Any

from runner.models.registry import LinkMark, ModelConfig
from runner.spec.locate import fields_at
from runner.spec.slots import output_words, takes_reference, type_words, wanted
from runner.spec.source import Path
from runner.steps import OutputField, StepDefinition


def dotted(path: Path) -> str:
    """A path for people: ``corpus.folder``, ``classes[2]``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


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


def field_names(provider: type[ModelConfig]) -> list[str]:
    """The fields of a provider as a spec writes them."""
    return [info.alias or name for name, info in provider.model_fields.items()]


def link_words(mark: LinkMark) -> str:
    """What a link may lead to, in words."""
    if mark.model is not None:
        return f"a model that is a {mark.model.kind} (written $name)".replace(" a image", " an image")
    return (
        f"{output_words(OutputField('', mark.output or 'value', annotation=object))} of a step (written $step.output)"
    )


class StepWords:
    """Names and kinds of a step's fields; ``label`` is what the step ``uses``."""

    def __init__(self, definition: StepDefinition) -> None:
        self.definition, self.label = definition, definition.name

    def fields(self, loc: Path) -> list[str]:
        """The fields that may stand in the mapping at pydantic's ``loc``."""
        if not loc:
            return ["uses", *self.definition.params]
        param = self.definition.params.get(str(loc[0]))
        return fields_at(param.plain, loc[1:]) if param else []

    def expects(self, name: str) -> str:
        """What a field takes."""
        param = self.definition.params[name]
        if takes_reference(param):
            return wanted(param)
        return output_words(OutputField(name, "value", annotation=param.plain))

    def alternative(self, path: Path) -> str | None:
        """What a reference could be at ``path``, where plain values may stand too."""
        param = self.definition.params.get(str(path[0])) if len(path) == 1 else None
        return wanted(param) if param and param.plain is not None and takes_reference(param) else None

    def link(self, path: Path) -> str | None:
        """What a link at ``path`` leads to; steps have none."""
        return None


class ModelWords:
    """Names and kinds of a provider's fields; like ``StepWords``."""

    def __init__(self, provider: type[ModelConfig], label: str) -> None:
        self.provider, self.label, self.links = provider, label, link_marks(provider)

    def fields(self, loc: Path) -> list[str]:
        """The fields that may stand in the mapping at pydantic's ``loc``."""
        return fields_at(self.provider, loc)

    def expects(self, name: str) -> str:
        """What a field takes."""
        if name in self.links:
            return link_words(self.links[name])
        return next(type_words(f.annotation) for n, f in self.provider.model_fields.items() if name in (n, f.alias))

    def alternative(self, path: Path) -> str | None:
        """Plain fields of models take no references."""
        return None

    def link(self, path: Path) -> str | None:
        """What the link at ``path`` leads to; None where there is no link."""
        return link_words(self.links[str(path[0])]) if len(path) == 1 and path[0] in self.links else None
