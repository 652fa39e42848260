"""In-context classification through the command line: from a spec to SQL, and on after a kill in the middle of round 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.errors import SpecError
from runner.spec import compile_text

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/agents"), str(ROOT / "tests/chat")]

from circle_server import Watch, colour_of  # noqa: E402
from fault_server import serving  # noqa: E402

M, T, TRAIN, TEST, AT_ONCE = 6, 3, 10, 7, 3
SPEC = """
name: circle
models:
  lmm: {{provider: openai, model: scripted, base_url: "{url}", timeout: 5, deadline: 30, concurrency: {at_once}}}
steps:
  data: {{uses: datasets.load, datasets: {{image_folder: ./shades}}}}
  named: {{uses: circle.classify, lmm: $lmm, images: $data, shots: {m}, rounds: {t}, {more}}}
results: out/results.duckdb
"""


class Answering(Watch):
    """Answers probes too, which are kept out of what is counted."""

    def __call__(self, body: dict[str, Any]) -> str:
        if "response_format" in body:
            return json.dumps({"red": "heron", "blue": "birch"})
        if "Were there any pictures?" in json.dumps(body):
            return "yes"
        return str(super().__call__(body))


def workspace(folder: Path, url: str, more: str = "probe: false") -> Path:
    """A folder with pictures in folders of classes and splits, and the spec."""
    for number in range(TRAIN + TEST):
        place = folder / "shades" / ("train" if number < TRAIN else "test") / f"class {number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), colour_of(number)).save(place / f"{number:03}.png")
    (folder / "circle.yaml").write_text(SPEC.format(url=url, m=M, t=T, at_once=AT_ONCE, more=more))
    return folder


def start(folder: Path) -> subprocess.Popen[str]:
    env = os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1", "RUNNER_OFFLINE": "1"}
    command = [sys.executable, "-m", "runner", "exec", "circle.yaml"]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said[-3000:]
    return said


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """Rows without what differs between any two runs."""
    from results.store import ResultsStore

    without = {"owc_prediction": ", ms, cached", "circle_call": ", ms, cached"}.get(table, "")
    query = f"SELECT * EXCLUDE (run_id{without}) FROM {table} ORDER BY ALL"
    return ResultsStore(folder / "out/results.duckdb").query(query).to_pylist()


@pytest.fixture
def undisturbed(tmp_path: Path) -> Path:
    with serving(answer=Answering()) as server:
        folder = workspace(tmp_path / "calm", server.base_url)
        finish(start(folder))
    return folder


def test_a_run_killed_in_round_two_goes_on_with_the_calls_that_are_missing(tmp_path: Path, undisturbed: Path) -> None:
    watch = Answering(seconds=0.3)
    with serving(answer=watch) as server:
        folder = workspace(tmp_path / "killed", server.base_url)
        process, deadline = start(folder), time.monotonic() + 120
        while sum(kind == "end" and q.round == 2 for kind, q in list(watch.events)) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        while server._at_once:
            time.sleep(0.01)
        before = list(watch.questions)
        finish(start(folder))
    after = watch.questions[len(before) :]
    assert {q.round for q in before} == {0, 1, 2} and min(q.round for q in after) == 2
    asked = Counter(watch.questions)
    assert len(asked) == M * (1 + T) + TEST  # nothing else was ever asked
    twice = [q for q, count in asked.items() if count > 1]
    assert len(twice) <= AT_ONCE and max(asked.values()) <= 2  # at most what was in flight
    for table in ("circle_context", "circle_label", "circle_call", "owc_prediction"):
        found = rows(folder, table)
        assert found == rows(undisturbed, table) and found, table


def test_a_finished_run_asks_nothing_and_the_cache_fills_another_method(tmp_path: Path) -> None:
    watch = Answering()
    with serving(answer=watch) as server:
        folder = workspace(tmp_path, server.base_url, "probe: true, query_split: test")
        finish(start(folder))
        counted = server.requests
        assert len(watch.questions) == M * (1 + T) + TEST and counted == len(watch.questions) + 2  # two probes
        finish(start(folder))
        assert server.requests == counted
        (folder / "circle.yaml").write_text(
            (folder / "circle.yaml").read_text().replace("query_split: test", "rounds_: 1")
        )
        wrong = start(folder)
        said, _ = wrong.communicate(timeout=120)
        assert wrong.returncode == 2 and "rounds_" in said and server.requests == counted
        more = "{uses: circle.stream, lmm: $lmm, images: $data, memory: 3, rounds: 1}"
        text = SPEC.format(url=server.base_url, m=M, t=0, at_once=AT_ONCE, more="probe: true")
        (folder / "circle.yaml").write_text(text.replace("results:", f"  flow: {more}\nresults:"))
        finish(start(folder))
        pseudo = [q for q in watch.questions if q.kind == "pseudo" and q.target < TRAIN]
        assert len(pseudo) == M  # T = 0 takes the pseudo-labels of T = 3 from the reply cache
    steps = {row["step"] for row in rows(folder, "owc_prediction")}
    assert steps == {"named", "flow"}
    assert {row["episode"] is None for row in rows(folder, "circle_label") if row["step"] == "flow"} == {False}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("shots: 0", "shots"),
        ("rounds: -1", "rounds"),
        ("seeds: []", "seeds"),
        ("seeds: [1, 2, 1]", "1 is given twice"),
        ("seeds: [-1]", "seeds"),
        ("method: guess", "method"),
        ("judge_wrap: no place", "judge_wrap"),
        ("judge_wrap: '{} or {}'", "judge_wrap"),
        ("max_side: 2", "max_side"),
        ("prompts: ./nowhere", "nowhere"),
        ("context_order: tree", "context_order"),
    ],
)
def test_a_wrong_parameter_is_one_problem_at_its_place(tmp_path: Path, more: str, said: str) -> None:
    text = SPEC.replace("shots: {m}, rounds: {t}, ", "").format(url="http://127.0.0.1:9/v1", at_once=1, more=more)
    (tmp_path / "shades").mkdir()
    with pytest.raises(SpecError) as caught:
        compile_text(text, "circle.yaml", tmp_path)
    (problem,) = caught.value.problems
    assert said in problem.message + str(problem.path) and problem.position.line == 7
