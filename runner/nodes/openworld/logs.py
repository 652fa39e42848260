"""Reads per-sample logs of earlier open-world runs: ``<out>/<task>/<model>/*_samples_*.jsonl``, one JSON object a line.

The layout is that of the published code of "On Large Multimodal Models as Open-World Image Classifiers": ``doc_id``, ``target``
and ``filtered_resps``, whose last element is the answer (a list of lists for several turns). Lines are strangers' data: each
is read by itself, with a limit on its length, and what is no record is reported and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.data.datasets.known import KNOWN
from runner.naming import comma_items

PATTERN = "*_samples_*.jsonl"
LINE_BYTES = 1 << 20
PROBLEMS_NAMED = 10
DEFAULT_PROMPT = "base"


class Record(NamedTuple):
    """One answered picture of a log."""

    doc_id: str
    target: str
    answer: str


class Log(NamedTuple):
    """One file: what it says, and the lines (from 1) that are no records with the reason."""

    path: Path
    records: list[Record]
    problems: list[tuple[int, str]]

    @property
    def task(self) -> str:
        """Name of the folder of the task."""
        return self.path.parent.parent.name

    @property
    def model(self) -> str:
        """Name of the folder of the model."""
        return self.path.parent.name


def log_files(folder: Path) -> list[Path]:
    """Regular files of logs below ``folder``, sorted."""
    return sorted(path for path in folder.rglob(PATTERN) if path.is_file() and len(path.relative_to(folder).parts) > 1)


def read_log(path: Path) -> Log:
    """Read one file; a line that is no record, or repeats a ``doc_id``, is a problem."""
    records: dict[str, Record] = {}
    problems: list[tuple[int, str]] = []
    for number, line in _lines(path):
        try:
            record = parse_record(line)
            if record.doc_id in records:
                raise ValueError(f"doc_id {record.doc_id!r} stood in an earlier line")
        except (ValueError, RecursionError) as error:
            problems.append((number, _reason(error)))
        else:
            records[record.doc_id] = record
    return Log(path, list(records.values()), problems)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; of a line that is too long no more than the limit is held."""
    with path.open("rb") as file:
        number, whole = 1, True
        while part := file.readline(LINE_BYTES + 1):
            if whole and part.strip():
                yield number, part
            whole = part.endswith(b"\n")
            number += whole


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return f"it is not JSON: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)


def parse_record(line: bytes) -> Record:
    """One line as a record. Raises ValueError (also of ``json``) that says what is wrong."""
    if len(line) > LINE_BYTES:
        raise ValueError(f"it is longer than {LINE_BYTES} bytes")
    data = json.loads(line.decode())
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    doc_id, target = data.get("doc_id"), data.get("target")
    if isinstance(doc_id, bool) or not isinstance(doc_id, (int, str)) or doc_id == "":
        raise ValueError("doc_id must be a number or text")
    if not isinstance(target, str) or not target.strip():
        raise ValueError("target must be the name of a class")
    return Record(_clean(str(doc_id)), _clean(target), _clean(_answer(data.get("filtered_resps"))))


def _answer(replies: Any) -> str:
    """The last reply; of several turns, those of the first conversation."""
    if isinstance(replies, list) and replies and isinstance(replies[0], list):
        replies = replies[0]
    if not isinstance(replies, list) or not replies or not isinstance(replies[-1], str):
        raise ValueError("filtered_resps must be a list that ends with the answer")
    return replies[-1]


def _clean(text: str) -> str:
    """Halves of characters, which JSON can write and no table can hold, become question marks."""
    return text.encode("utf-8", "replace").decode()


class Choice(NamedTuple):
    """Of several logs of one task and model, the longest (the first of those), and the others."""

    kept: Log
    others: list[Log]


def longest(logs: Sequence[Log]) -> list[Choice]:
    """One log for each pair of task and model."""
    by_pair: dict[tuple[str, str], list[Log]] = {}
    for log in logs:
        by_pair.setdefault((log.task, log.model), []).append(log)
    choices = []
    for _, found in sorted(by_pair.items()):
        kept = max(found, key=lambda log: len(log.records))
        choices.append(Choice(kept, [log for log in found if log is not kept]))
    return choices


def dataset_and_prompt(task: str) -> tuple[str, str]:
    """Split a task such as ``dtd_llava_cot`` at the dataset's key; a task of another dataset is its own, with prompt base."""
    for dataset in KNOWN:
        if task == dataset:
            return dataset, DEFAULT_PROMPT
        if task.startswith(f"{dataset}_"):
            return dataset, task.removeprefix(f"{dataset}_")
    return task, DEFAULT_PROMPT


def prediction_rows(log: Log, method: str, judge_wrap: str = "{}") -> list[dict[str, Any]]:
    """Rows of ``owc_prediction``; answers stay as they were written. ``judge_wrap``: what a judge reads of a comma list."""
    dataset, prompt = dataset_and_prompt(log.task)
    rows = []
    for record in log.records:
        items = comma_items(record.answer)
        rows.append({
            "method": method, "prompt_key": prompt, "model": log.model, "dataset": dataset, "sample_id": record.doc_id,
            "seed": 0, "target": record.target, "reply": record.answer, "prediction": record.answer,
            "judged": judge_wrap.replace("{}", record.answer) if len(items) > 1 else record.answer, "n_items": len(items), "first_item": items[0] if items else record.answer,
        })  # fmt: skip
    return rows


def dataset_entries(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ``OpenAnswers.datasets`` says of the datasets of these rows; the classes are the labels that occur."""
    classes: dict[str, set[str]] = {}
    for row in rows:
        classes.setdefault(row["dataset"], set()).add(row["target"])
    return [_entry(dataset, sorted(labels)) for dataset, labels in sorted(classes.items())]


def _entry(dataset: str, classes: list[str]) -> dict[str, Any]:
    known = KNOWN.get(dataset)
    said = ("group", "domain_noun", "template", "licence")
    return {"dataset": dataset, "classes": classes} | {name: getattr(known, name, None) for name in said}
