"""What the commands do, between parsing and printing: run and report, resume, describe, write."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.shown import shown

if TYPE_CHECKING:
    from results.store import ResultsStore
    from runner.graph import RunOutcome
    from runner.playing import PlayRequest, Show
    from runner.spec import CompiledSpec
    from runner.steps import ParamField, StepDefinition


def execute_and_report(spec: CompiledSpec, *, fail_fast: bool = False, retry_failed: bool = False) -> int:
    """Run ``spec``, print what it found and where the report is; returns the exit code."""
    from runner.graph import Workspace, run_spec

    workspace = Workspace(spec.results.parent).create()
    try:
        outcome = run_spec(spec, workspace, fail_fast=fail_fast, retry_failed=retry_failed)
    finally:
        workspace.close()
    return _conclude(outcome, spec.results)


def resume_and_report(results: Path, run_id: str, answer: Path) -> int:
    """Answer a waiting run with the JSON in ``answer`` and go on; returns the exit code."""
    from runner.graph import Workspace, resume_run

    try:
        reply = json.loads(answer.read_text("utf8"))
    except OSError as error:
        raise UsageError(f"cannot read {answer}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{answer} is not JSON: {error}", hint="edit the file that `runner status` names") from error
    workspace = Workspace(results.absolute().parent).create()
    try:
        outcome = resume_run(workspace, run_id, reply)
    finally:
        workspace.close()
    return _conclude(outcome, results)


def play_and_report(spec: CompiledSpec, path: Path, request: PlayRequest, show: Show | None) -> int:
    """Let a person play the episodes of a spec; returns the exit code."""
    from runner.playing import fitting, play, play_spec, terminal
    from runner.spec import compile_text

    text = play_spec(spec.text, str(path), request)
    played = compile_text(text, str(path), path.absolute().parent, fitting(spec.overrides, text))
    return _conclude(play(dataclasses.replace(played, results=spec.results), terminal(show)), spec.results)


def _conclude(outcome: RunOutcome, results: Path) -> int:
    from rich.console import Console

    from results.bars import crossed_bars
    from results.console import comparison_table, verdict_table
    from results.console_debias import debias_tables
    from results.console_leakage import leakage_tables
    from results.console_lvlm import lvlm_tables
    from results.console_proactive import proactive_tables
    from results.store import ResultsStore
    from runner.errors import EXIT_FAIL_ON, EXIT_OK, EXIT_PARTIAL

    console = Console(width=None if sys.stdout.isatty() else 200)
    results = Path(os.path.normpath(results))
    crossed: list[str] = []
    if results.is_file():
        store = ResultsStore(results)
        for told in (verdict_table, comparison_table, debias_tables, leakage_tables, lvlm_tables, proactive_tables):
            table = told(store, outcome.run_id)
            if table is not None:
                console.print(table)
        crossed = crossed_bars(store, outcome.run_id, outcome.fail_on)
        path = write_report(store, outcome.run_id, None)
        console.print(f"results  {shown(results)}", soft_wrap=True, markup=False)
        console.print(f"report   {shown(path)}", soft_wrap=True, markup=False)
    for line in [*outcome.lines(), *crossed]:
        console.print(shown(line), soft_wrap=True, markup=False)
    ended = outcome.exit_code in (EXIT_OK, EXIT_PARTIAL)
    return EXIT_FAIL_ON if crossed and ended else outcome.exit_code


def write_report(store: ResultsStore, run_id: str, output: Path | None) -> Path:
    """Render the report of a run (``latest``: the newest) to ``output`` or the workspace's reports folder."""
    from results.report import render

    run_id = newest_run(store) if run_id == "latest" else run_id
    path = output or store.path.parent / "reports" / f"{run_id}.html"
    page = render(store, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, "utf8")
    return path


def newest_run(store: ResultsStore) -> str:
    """Id of the run that started last. Raises ``UsageError`` where there is none."""
    rows = store.query("SELECT run_id FROM runs ORDER BY created DESC LIMIT 1").to_pylist()
    if not rows:
        raise UsageError(f"{store.path} holds no run")
    return str(rows[0]["run_id"])


def spec_of_run(results: Path, run_id: str, overrides: list[str]) -> CompiledSpec:
    """The spec of an earlier run, compiled anew from what the results file holds, writing to the same file."""
    from results.store import ResultsStore
    from runner.spec import compile_text

    if not results.is_file():
        raise UsageError(f"no results file {results}", hint="name it: --results FILE")
    store = ResultsStore(results)
    run_id = newest_run(store) if run_id == "latest" else run_id
    rows = store.query(
        "SELECT spec_text, spec_path, overrides FROM runs WHERE run_id = $run", {"run": run_id}
    ).to_pylist()
    if not rows:
        raise UsageError(f"no run {run_id!r} in {results}", hint="`runner runs` lists them")
    row = rows[0]
    path = Path(row["spec_path"] or "spec.yaml")
    said = [str(text) for text in json.loads(row["overrides"] or "[]")]
    compiled = compile_text(row["spec_text"], str(path), path.parent, [*said, *overrides])
    return _redirected(compiled, results)


def _redirected(spec: CompiledSpec, results: Path) -> CompiledSpec:
    import dataclasses

    return dataclasses.replace(spec, results=results.absolute())


def write_spec(path: Path, text: str) -> Path:
    """Write a spec beside what is there: an equal file is kept, another is never overwritten (``-2``, ``-3``, ...)."""
    candidate, number = path, 1
    while candidate.exists() and candidate.read_text("utf8") != text:
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    candidate.parent.mkdir(parents=True, exist_ok=True)
    candidate.write_text(text, "utf8")
    return candidate


def answer(store: ResultsStore, sql: str, format: str, output: Path | None) -> None:
    """Print the rows of a query (``table``, ``csv``, ``json``), or write them to ``output`` (also ``parquet``)."""
    from results import export
    from results.sqlshell import as_table, ask

    rows = ask(store, sql)
    if output is not None:
        export.write(rows, output, output.suffix.lstrip(".") if format == "table" else format)
    elif format == "table":
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 200).print(as_table(rows))
    else:
        sys.stdout.buffer.write(export.encode(rows, format))


# --- describing ------------------------------------------------------------------------------------------------------


def list_steps() -> str:
    """Every step with its first line."""
    from runner.steps import load_steps

    known = load_steps()
    width = max(len(name) for name in known)
    return "\n".join(f"{name:<{width}}  {definition.summary}" for name, definition in known.items())


def describe_step(name: str) -> str:
    """One step: what it does, its parameters with defaults, its outputs."""
    import difflib
    import inspect

    from runner.steps import load_steps

    known = load_steps()
    if name not in known:
        near = difflib.get_close_matches(name, list(known), 1)
        raise UsageError(f"no step {name!r}", hint=f"did you mean {near[0]}?" if near else "`runner steps` lists them")
    definition = known[name]
    lines = [name, "", inspect.getdoc(definition.function) or "", "", "parameters:"]
    lines += [f"  {_param_line(param)}" for param in definition.params.values()]
    lines += ["", f"outputs (${{step}}.field), {definition.output.__name__}:"]
    lines += [f"  {_output_line(definition, field)}" for field in definition.outputs]
    return "\n".join(lines)


def _param_line(param: ParamField) -> str:
    kinds = [cls.__name__ for cls in (*param.artifacts, *param.models)]
    if param.plain is not None:
        kinds.append(str(getattr(param.plain, "__name__", param.plain)).replace("typing.", ""))
    default = "required" if param.required else f"default {param.default!r}"
    text = f"{param.name}: {' | '.join(kinds)} ({default})"
    return f"{text}  {param.description}" if param.description else text


def _output_line(definition: StepDefinition, field: str) -> str:
    output = definition.outputs[field]
    return f"{field}: rows of {output.table}" if output.table else f"{field}: {output.kind}"


def describe_run(results: Path, run_id: str) -> str:
    """The record of a run, step by step, and the questions it waits for."""
    from runner.graph import Workspace

    workspace = Workspace(results.absolute().parent)
    folders = workspace.runs()
    if not folders:
        raise UsageError(f"no runs in {workspace.root}")
    folder = folders[0] if run_id == "latest" else workspace.run(run_id)
    record = folder.record()
    if record["run"]["status"] == "running" and not folder.is_busy():
        record["run"]["status"] = "stopped (its process is gone; the same command goes on)"
    return "\n".join(_run_lines(record))


def _run_lines(record: dict[str, Any]) -> list[str]:
    run = record["run"]
    lines = [f"{run['run_id']}  {run['status']}  {run.get('seconds') or 0:.1f} s  {run.get('description') or ''}"]
    for row in record["steps"]:
        place = f"{row['step']} [{row['variant']}]" if row["variant"] else row["step"]
        lines.append(
            f"  {row['status']:<11} {place:<24} {row['uses']:<20} {row.get('seconds') or 0:8.1f} s  {row.get('error') or ''}"
        )
    lines += [
        f"waits for: {json.dumps(question, ensure_ascii=False)[:2000]}" for question in record.get("questions", [])
    ]
    return lines
