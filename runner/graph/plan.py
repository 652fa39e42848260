"""From a compiled spec to a plan: content keys, what is done already, why the rest will run, what it will spend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from runner.graph.canonical import canonical, digest, references_outside
from runner.graph.fingerprint import fingerprint
from runner.graph.keys import VariantKeys
from runner.graph.nodes import Placement, PlannedModel, PlanNode
from runner.graph.reasons import Earlier, earlier_plan, reason
from runner.graph.store import ArtifactStore, DamagedArtifact
from runner.graph.workspace import Workspace
from runner.references import AssetRef, ResolvedPath
from runner.steps import Cost

if TYPE_CHECKING:
    from pathlib import Path

    from runner.spec.model import CompiledSpec, StepNode

Say = Callable[[str], None]


class AssetFile(Protocol):
    """A fetched asset (``runner.assets.Asset``)."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def wanted(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def licence(self) -> str | None: ...  # noqa: D102
    @property
    def attribution(self) -> str | None: ...  # noqa: D102
    @property
    def source(self) -> str | None: ...  # noqa: D102


class AssetSource(Protocol):
    """What the planner needs of ``runner.assets``; the module itself fits."""

    def ensure(self, name: str, say: Say) -> AssetFile:
        """Fetch and verify, or find in the user's cache."""

    def entry(self, name: str) -> Any:
        """The registry's entry: ``sha256``, ``bytes``, ``download``, ``choices``."""


@dataclass(frozen=True)
class AssetNeed:
    """An asset the run will use; ``bytes`` is its size, ``file`` is set once it is fetched."""

    name: str
    sha256: str
    bytes: int
    file: AssetFile | None = None


@dataclass(frozen=True)
class Plan:
    """A spec, resolved for running. ``nodes`` is in the order of dependence; ``models`` by their keys."""

    spec: CompiledSpec
    nodes: tuple[PlanNode, ...]
    models: Mapping[str, PlannedModel]
    variant_models: Mapping[tuple[str, str], str]
    assets: Mapping[str, AssetNeed] = field(default_factory=dict)

    @cached_property
    def by_key(self) -> dict[str, PlanNode]:
        """The nodes by content key."""
        return {node.key: node for node in self.nodes}

    @property
    def cost(self) -> Cost:
        """What the steps that will run are expected to spend; None where a step cannot say."""
        return total(node.cost for node in self.nodes if not node.done)

    @property
    def key(self) -> str:
        """Hash of all content keys with their places: equal for equal work."""
        return digest([[node.key, [[p.variant, p.step] for p in node.placements]] for node in self.nodes])

    def text(self) -> str:
        """The plan for a terminal."""
        from runner.graph.plan_view import plan_text

        return plan_text(self)

    def mermaid(self) -> str:
        """The graph as a Mermaid flow chart."""
        from runner.graph.plan_view import plan_mermaid

        return plan_mermaid(self)

    def to_json(self) -> dict[str, Any]:
        """What ``plan.json`` of a run holds."""
        from runner.graph.plan_view import plan_json

        return plan_json(self)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum; None (unknown) wherever a summand is None."""
    rows = [(cost.llm_calls, cost.images, cost.bytes) for cost in costs]
    return Cost(*(_sum(column) for column in zip(*rows, strict=True))) if rows else Cost()


def _sum(column: tuple[int | None, ...]) -> int | None:
    known = [value for value in column if value is not None]
    return sum(known) if len(known) == len(column) else None


def make_plan(
    spec: CompiledSpec,
    workspace: Workspace,
    *,
    assets: AssetSource | None = None,
    fetch: bool = False,
    say: Say = lambda text: None,
    retry_failed: bool = False,
) -> Plan:
    """Plan ``spec`` in ``workspace``.

    ``fetch`` gets the assets first, so that keys come from the bytes in use; without it the registry's hashes stand in
    and nothing is downloaded. ``retry_failed`` also runs finished steps with given-up items, and what depends on them.
    Raises ``AssetError``, ``DataError`` (a path is gone), ``SpecError``.
    """
    needs = _assets(spec, assets, fetch, say)

    def resolve(value: str) -> str:
        if isinstance(value, AssetRef):
            return needs[value.name].sha256
        assert isinstance(value, ResolvedPath)
        if value not in seen:
            seen[value] = fingerprint(value, workspace.items)
        return seen[value]

    seen: dict[str, str] = {}
    nodes: dict[str, PlanNode] = {}
    models: dict[str, PlannedModel] = {}
    placed: dict[tuple[str, str], str] = {}
    for variant in spec.variants:
        keys = VariantKeys(variant, variant.seed, resolve)
        for step in variant.steps.values():
            node = _node(step, keys, Placement(variant.name, step.name))
            keys.steps[step.name] = node.key
            _add(nodes, node)
        for name in variant.models:
            placed[variant.name, name] = keys.model(name).key
            models[keys.model(name).key] = keys.model(name)
    judged = _judge(_named(nodes.values()), workspace, spec.name, retry_failed)
    return Plan(spec, tuple(judged), models, placed, needs)


def _assets(spec: CompiledSpec, source: AssetSource | None, fetch: bool, say: Say) -> dict[str, AssetNeed]:
    names = {
        reference.name: None
        for variant in spec.variants
        for reference in references_outside(
            [*(node.values for node in variant.steps.values()), *variant.models.values()]
        )
        if isinstance(reference, AssetRef)
    }
    if not names:
        return {}
    if source is None:
        import runner.assets as packaged

        source = packaged
    return {name: _need(name, source, fetch, say) for name in names}


def _need(name: str, source: AssetSource, fetch: bool, say: Say) -> AssetNeed:
    entry = source.entry(name)
    if fetch:
        file = source.ensure(name, say)
        return AssetNeed(name, file.sha256, entry.bytes, file)
    choices = getattr(entry, "choices", ())
    if choices:
        entry = source.entry(choices[0])
    return AssetNeed(name, entry.sha256, entry.bytes)


def _node(step: StepNode, keys: VariantKeys, placement: Placement) -> PlanNode:
    arguments = keys.arguments(step)
    ingredients = keys.ingredients(step, arguments)
    definition = step.definition
    return PlanNode(
        id=step.name,
        key=digest(ingredients),
        definition=definition,
        position=step.position,
        seed=keys.seed,
        values=step.values,
        arguments=arguments,
        placements=(placement,),
        depends_on=keys.depends_on(arguments),
        ingredients=ingredients,
        shown={name: canonical(value) for name, value in step.values.items()},
        cost=definition.estimate(step.values) if definition.estimate else Cost(),
    )


def _add(nodes: dict[str, PlanNode], node: PlanNode) -> None:
    known = nodes.get(node.key)
    if known is None:
        nodes[node.key] = node
    else:
        nodes[node.key] = dataclasses.replace(known, placements=known.placements + node.placements)


def _named(nodes: Iterable[PlanNode]) -> list[PlanNode]:
    """Give each node a unique id: the step's name, with part of the key where several nodes share it."""
    nodes = list(nodes)
    names = [node.id for node in nodes]
    return [
        dataclasses.replace(node, id=f"{node.id}@{node.key[:12]}") if names.count(node.id) > 1 else node
        for node in nodes
    ]


def _judge(nodes: list[PlanNode], workspace: Workspace, name: str, retry_failed: bool) -> list[PlanNode]:
    store, earlier = ArtifactStore(workspace), earlier_plan(workspace, name)
    steps = {node.key: node.first.step for node in nodes}
    again: set[str] = set()
    judged = []
    for node in nodes:
        why = _why(node, store, earlier, steps)
        retry = "" if why or not retry_failed else _retry_reason(node, store, again)
        if retry:
            again.add(node.key)
        judged.append(dataclasses.replace(node, done=not (why or retry), anew=bool(retry), reason=why or retry))
    return judged


def _why(node: PlanNode, store: ArtifactStore, earlier: Earlier, steps: Mapping[str, str]) -> str:
    try:
        if store.manifest(node.key) is not None:
            return ""
    except DamagedArtifact as damage:
        return f"its result is damaged: {damage.message.partition(': ')[2]}"
    return reason(node, earlier, steps)


def _retry_reason(node: PlanNode, store: ArtifactStore, again: set[str]) -> str:
    manifest = store.manifest(node.key)
    failures = len(manifest.meta.failures) if manifest else 0
    if failures:
        return f"{failures} failed item{'s' if failures > 1 else ''} to try again"
    return "an input is tried again" if again.intersection(node.depends_on) else ""
