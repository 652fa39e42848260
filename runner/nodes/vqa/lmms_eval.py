"""Scores that lmms-eval wrote, as if they had been measured here.

Read in its source: the names ``<date>_results.json`` and ``<date>_samples_<task>.jsonl``, and of a sample the fields ``target``,
``filtered_resps``, ``resps`` and its metrics. General knowledge: ``results.<task>."<metric>,<filter>"``, ``n-samples``, and that a
sample's metric is a number or an object with ``score``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results.tables import arrow_table
from runner.artifacts import VqaScores
from runner.errors import DataError
from runner.nodes.vqa.aggregates import estimate, interval
from runner.nodes.vqa.answering import REPLY_CHARACTERS, item_table

Row = Mapping[str, Any]
RESULTS = "_results.json"
TRUTH_CHARACTERS = 2000
Z95 = 1.959963984540054


def imported(
    folder: Path, label: str, tasks: Mapping[str, str] | None, scales: Mapping[str, float], warn: Callable[[str], None]
) -> VqaScores:
    """Scores of one model below ``folder``. ``tasks``: by task the metric that counts; default: every task's first number.

    Of a task in several files the newest counts (names begin with the date). Intervals come from samples where there are such, else
    from the standard error that stands beside the value. Raises ``DataError`` where there are no results or a task or metric is missing.
    """
    held = newest(folder)
    wanted = dict(tasks) if tasks is not None else dict.fromkeys(held, "")
    benchmarks, scores, answers, items = [], [], [], []
    for task, metric in wanted.items():
        file, report = _found(held, task, folder)
        key, value, error = _value(report["results"][task], metric, task, file)
        rows = _samples(file, task, key, warn)
        n, n_total = _counts(report, task, rows)
        if not n:
            warn(f"{task}: {file.name} does not say how many items were scored")
        scale = float(scales.get(task, 1.0))
        benchmarks.append(_benchmark(task, key, scale, n, n_total))
        low, high = _interval(benchmarks[-1], rows, value, error)
        scores.append(
            {
                "model": label, "benchmark": task, "metric": key, "category": None, "value": value, "ci_low": low, "ci_high": high,
                "share": value / scale, "n": n, "n_failed": sum(r["score"] is None for r in rows), "n_total": n_total,
                "seconds": None,
            }
        )  # fmt: skip
        answers += [{"model": label, "benchmark": task, **_answer(row)} for row in rows]
        items += [{"benchmark": task, **row} for row in rows]
    model = {"name": label, "identity": "", "kind": "imported", "small": False, "notes": ["imported from lmms-eval"]}
    return VqaScores(
        benchmarks, model, label, {"source": "lmms-eval", "scales": dict(scales)}, item_table(items),
        arrow_table("vqa_answer", answers), arrow_table("vqa_score", scores),
    )  # fmt: skip


def newest(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each task's newest results file and its content."""
    files = [folder] if folder.is_file() else sorted(folder.rglob(f"*{RESULTS}"), key=lambda p: (p.name, str(p)))
    held: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file in files:
        report = _object(file)
        results = report.get("results")
        if not isinstance(results, dict):
            raise DataError(f"{file}: there is no object `results` in it", hint="Expected a file that lmms-eval wrote.")
        held |= {task: (file, report) for task, values in results.items() if isinstance(values, dict)}
    if not held:
        raise DataError(f"{folder}: there is no *{RESULTS} below it", hint="Name the folder given as --output_path.")
    return held


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {type(error).__name__}") from error
    return found if isinstance(found, dict) else {}


def _found(held: Mapping[str, tuple[Path, dict[str, Any]]], task: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    if task not in held:
        raise DataError(f"{folder}: there is no task {task!r}", hint=f"It has {', '.join(sorted(held)[:30])}.")
    return held[task]


def _value(values: Row, metric: str, task: str, file: Path) -> tuple[str, float, float | None]:
    """Name, value and standard error of the metric that counts."""
    numbers = {name: v for name, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    plain = {name.partition(",")[0]: name for name in reversed(numbers) if "_stderr" not in name}
    known = dict(reversed(plain.items()))
    chosen = metric or next(iter(known), "")
    if chosen not in known or not math.isfinite(numbers[known[chosen]]):
        raise DataError(
            f"{file.name}: {task} has no finite number {chosen!r}", hint=f"It has {', '.join(known) or 'no number'}."
        )
    error = numbers.get(known[chosen].replace(chosen, f"{chosen}_stderr", 1))
    return chosen, float(numbers[known[chosen]]), None if error is None else float(error)


def _counts(report: Row, task: str, rows: Sequence[Row]) -> tuple[int, int]:
    told = (report.get("n-samples") or {}).get(task) or {}
    n = len(rows) or int(told.get("effective") or 0)
    return n, int(told.get("original") or n)


def _benchmark(task: str, metric: str, scale: float, n: int, n_total: int) -> dict[str, Any]:
    return {
        "benchmark": task, "known": None, "split": "", "metric": metric, "aggregate": "mean", "full_scale": scale,
        "n_total": n_total, "limit": n if n < n_total else None, "licence": "", "notes": ["scored by lmms-eval"],
    }  # fmt: skip


def _interval(
    benchmark: Row, rows: Sequence[Row], value: float, error: float | None
) -> tuple[float | None, float | None]:
    """From samples only where their mean is the value: some tasks aggregate in other ways."""
    if rows and all(row["score"] is not None for row in rows):
        found = estimate(benchmark, rows)
        if math.isclose(found.value, value, rel_tol=1e-6, abs_tol=1e-9):
            return interval(found)
    return (None, None) if error is None else (value - Z95 * error, value + Z95 * error)


def _samples(results: Path, task: str, metric: str, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """Items of the samples file beside a results file, each once (the last line of it counts); none where there is no file."""
    file = results.with_name(results.name.removesuffix(RESULTS) + f"_samples_{Path(task).name}.jsonl")
    rows: dict[str, dict[str, Any]] = {}
    if not file.is_file():
        return []
    for number, sample in _lines(file, warn):
        name = str(sample.get("doc_id", number))
        rows[name] = {
            "item_id": name, "category": None, "pair_id": None, "answers": [str(sample.get("target", ""))[:TRUTH_CHARACTERS]],
            "answer": _reply(sample), "parsed": None, "score": _score(sample.get(metric)),
        }  # fmt: skip
    return list(rows.values())


def _lines(file: Path, warn: Callable[[str], None]) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                sample = json.loads(line)
            except (ValueError, RecursionError):
                warn(f"{file.name}:{number}: no JSON; the line is left out")
                continue
            if isinstance(sample, dict):
                yield number, sample


def _reply(sample: Row) -> str | None:
    found = sample.get("filtered_resps", sample.get("resps"))
    while isinstance(found, list) and found:
        found = found[0]
    return str(found)[:REPLY_CHARACTERS] if isinstance(found, str | int | float) else None


def _score(found: Any) -> float | None:
    found = found.get("score") if isinstance(found, dict) else found
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def _answer(row: Row) -> dict[str, Any]:
    failure = None if row["score"] is not None else "lmms-eval wrote no score of its metric"
    return {name: row[name] for name in ("item_id", "answer", "parsed", "score")} | {"failure": failure}
