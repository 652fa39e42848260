"""Which samples are kept: those that few models can answer at once. Voting, and the file of kept ids.

Source: ProactiveBench (arXiv 2603.19466): a sample is dropped if at least a quarter of the probe models name the right category on
turn 1. The format of the file is ours.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.errors import DataError
from runner.nodes.proactive.reading import json_lines
from runner.nodes.proactive.records import DATASET_IDS, SCENARIOS

if TYPE_CHECKING:
    from runner.artifacts.proactive import ProactiveEpisodes

THRESHOLD = 0.25
"""Share of the probe models, as published."""
MAX_BYTES = 64 * 2**20

KeptIds = Mapping[str, frozenset[str]]
"""Ids by scenario; a scenario that is not named is not filtered."""


def hits_needed(n: int, threshold: float = THRESHOLD) -> int:
    """Least number of right probes of ``n`` at which a sample is dropped: ceil(threshold n), at least 1. 22 models at 0.25: 6."""
    return max(1, math.ceil(Fraction(str(threshold)) * n))


def is_kept(hits: int, n: int, threshold: float = THRESHOLD) -> bool:
    """Whether a sample that ``hits`` of ``n`` probes answered at once is kept; without a probe it is."""
    return n == 0 or hits < hits_needed(n, threshold)


def recall(p: float, n: int, threshold: float = THRESHOLD) -> float:
    """P[Bin(n, p) >= ceil(threshold n)]: the chance that a sample is dropped that each of ``n`` probes answers at once with probability
    ``p``. Of 22 probes at 0.4: 92.8 %."""
    needed = hits_needed(n, threshold)
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(needed, n + 1))


# --- the file of kept ids --------------------------------------------------------------------------------------------


def write_kept(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines: ``{"scenario", "id", "kept", "probe_hits", "n_probes"}``, one for each row of ``pb_samples``."""
    with path.open("w", encoding="utf8") as file:
        for row in rows:
            told = {"scenario": row["scenario"], "id": row["sample_id"]}
            told |= {name: row[name] for name in ("kept", "probe_hits", "n_probes")}
            file.write(json.dumps(told, ensure_ascii=False) + "\n")


def read_kept(path: Path) -> KeptIds:
    """Kept ids by scenario, from ``.json`` (``{"ROD": [1, 2], ...}``), ``.jsonl`` or ``.csv`` (``scenario``, ``id``, and ``kept`` where
    files also hold what was dropped). Scenarios by either of their names. Raises ``DataError`` naming the place.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DataError(f"{path}: kept ids are a file that ends in {', '.join(_READERS)}")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: kept ids have at most {MAX_BYTES} bytes")
    found: dict[str, set[str]] = {}
    for where, scenario, sample, kept in reader(path):
        ids = found.setdefault(_scenario(scenario, where), set())
        if _truth(kept, where):
            ids.add(_id(sample, where))
    if not found:
        raise DataError(f"{path}: no id in it")
    return {name: frozenset(ids) for name, ids in found.items()}


def _of_object(path: Path) -> Iterable[tuple[str, Any, Any, Any]]:
    from runner.data.benchmarks.files import read_json

    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(ids, list) for ids in value.values()):
        raise DataError(f'{path}: expected an object such as {{"ROD": [1, 2], "QD": [7]}}: lists of ids by scenario')
    for scenario, ids in value.items():
        where = f"{path}: {' '.join(scenario.split())[:80]!r}"
        _scenario(scenario, where)
        yield from ((f"{where}[{i}]", scenario, sample, True) for i, sample in enumerate(ids))
        if not ids:  # a scenario of which nothing is kept
            yield where, scenario, "", False


def _of_lines(path: Path) -> Iterable[tuple[str, Any, Any, Any]]:
    for number, value in json_lines(path):
        yield f"{path}:{number}", value.get("scenario"), value.get("id"), value.get("kept", True)


def _of_table(path: Path) -> Iterable[tuple[str, Any, Any, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"scenario", "id"} <= {*(reader.fieldnames or ())}:
                raise DataError(f"{path}:1: expected the columns scenario, id and, where wanted, kept")
            for row in reader:
                yield f"{path}:{reader.line_num}", row["scenario"], row["id"], row.get("kept", True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV in UTF-8: {str(error)[:200]}") from error


_READERS = {".json": _of_object, ".jsonl": _of_lines, ".csv": _of_table}
_NAMES = {**{name: name for name in SCENARIOS}, **{published: name for name, published in DATASET_IDS.items()}}


def _scenario(value: Any, where: str) -> str:
    name = _NAMES.get(value) if isinstance(value, str) else None
    if name is None:
        raise DataError(f"{where}: no scenario {str(value)[:80]!r}", hint=f"One of {', '.join(_NAMES)}.")
    return name


def _id(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise DataError(f"{where}: expected an id, a number or a text, found {str(value)[:80]!r}")
    return str(value).strip()


def _truth(value: Any, where: str) -> bool:
    word = str(value).strip().lower()
    if word not in ("true", "false", "1", "0"):
        raise DataError(f"{where}: `kept` is true or false, not {str(value)[:80]!r}")
    return word in ("true", "1")


# --- votes -----------------------------------------------------------------------------------------------------------


class Vote(NamedTuple):
    """Probes that answered a sample, and those of them that were right on turn 1."""

    hits: int
    n: int


Votes = Mapping[tuple[str, str, str], Vote]
"""By scenario, sample and split."""


def votes_of(probes: Sequence[ProactiveEpisodes]) -> Votes:
    """One vote a probe and sample: right where it named the right category on turn 1 in more than half of its draws, whether that
    counted or not. Episodes that failed are no votes. Raises ``DataError`` for probes of another mode, or two of one label."""
    labels = [one.label for one in probes]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise DataError(f"two probes are called {twice!r}", hint="Each model votes once; give each a `label:`.")
    found: dict[tuple[str, str, str], Vote] = {}
    for probe in probes:
        if probe.settings.get("mode") != "mcqa":
            mode = probe.settings.get("mode")
            raise DataError(f"{probe.label}: probes answer in mode mcqa, these are episodes of mode {mode!r}")
        split = str(probe.settings.get("split", "test"))
        for (scenario, sample), right in _right(probe).items():
            vote = found.get((scenario, sample, split), Vote(0, 0))
            found[scenario, sample, split] = Vote(vote.hits + (2 * sum(right) > len(right)), vote.n + 1)
    return found


def _right(probe: ProactiveEpisodes) -> dict[tuple[str, str], list[bool]]:
    columns = ["scenario", "sample_id", "status", "first_turn_correct"]
    found: dict[tuple[str, str], list[bool]] = {}
    for row in probe.episodes.select(columns).to_pylist():
        if row["status"] == "ok" and row["first_turn_correct"] is not None:
            found.setdefault((row["scenario"], row["sample_id"]), []).append(row["first_turn_correct"])
    return found


def judged(rows: Iterable[Mapping[str, Any]], votes: Votes, threshold: float = THRESHOLD) -> list[dict[str, Any]]:
    """Rows of ``pb_samples`` with their votes; kept where they were kept before and too few probes are right at once."""
    found = []
    for row in rows:
        vote = votes.get((row["scenario"], row["sample_id"], row["split"]), Vote(0, 0))
        kept = row["kept"] and is_kept(vote.hits, vote.n, threshold)
        found.append({**row, "kept": kept, "probe_hits": vote.hits if vote.n else None, "n_probes": vote.n})
    return found


def probe_summary(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], threshold: float) -> dict[str, Any]:
    """Probes, and by scenario: samples that were probed, how many of them are kept, the share that would be dropped if every probe
    guessed among all that is shown at first."""
    scenarios: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["n_probes"]:
            told = scenarios.setdefault(row["scenario"], {"probed": 0, "kept": 0, "dropped_by_guessing": 0.0})
            told["probed"] += 1
            told["kept"] += bool(row["kept"])
            shown = len(row["options"]) + len(row["categories"])
            told["dropped_by_guessing"] += recall(1 / shown, row["n_probes"], threshold)
    for told in scenarios.values():
        told["dropped_by_guessing"] /= told["probed"]
    return {"probes": [*labels], "threshold": threshold, "scenarios": scenarios,
            "unprobed": sum(not row["n_probes"] for row in rows)}  # fmt: skip


def probe_notes(summary: Mapping[str, Any]) -> list[str]:
    """What should be known before the filter is trusted."""
    count, notes = len(summary["probes"]), []
    if hits_needed(count, summary["threshold"]) < 2:
        notes.append(
            f"{count} probes at {summary['threshold']:g}: one right guess drops a sample; the paper asks 22 models"
        )
    if summary["unprobed"]:
        notes.append(f"{summary['unprobed']} samples were answered by no probe and stay as they were")
    notes += [f"{name}: no probed sample is kept" for name, told in summary["scenarios"].items() if not told["kept"]]
    return notes
