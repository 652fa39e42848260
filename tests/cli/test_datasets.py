"""``datasets.load`` from a spec to SQL: one real process a call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/data/datasets"))

from miniatures import build  # noqa: E402

SPEC = """
name: look
steps:
  data: {uses: datasets.load, limit: {train: 0}, datasets: [{name: dtd, root: ./dtd}, {name: sun397, root: ./sun, limit: 2}]}
results: out/results.duckdb
"""


def runner(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "RUNNER_OFFLINE": "1"}
    command = [sys.executable, "-m", "runner", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)


def sql(query: str, cwd: Path) -> list[dict[str, object]]:
    done = runner("sql", query, "--results", "out/results.duckdb", "--format", "json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


def test_a_spec_loads_datasets_into_sql_and_runs_only_once(tmp_path: Path) -> None:
    build(tmp_path / "dtd", "dtd")
    build(tmp_path / "sun", "sun397", form="tables")
    (tmp_path / "look.yaml").write_text(SPEC)
    done = runner("exec", "look.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counts = "SELECT dataset, split, count(*) AS n FROM dataset_image GROUP BY ALL ORDER BY ALL"
    assert [tuple(row.values()) for row in sql(counts, tmp_path)] == [
        ("dtd", "test", 6), ("dtd", "val", 6), ("sun397", "test", 2), ("sun397", "train", 2), ("sun397", "val", 2)
    ]  # fmt: skip
    targets = "SELECT DISTINCT target FROM dataset_image WHERE dataset = 'dtd' AND thumbnail IS NOT NULL ORDER BY 1"
    assert [row["target"] for row in sql(targets, tmp_path)] == ["banded", "lacelike", "zigzagged"]
    again = runner("exec", "look.yaml", cwd=tmp_path)
    assert again.returncode == 0 and "data: running" not in again.stderr
    (tmp_path / "dtd/dtd/images/banded/banded_0005.jpg").unlink()
    gone = runner("exec", "look.yaml", cwd=tmp_path)
    assert gone.returncode == 1 and "banded_0005.jpg" in gone.stderr and "Traceback" not in gone.stderr


def test_wrong_datasets_are_refused_at_their_place(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "name: x\nresults: r.duckdb\nsteps:\n  data:\n    uses: datasets.load\n    datasets:\n"
        "      - {name: dtdd, root: .}\n      - {name: dtd, root: ./nowhere}\n      - {foldr: x}\n"
    )
    done = runner("validate", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "bad.yaml:7:" in done.stderr and "did you mean dtd?" in done.stderr
    assert "bad.yaml:8:" in done.stderr and "nowhere" in done.stderr
    assert "bad.yaml:9:" in done.stderr


def test_an_incomplete_copy_names_everything_missing(tmp_path: Path) -> None:
    (tmp_path / "cars").mkdir()
    (tmp_path / "x.yaml").write_text(
        "name: x\nresults: r.duckdb\nsteps:\n  data: {uses: datasets.load, datasets: {name: stanford_cars, root: ./cars}}\n"
    )
    done = runner("exec", "x.yaml", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for word in ("cars_train", "cars_test", "split_zhou_StanfordCars.json", "metadata.csv", "labels.csv"):
        assert word in done.stderr
