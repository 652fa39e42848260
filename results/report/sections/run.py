"""What every run has: failures, language-model usage, and where it all comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from results.report.page import Part, Request, Section
from results.report.words import unpacked

if TYPE_CHECKING:
    from results.store import Reader

MOST_MESSAGES = 200

QUERIES = {
    "variants": "SELECT variant, params FROM variants WHERE run_id = $run ORDER BY variant",
    "steps": "SELECT * FROM run_steps WHERE run_id = $run ORDER BY variant, started, step",
    "models": "SELECT * FROM models WHERE run_id = $run ORDER BY model, variant",
    "assets": "SELECT * FROM assets WHERE run_id = $run ORDER BY asset",
    "usage": "SELECT * FROM llm_usage WHERE run_id = $run",
    "failures": "SELECT * FROM failures WHERE run_id = $run",
    "warnings": "SELECT variant, step, item, text FROM messages WHERE run_id = $run AND level <> 'failed'",
    "runs": "SELECT * FROM runs WHERE run_id = $run",
}


def collect(read: Reader, request: Request) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table about the run."""
    return {name: read(sql, {"run": request.run_id}).to_pylist() for name, sql in QUERIES.items()}


def parts(data: dict[str, list[dict[str, Any]]]) -> list[Part]:
    """Failures and usage where there are any; provenance always."""
    found = []
    if data["failures"] or data["warnings"]:
        variables = {name: data[name][:MOST_MESSAGES] for name in ("failures", "warnings")}
        counts = {name: len(data[name]) for name in variables}
        found.append(
            Part("failures", "What failed, and warnings", "run_failures.html.jinja", {**variables, "counts": counts})
        )
    if data["usage"]:
        found.append(
            Part(
                "usage", "Language-model usage", "run_usage.html.jinja", {"rows": data["usage"], "total": _total(data)}
            )
        )
    models = [{**m, "identity": unpacked(m["identity"])} for m in _once(data["models"])]
    (run,) = data["runs"]
    more = {
        "models": models,
        "versions": unpacked(run["versions"]) or {},
        "overrides": unpacked(run["overrides"]) or {},
    }
    found.append(Part("provenance", "Where it comes from", "run_provenance.html.jinja", {**data, **more}))
    return found


def _once(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Models that are the same in every variant are listed once."""
    found = {(m["model"], m["identity"]): m for m in models}
    return list(found.values())


def _total(data: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rows = data["usage"]
    total: dict[str, Any] = {
        name: sum(r[name] or 0 for r in rows)
        for name in ("calls", "cached", "requests", "given_up", "prompt_tokens", "completion_tokens", "seconds")
    }
    costs = [r["cost"] for r in rows if r["cost"] is not None]
    return {**total, "cost": sum(costs) if costs else None}


RUN_TABLES = frozenset(["variants", "run_steps", "models", "assets", "messages", "llm_calls", "runs"])
SECTIONS = (Section("run", RUN_TABLES, collect, parts),)
