"""Everything between a document and a ``CompiledSpec``: judge the header, each entry of each variant, the references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import Problem, SpecError
from runner.models.registry import ModelConfig
from runner.spec.entries import Entry, Surroundings
from runner.spec.explain import describe, quoted
from runner.spec.fill import Filled, fill, mentioned
from runner.spec.header import DEFAULT_RESULTS
from runner.spec.judge import Judged, judge_model, judge_step
from runner.spec.links import Links, cycles, dependencies
from runner.spec.model import CompiledSpec, Variant
from runner.spec.names import listed, nearest
from runner.spec.params import SEED, Parameters, is_seed, read_parameters
from runner.spec.source import START, Source
from runner.spec.toplevel import judge_header
from runner.spec.variants import variant_of
from runner.spec.yaml12 import Node
from runner.steps import StepDefinition

Steps = Mapping[str, StepDefinition]
Providers = Mapping[str, type[ModelConfig]]


@dataclass
class Compiler:
    """One compilation: the document, what is registered, and every problem found so far."""

    source: Source
    root: Node
    base: Path
    steps: Steps
    providers: Providers
    env: Mapping[str, str]
    problems: dict[tuple[Any, ...], Problem] = field(default_factory=dict)
    judged: dict[tuple[Any, ...], Judged] = field(default_factory=dict)
    names_params: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries = {section: self._entries(section) for section in ("models", "steps")}
        names = frozenset(entry.name for entries in self.entries.values() for entry in entries)
        self.around = Surroundings(self.source, self.base, self.env, names)

    def compile(self, overrides: tuple[str, ...]) -> CompiledSpec:
        """The compiled spec. Raises ``SpecError`` with all problems."""
        header = judge_header(self.source, self.root, self.base)
        self._add(header.problems)
        seed = header.values.get(SEED, 0)
        params = read_parameters(self.source, self.root, seed if is_seed(seed) else 0, overrides)
        self._add(params.problems)
        self._check_clashes()
        variants = [self._variant(name, values) for name, values in params.combinations()]
        self._check_unused(params)
        if self.problems:
            raise SpecError(list(self.problems.values()))
        return self._spec(header.values, params, overrides, [v for v in variants if v is not None])

    def _spec(
        self, header: Mapping[str, Any], params: Parameters, overrides: tuple[str, ...], variants: list[Variant]
    ) -> CompiledSpec:
        return CompiledSpec(
            name=header["name"],
            description=header.get("description", ""),
            profile=header.get("profile"),
            seed=params.values[SEED],
            results=Path(self.base, Path(header.get("results", DEFAULT_RESULTS)).expanduser()).absolute(),
            budget=_given(header.get("budget")),
            text=self.source.text,
            path=Path(self.base, Path(self.source.file).name),
            overrides=overrides,
            sweep=params.sweep,
            variants=tuple(variants),
            fail_on=_given(header.get("fail_on")),
        )

    def _add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.problems.setdefault((problem.position, problem.code, problem.message), problem)

    def _entries(self, section: str) -> list[Entry]:
        node = self.root.child(section)
        entries = node.entries if node else {}
        return [Entry(section, k, e.value, e.key.span) for k, e in entries.items() if isinstance(e.value.data, dict)]

    def _check_clashes(self) -> None:
        models = {entry.name: entry for entry in self.entries["models"]}
        for entry in self.entries["steps"]:
            if entry.name in models:
                first = models[entry.name].span.line
                message = f'"{entry.name}" is also the name of a model (line {first}): one of them needs another name'
                self._add([self.source.problem("name-clash", message, entry.span, path=entry.path)])

    def _variant(self, name: str, params: dict[str, Any]) -> Variant | None:
        models = {entry.name: self._judged(entry, params) for entry in self.entries["models"]}
        steps = {entry.name: self._judged(entry, params) for entry in self.entries["steps"]}
        links = Links(self.source, models, steps, params, self._unsure())
        for judged in (*models.values(), *steps.values()):
            self._add(judged.problems)
            self._add(links.problems(judged))
        needs = dependencies(models, steps)
        self._add(self._cycle_problem(ring) for ring in cycles(needs))
        if self.problems:
            return None
        return variant_of(name, params, models, steps, needs, self.source)

    def _unsure(self) -> frozenset[str] | None:
        """Names whose entries cannot be judged; None where a whole section cannot be read."""
        nodes = [self.root.child(section) for section in ("models", "steps")]
        if any(node is not None and not isinstance(node.data, dict) for node in nodes) or self._misspelt():
            return None
        models, steps = (set(node.entries) if node else set() for node in nodes)
        judged = {entry.name for entries in self.entries.values() for entry in entries}
        return frozenset(models & steps | (models | steps) - judged)

    def _misspelt(self) -> bool:
        return any(p.code == "unknown-field" and p.suggestion in ("models", "steps") for p in self.problems.values())

    def _cycle_problem(self, ring: list[Any]) -> Problem:
        names = [ring[-1].name, *(mention.name for mention in ring)]
        message = f"these refer to each other in a circle: {' -> '.join(names)}"
        return self.source.problem("cycle", message, ring[0].span)

    def _judged(self, entry: Entry, params: Mapping[str, Any]) -> Judged:
        """The verdict on an entry, made once for all variants that give it the same parameters."""
        used = self.names_params.get(entry.key)
        key = (*entry.key, repr([(name, params[name]) for name in sorted(used)])) if used is not None else None
        if key in self.judged and key is not None:
            return self.judged[key]
        filled = fill(self.source, entry.node, params, entry.path)
        used = self.names_params[entry.key] = frozenset(filled.used)
        key = (*entry.key, repr([(name, params[name]) for name in sorted(used)]))
        self.judged[key] = self._judge(entry, filled)
        return self.judged[key]

    def _judge(self, entry: Entry, filled: Filled) -> Judged:
        choice, known = ("uses", self.steps) if entry.section == "steps" else ("provider", self.providers)
        chosen = filled.body.get(choice)
        if isinstance(chosen, str) and chosen in known:
            if entry.section == "steps":
                return judge_step(entry, filled, self.steps[chosen], self.around)
            return judge_model(entry, filled, self.providers[chosen], self.around)
        judged = Judged(entry, problems=[*filled.problems, self._unchosen(entry, filled, choice, known)])
        for path, mention in filled.mentions.items():
            judged.mentions.setdefault(str(path[0]), {})[path] = mention
        return judged

    def _unchosen(self, entry: Entry, filled: Filled, choice: str, known: Mapping[str, Any]) -> Problem:
        """The problem of an entry that does not say, or says wrongly, what it is."""
        kind, path = entry.section[:-1], (*entry.path, choice)
        value, allowed = filled.body.get(choice), listed(known)
        if choice not in filled.body:
            near = nearest(choice, filled.body) or next((k for k in ("use", "type", "kind") if k in filled.body), None)
            message = f'{kind} "{entry.name}" needs a field "{choice}"' + (f', not "{near}"' if near else "")
            return self.source.problem("missing-field", message, entry.span, path=path, allowed=allowed)
        node = entry.node.child(choice)
        span = node.span if node else entry.span
        noun = "step" if choice == "uses" else "provider"
        given = quoted(value) if isinstance(value, str) else describe(value)
        message = (
            f'{kind} "{entry.name}" {"uses" if noun == "step" else "has the provider"} {given}, which does not exist'
        )
        param = filled.origin((choice,))
        message += f" (from $params.{param})" if param else ""
        near = nearest(str(value), known)
        return self.source.problem(f"unknown-{noun}", message, span, path=path, suggestion=near, allowed=allowed)

    def _check_unused(self, params: Parameters) -> None:
        """Parameters and models that nothing names; silent where the entries that might name them cannot be read."""
        if self._unsure() is None or any(p.code == "wrong-type" and len(p.path) == 2 for p in self.problems.values()):
            return
        meant = {(p.suggestion or "").removeprefix("$") for p in self.problems.values()}
        used = {name for names in self.names_params.values() for name in names}
        used |= {name for name in params.values if f"params.{name}" in meant}
        for name in params.values:
            if name not in used and name != SEED:
                message = f'the parameter "{name}" is not used: no model or step says $params.{name}'
                span = self.root.key_span(("params", name)) or START
                self._add([self.source.problem("unused-param", message, span, path=("params", name))])
        named = {name.partition(".")[0] for name in meant}
        named |= {
            m.name for judged in self.judged.values() for field in judged.mentions.values() for m in field.values()
        }
        for section in ("params", "sweep"):
            node = self.root.child(section)
            named |= mentioned(node.value()) if node else set()
        for entry in self.entries["models"]:
            if entry.name not in named:
                message = f'the model "{entry.name}" is not used: nothing says ${entry.name}'
                self._add([self.source.problem("unused-model", message, entry.span, path=entry.path)])


def _given(limits: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is set of a section whose entries may be left out."""
    return {kind: limit for kind, limit in (limits or {}).items() if limit is not None}
