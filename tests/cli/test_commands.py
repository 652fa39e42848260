"""The command line as a user meets it: one real process a call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def runner(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "RUNNER_OFFLINE": "1"} | environment
    command = [sys.executable, "-m", "runner", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_help_teaches_by_example(tmp_path: Path) -> None:
    done = runner("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert 'runner audit --model ./downloaded-model --task "Tell which animal' in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["exec", "--help"], ["audit", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "runner", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "langgraph", "openai", "duckdb", "pyarrow", "numpy"}


def test_validate_imports_no_torch_and_no_langgraph() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "runner", "validate", "specs/c2b.yaml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "fine" in done.stdout
    assert not imported & {"torch", "transformers", "langgraph", "openai", "duckdb", "pyarrow", "numpy", "jsonschema"}


def test_shipped_specs_are_fine() -> None:
    for spec in sorted((ROOT / "specs").glob("*.yaml")):
        done = runner("validate", str(spec), cwd=ROOT)
        assert done.returncode == 0, done.stderr


def test_full_specs_ask_only_for_what_the_user_brings(tmp_path: Path) -> None:
    done = runner("validate", "specs/full/c2b.yaml", "--set", f"model={tmp_path}", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_broken_spec_is_refused_with_places_and_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\nsteps:\n  a: {uses: c2b.proposee, llm: $llm}\n")
    done = runner("validate", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.yaml:3:" in done.stderr and "c2b.propose" in done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads(runner("validate", "bad.yaml", "--json", cwd=tmp_path).stdout)
    assert found and all("line" in str(problem) for problem in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["exec", "no.yaml"], "no.yaml"),
        (["exec"], "which spec?"),
        (["sql", "select 1", "--results", "no.duckdb"], "no results file"),
        (["report", "--results", "no.duckdb"], "no results file"),
        (["status", "no-such-run"], "no run"),
        (["steps", "c2b.asses"], "c2b.assess"),
        (["assets", "fetch", "no-such-asset"], "no-such-asset"),
        (["audit", "--model", "missing.onnx", "--task", "Tell cats from dogs."], "classes"),
    ],
)
def test_wrong_calls_get_one_clear_error(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = runner(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_audit_writes_a_spec_that_compiles(tmp_path: Path) -> None:
    """``runner audit --dry-run`` on a folder with a configuration writes a spec that ``validate`` accepts."""
    model = tmp_path / "downloaded"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"id2label": {"1": "dog", "0": "cat"}}))
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(photos / "a.png")
    call = [
        "audit",
        "--model",
        "downloaded",
        "--task",
        "Tell cats from dogs in photos.",
        "--corpus",
        "photos",
        "--dry-run",
    ]
    done = runner(*call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    spec = tmp_path / "audit-downloaded.yaml"
    assert "classes: [cat, dog]" in spec.read_text()
    assert runner("validate", str(spec), cwd=tmp_path).returncode == 0
    assert runner(*call, cwd=tmp_path).returncode == 0
    assert [p.name for p in tmp_path.glob("*.yaml")] == ["audit-downloaded.yaml"], "an equal spec is not written twice"


def test_audit_does_not_spend_hours_unasked(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"id2label": {str(i): f"class {i:03}" for i in range(1000)}}))
    done = runner("audit", "--model", "m", "--task", "Name the thing in a photo.", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "1000 classes" in done.stderr and "--targets" in done.stderr


def test_steps_and_schema_describe_themselves(tmp_path: Path) -> None:
    listed = runner("steps", cwd=tmp_path).stdout
    assert "c2b.assess" in listed and "retrieval.search" in listed
    one = runner("steps", "c2b.assess", cwd=tmp_path).stdout
    assert "threshold" in one and "rows of c2b_group" in one
    schema = json.loads(runner("schema", cwd=tmp_path).stdout)
    assert "c2b.assess" in json.dumps(schema)


def test_results_can_go_elsewhere_than_the_spec_says(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\nsteps: {made: {uses: parts.planted, pictures: 4}}\nresults: out/r.duckdb\n"
    )
    done = runner("exec", "s.yaml", "--results", "other/q.duckdb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other" / "q.duckdb").is_file() and not (tmp_path / "out").exists()
