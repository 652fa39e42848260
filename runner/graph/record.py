"""``run.json``: what a run is, how far it is, and what it has spent. Its lists are rows of the results tables."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from runner.graph.nodes import PlanNode
from runner.graph.plan import Plan
from runner.graph.store import Manifest
from runner.graph.workspace import RunFolder

if TYPE_CHECKING:
    from runner.spec.model import CompiledSpec

UNFINISHED = ("running", "interrupted", "waiting", "failed")
Row = dict[str, Any]


def now() -> str:
    """The moment as ISO text, UTC without a zone, as the results tables hold it."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def spec_sha256(spec: CompiledSpec) -> str:
    """The hash of the spec as written."""
    return hashlib.sha256(spec.text.encode()).hexdigest()


def is_same_spec(record: Row, spec: CompiledSpec) -> bool:
    """Whether a stored run ran this text with these overrides."""
    run = record.get("run", {})
    return bool(run.get("spec_sha256") == spec_sha256(spec)) and run.get("overrides") == overrides(spec)


def overrides(spec: CompiledSpec) -> list[str]:
    """The overrides as ``--set`` takes them."""
    return [str(one) for one in spec.overrides]


class RunRecord:
    """The content of ``run.json`` in memory; thread-safe. ``state`` holds what only the executor needs:

    ``thread`` (of the checkpoints), ``spent`` by kind, ``plan_key``, ``results`` (the file). ``questions``: what a
    waiting run asks.
    """

    def __init__(self, folder: RunFolder, plan: Plan, before: Row | None, environment: Row) -> None:
        self.folder, self._lock = folder, threading.RLock()
        spec, earlier = plan.spec, before or {}
        self.run: Row = {
            "run_id": folder.run_id,
            "name": spec.name,
            "description": spec.description,
            "created": now(),
            "profile": spec.profile,
            "spec_text": spec.text,
            "spec_sha256": spec_sha256(spec),
            "spec_path": str(spec.path) if spec.path else None,
            "overrides": overrides(spec),
            "seed": spec.seed,
            "seconds": 0.0,
        }
        self.run |= {k: v for k, v in earlier.get("run", {}).items() if k in ("created", "seconds")}
        self.run |= environment | {"status": "running", "finished": None, "error": None}
        self.state: Row = {"thread": 1, "spent": {}} | earlier.get("state", {})
        self.state |= {"plan_key": plan.key, "results": str(spec.results)}
        self.questions: list[Row] = []
        self._plan = plan
        self._steps: dict[tuple[str, str], Row] = {}
        self._fixed = {"variants": variant_rows(plan), "models": model_rows(plan), "assets": asset_rows(plan)}

    def finished(self, node: PlanNode, manifest: Manifest) -> None:
        """The node's artifact is there. Made by this run: ``done``; found: ``cached``."""
        own, meta = manifest.meta.run == self.folder.run_id, manifest.meta
        started = datetime.fromisoformat(meta.created) - timedelta(seconds=meta.seconds)
        for number, place in enumerate(node.placements):
            ran = own and number == 0
            row = self._row(node, "done" if ran else "cached")
            row |= {"started": started.isoformat() if ran else None, "seconds": meta.seconds if ran else 0.0}
            row |= {"failed_items": len(meta.failures), "rows": manifest.rows()}
            self._put(place.variant, place.step, row)

    def unfinished(self, node: PlanNode, status: str, error: str | None, seconds: float) -> None:
        """The node ended without an artifact: ``failed``, ``interrupted`` or ``waiting``."""
        row = self._row(node, status)
        row |= {"started": None, "seconds": seconds, "failed_items": 0, "rows": {}, "error": error}
        for place in node.placements:
            self._put(place.variant, place.step, row)

    def _row(self, node: PlanNode, status: str) -> Row:
        definition = node.definition
        return {"uses": definition.name, "version": definition.version, "artifact_key": node.key, "status": status}

    def _put(self, variant: str, step: str, row: Row) -> None:
        with self._lock:
            self._steps[variant, step] = {"variant": variant, "step": step, **row}

    def steps(self) -> list[Row]:
        """The rows of ``run_steps`` so far."""
        with self._lock:
            return [dict(row) for row in self._steps.values()]

    def noted(self, notes: Mapping[str, tuple[str, ...]]) -> None:
        """Rows of ``models`` with what small models say of themselves, by key of the plan."""
        self._fixed["models"] = model_rows(self._plan, notes)

    def to_json(self) -> Row:
        """``run.json``."""
        with self._lock:
            lists = {**self._fixed, "steps": self.steps(), "questions": list(self.questions)}
            return {"run": dict(self.run), **lists, "state": dict(self.state)}


def variant_rows(plan: Plan) -> list[Row]:
    """Rows of ``variants``."""
    return [{"variant": v.name, "step": "", "params": _json(v.params)} for v in plan.spec.variants]


def _json(value: Any) -> Any:
    from runner.graph.canonical import canonical

    return canonical(value)


def model_rows(plan: Plan, told: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> list[Row]:
    """Rows of ``models``, one for each variant."""
    rows = []
    for (variant, name), key in plan.variant_models.items():
        model = plan.models[key]
        row = {"variant": variant, "step": "", "model": name, "kind": model.config.kind.kind}
        row |= {"provider": model.config.provider, "identity": model.identity, **_about(plan, key, told.get(key, ()))}
        rows.append(row)
    return rows


def _about(plan: Plan, key: str, told: tuple[str, ...]) -> Row:
    """Licence of packaged weights, and notes: a smaller asset stands in for the one asked for; what a small model says of itself."""
    from runner.graph.canonical import references_outside
    from runner.references import AssetRef

    names = [ref.name for ref in references_outside(plan.models[key].config) if isinstance(ref, AssetRef)]
    files = [file for name in names if (file := plan.assets[name].file) is not None]
    notes = [f"{file.name} stands in for {file.wanted}" for file in files if file.name != file.wanted]
    licences = dict.fromkeys(file.licence for file in files if file.licence)
    return {"licence": ", ".join(licences) or None, "note": "; ".join(dict.fromkeys([*notes, *told])) or None}


def asset_rows(plan: Plan) -> list[Row]:
    """Rows of ``assets``."""
    rows = []
    for need in plan.assets.values():
        if need.file is not None:
            names = ("wanted", "sha256", "licence", "attribution", "source")
            row = {"variant": "", "step": "", "asset": need.file.name}
            rows.append(row | {name: getattr(need.file, name) for name in names})
    return rows
