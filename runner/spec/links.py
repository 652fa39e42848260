"""References between the entries of one variant: do they lead somewhere, does what stands there fit, in which order."""

from __future__ import annotations

import heapq
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import Problem
from runner.models.registry import LinkMark
from runner.spec.fill import Mention
from runner.spec.judge import Judged
from runner.spec.names import listed, nearest
from runner.spec.slots import output_words, takes_reference, wanted
from runner.spec.source import Source
from runner.spec.words import dotted, link_marks, link_words
from runner.steps import OutputField, ParamField


@dataclass(frozen=True)
class Links:
    """Checks the references of one variant.

    ``models`` and ``steps`` hold every entry that could be judged, also those that are wrong. ``unsure`` holds names of
    which nothing can be said (None: any name may be one), since the mistake that hides them is reported elsewhere.
    """

    source: Source
    models: Mapping[str, Judged]
    steps: Mapping[str, Judged]
    params: Mapping[str, Any]
    unsure: frozenset[str] | None = frozenset()

    def problems(self, judged: Judged) -> list[Problem]:
        """What is wrong with the references of one entry."""
        found = []
        for name, mentions in judged.mentions.items():
            for mention in mentions.values():
                problem = self._check(judged, name, mention)
                found += [problem] if problem else []
        return found

    def _check(self, judged: Judged, name: str, mention: Mention) -> Problem | None:
        if self.unsure is not None and mention.name in self.unsure:
            return None
        if mention.name not in self.models and mention.name not in self.steps:
            return self._unknown(judged, mention) if self.unsure is not None else None
        if mention.name == judged.entry.name:
            message = f"{judged.entry.section[:-1]} {judged.entry.name} refers to itself"
            return self._problem("cycle", message, judged, mention)
        if judged.definition is not None:
            param = judged.definition.params.get(name)
            return self._check_param(judged, param, mention) if param else None
        mark = link_marks(judged.provider)[name] if judged.provider else None
        return self._check_link(judged, mark, mention) if mark else None

    def _unknown(self, judged: Judged, mention: Mention) -> Problem:
        names = [*self.models, *self.steps]
        near = nearest(mention.name, [*names, "params"])
        output = f".{mention.field}" if mention.field else ""
        suggestion = f"${near}{output}" if near else None
        if mention.name in self.params:
            suggestion = f"$params.{mention.name}"
        message = f'there is no model or step named "{mention.name}"'
        others = [f"${name}" for name in names if name != judged.entry.name]
        return self._problem("unknown-name", message, judged, mention, suggestion, listed(others) or None)

    def _check_param(self, judged: Judged, param: ParamField, mention: Mention) -> Problem | None:
        if mention.name in self.models:
            return self._model_for_param(judged, param, mention)
        target = self.steps[mention.name].definition
        if target is None:
            return None
        if mention.field is None:
            if any(issubclass(target.output, kind) for kind in param.artifacts):
                return None
            found = f"{mention} gives {target.output.__name__} ({target.name})"
            fitting = [f"{mention}.{o.name}" for o in target.outputs.values() if output_fits(o, param)]
            return self._mismatch(judged, param, mention, found, fitting[0] if fitting else None)
        output = target.outputs.get(mention.field)
        if output is None:
            return self._no_output(judged, mention, list(target.outputs))
        if output_fits(output, param):
            return None
        whole = any(issubclass(target.output, kind) for kind in param.artifacts)
        found = f"{mention} is {output_words(output)}"
        return self._mismatch(judged, param, mention, found, f"${mention.name}" if whole else None)

    def _model_for_param(self, judged: Judged, param: ParamField, mention: Mention) -> Problem | None:
        provider = self.models[mention.name].provider
        if provider is None:
            return None
        found = f"${mention.name} is a model ({provider.kind.kind})"
        if not any(issubclass(provider.kind, kind) for kind in param.models):
            return self._mismatch(judged, param, mention, found, None)
        return self._model_field(judged, mention)

    def _model_field(self, judged: Judged, mention: Mention) -> Problem | None:
        if mention.field is None:
            return None
        message = f'{mention.name} is a model and has no output "{mention.field}"'
        return self._problem("unknown-output", message, judged, mention, f"${mention.name}")

    def _no_output(self, judged: Judged, mention: Mention, outputs: list[str]) -> Problem:
        near = nearest(mention.field or "", outputs)
        message = f'step {mention.name} has no output "{mention.field}"'
        allowed = listed(f"${mention.name}.{name}" for name in outputs) or None
        suggestion = f"${mention.name}.{near}" if near else None
        return self._problem("unknown-output", message, judged, mention, suggestion, allowed)

    def _check_link(self, judged: Judged, mark: LinkMark, mention: Mention) -> Problem | None:
        where = f'field "{dotted(mention.path)}" of model "{judged.entry.name}"'
        message = f"{where}: expected {link_words(mark)}"
        if mark.model is not None and mention.name in self.models:
            provider = self.models[mention.name].provider
            if provider is None or issubclass(provider.kind, mark.model):
                return self._model_field(judged, mention)
            message += f", but ${mention.name} is a model ({provider.kind.kind})"
            return self._problem("type-mismatch", message, judged, mention, allowed=self._models_for((mark.model,)))
        if mark.output is not None and mention.name in self.steps:
            return self._check_step_link(judged, mark, mention, message)
        found = "a model" if mention.name in self.models else "a step"
        return self._problem("type-mismatch", f"{message}, but ${mention.name} is {found}", judged, mention)

    def _check_step_link(self, judged: Judged, mark: LinkMark, mention: Mention, message: str) -> Problem | None:
        target = self.steps[mention.name].definition
        if target is None:
            return None
        fitting = [f"${mention.name}.{o.name}" for o in target.outputs.values() if o.kind == mark.output]
        if mention.field is not None and mention.field not in target.outputs:
            return self._no_output(judged, mention, list(target.outputs))
        if str(mention) in fitting:
            return None
        found = output_words(target.outputs[mention.field]) if mention.field else target.output.__name__
        text = f"{message}, but {mention} {'is' if mention.field else 'gives'} {found}"
        return self._problem("type-mismatch", text, judged, mention, fitting[0] if fitting else None)

    def _mismatch(
        self, judged: Judged, param: ParamField, mention: Mention, found: str, suggestion: str | None
    ) -> Problem:
        label = judged.definition.name if judged.definition else ""
        where = f'field "{dotted(mention.path)}" of step "{judged.entry.name}" ({label})'
        wants = wanted(param) if takes_reference(param) else output_words(_plain_output(param))
        message = f"{where}: expected {wants}, but {found}"
        allowed = None if suggestion else self._fitting(judged, param)
        return self._problem("type-mismatch", message, judged, mention, suggestion, allowed)

    def _fitting(self, judged: Judged, param: ParamField) -> str | None:
        """What the spec has that would fit."""
        found = [self._models_for(param.models)] if param.models else []
        for name, step in self.steps.items():
            if step.definition is None or name == judged.entry.name:
                continue
            if any(issubclass(step.definition.output, kind) for kind in param.artifacts):
                found.append(f"${name}")
            found += [f"${name}.{o.name}" for o in step.definition.outputs.values() if output_fits(o, param)]
        return listed(f for f in found if f) or None

    def _models_for(self, kinds: tuple[type[Any], ...]) -> str | None:
        fits = [n for n, m in self.models.items() if m.provider and issubclass(m.provider.kind, kinds)]
        return listed(f"${name}" for name in fits) or None

    def _problem(
        self,
        code: str,
        message: str,
        judged: Judged,
        mention: Mention,
        suggestion: str | None = None,
        allowed: str | None = None,
    ) -> Problem:
        text = message + (f" (from $params.{mention.param})" if mention.param else "")
        path = (*judged.entry.path, *mention.path)
        return self.source.problem(code, text, mention.span, path=path, suggestion=suggestion, allowed=allowed)


def output_fits(output: OutputField, param: ParamField) -> bool:
    """Whether one output of a step may stand in a parameter."""
    if any(output.agrees_with(wish) for wish in param.outputs):
        return True
    if param.plain is None or output.kind != "value":
        return False
    return _bare(output.annotation) in _accepted(param.plain)


class _Anything:
    def __contains__(self, annotation: object) -> bool:
        return True


def _accepted(plain: Any) -> Any:
    """The types that a plain parameter takes as they are: itself, the members of a union, whole numbers as numbers."""
    plain = _bare(plain)
    if plain is Any:
        return _Anything()
    is_union = typing.get_origin(plain) in (typing.Union, types.UnionType)
    options = [_bare(option) for option in typing.get_args(plain)] if is_union else []
    return [plain, *options, *([int] if float in (plain, *options) else [])]


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


def _plain_output(param: ParamField) -> OutputField:
    return OutputField(param.name, "value", annotation=param.plain)


# --- order -----------------------------------------------------------------------------------------------------------


def dependencies(models: Mapping[str, Judged], steps: Mapping[str, Judged]) -> dict[str, list[Mention]]:
    """The existing entries that each entry refers to, by name, in the order written."""
    known = {**models, **steps}
    return {
        name: [m for field in judged.mentions.values() for m in field.values() if m.name in known and m.name != name]
        for name, judged in known.items()
    }


def cycles(needs: Mapping[str, list[Mention]]) -> list[list[Mention]]:
    """Rings of references, each once, as the mentions that lead around it. Iterative: chains may be long."""
    done: set[str] = set()
    found = []
    for start in needs:
        if start in done:
            continue
        trail: list[Mention] = []
        place, stack = {start: 0}, [iter(needs[start])]
        while stack:
            mention = next(stack[-1], None)
            if mention is None:
                stack.pop()
                done.add(place.popitem()[0])
                del trail[-1:]
            elif mention.name in place:
                found.append([*trail, mention][place[mention.name] :])
            elif mention.name not in done:
                trail.append(mention)
                place[mention.name] = len(trail)
                stack.append(iter(needs[mention.name]))
    return found


def ordered(steps: Mapping[str, Judged], needs: Mapping[str, list[Mention]]) -> dict[str, tuple[str, ...]]:
    """Steps in topological order (ties as written) with the steps each waits for, also through models. No cycles."""
    rank = {name: index for index, name in enumerate(steps)}
    waits = {name: _steps_behind(name, needs, rank) for name in steps}
    feeds: dict[str, list[str]] = {name: [] for name in steps}
    for name, behind in waits.items():
        for other in behind:
            feeds[other].append(name)
    left = {name: len(behind) for name, behind in waits.items()}
    ready = [rank[name] for name, count in left.items() if count == 0]
    names, order = list(steps), []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for follower in feeds[name]:
            left[follower] -= 1
            if left[follower] == 0:
                heapq.heappush(ready, rank[follower])
    place = {name: index for index, name in enumerate(order)}
    return {name: tuple(sorted(waits[name], key=place.__getitem__)) for name in order}


def _steps_behind(name: str, needs: Mapping[str, list[Mention]], steps: Mapping[str, int]) -> set[str]:
    """The steps that ``name`` refers to, looking through models."""
    found, waiting, seen = set(), [m.name for m in needs[name]], set()
    while waiting:
        other = waiting.pop()
        if other in steps:
            found.add(other)
        elif other not in seen:
            seen.add(other)
            waiting += [m.name for m in needs[other]]
    return found
