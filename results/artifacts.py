"""Reading what runs and steps left on disk: ``runs/<id>/run.json`` with its journals, ``artifacts/<key>/manifest.json``.

Only reading, and only what the results database is made from; the files are written elsewhere. Nothing damaged is
skipped silently: what cannot be read is a ``Difference``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import rows
from results.store import RUN_LISTS
from runner.errors import ResultsError

if TYPE_CHECKING:
    import pyarrow as pa

JOURNALS = {"messages": "messages.jsonl", "llm_calls": "llm_calls.jsonl"}
FINISHED = ("done", "cached")
_KEY = re.compile(r"[\w.-]+")


@dataclass(frozen=True, order=True)
class Difference:
    """One disagreement between the database and the files it stands for; an empty name means "does not matter"."""

    run_id: str
    variant: str
    step: str
    table: str
    what: str

    def __str__(self) -> str:
        place = "/".join(part for part in (self.run_id, self.variant, self.step, self.table) if part)
        return f"{place}: {self.what}"


@dataclass
class RunFiles:
    """What the files say of one run: rows by results table (with keys), and rows of each finished step (without)."""

    run_id: str
    parts: dict[str, pa.Table] = field(default_factory=dict)
    steps: dict[tuple[str, str], dict[str, pa.Table]] = field(default_factory=dict)
    problems: list[Difference] = field(default_factory=list)


def run_folders(root: Path) -> list[Path]:
    """Folders of runs that have a ``run.json``, by name."""
    return sorted(path.parent for path in (root / "runs").glob("*/run.json"))


def read_run(root: Path, folder: Path) -> RunFiles:
    """Everything that the files below ``root`` hold of the run in ``folder``."""
    try:
        record = json.loads((folder / "run.json").read_text("utf8"))
        found = RunFiles(str(record["run"]["run_id"]))
        found.parts = _parts(record, folder, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ResultsError) as error:
        broken = Difference(folder.name, "", "", "runs", f"run.json cannot be read: {_short(error)}")
        return RunFiles(folder.name, problems=[broken])
    for row in record.get("steps") or []:
        if row.get("status") in FINISHED:
            variant, step = row.get("variant", ""), row["step"]
            found.steps[variant, step] = _step(root, str(row["artifact_key"]), (found.run_id, variant, step), found)
    return found


def _parts(record: Mapping[str, Any], folder: Path, found: RunFiles) -> dict[str, pa.Table]:
    lists = {table: record.get(key) or [] for key, table in RUN_LISTS.items() if key not in JOURNALS}
    for table, name in JOURNALS.items():
        lists[table] = list(_lines(folder / name, table, found))
    parts = {table: rows.run_rows(table, content, found.run_id) for table, content in lists.items()}
    return {"runs": rows.run_rows("runs", [record["run"]], found.run_id), **parts}


def _lines(path: Path, table: str, found: RunFiles) -> Iterator[dict[str, Any]]:
    """Rows of a journal. A torn last line is what a kill leaves and is no problem; any other bad line is one."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError:
            if number < len(lines):
                found.problems.append(Difference(found.run_id, "", "", table, f"{path.name}, line {number} is damaged"))


def _step(root: Path, key: str, place: tuple[str, str, str], found: RunFiles) -> dict[str, pa.Table]:
    """The tables of an artifact that go to the database; those that are missing or damaged become problems."""
    folder = root / "artifacts" / key
    try:
        if not _KEY.fullmatch(key):
            raise ResultsError(f"{key!r} is no artifact key")
        outputs = json.loads((folder / "manifest.json").read_text("utf8"))["outputs"]
    except (OSError, ValueError, KeyError, TypeError, ResultsError) as error:
        found.problems.append(Difference(*place, "", f"artifact {key} cannot be read: {_short(error)}"))
        return {}
    tables = {}
    for output in outputs.values():
        table = output.get("table")
        if table:
            try:
                tables[table] = _parquet(folder, output)
            except (OSError, ValueError, KeyError, ResultsError) as error:
                found.problems.append(Difference(*place, table, f"artifact {key}: {_short(error)}"))
    return tables


def _parquet(folder: Path, output: Mapping[str, Any]) -> pa.Table:
    """One table of an artifact, if its bytes and its rows are what the manifest says. Raises ``ResultsError``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = Path(output["file"]).name
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != output["sha256"]:
        raise ResultsError(f"{name} does not match the hash in its manifest")
    table = pq.read_table(pa.BufferReader(data))
    if table.num_rows != output["rows"]:
        raise ResultsError(f"{name} has {table.num_rows} rows, its manifest says {output['rows']}")
    return rows.fit(output["table"], table)


def _short(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error.args[0] if error.args else error!r}".partition("\n")[0]
