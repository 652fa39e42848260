"""Episodes through the command line: the published layout on disk, a model on loopback, and on after a kill in the middle of episodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/agents"), str(ROOT / "tests/chat"), str(ROOT / "tests/nodes/proactive")]

from fault_server import serving  # noqa: E402
from material import record  # noqa: E402
from proactive_server import Player, alone, make_samples, numbers_of, scrambled, write_release  # noqa: E402

from runner.nodes.proactive.records import SCENARIOS  # noqa: E402
from runner.nodes.proactive.samples import cases_of  # noqa: E402

AT_ONCE = 3
SPEC = """
name: proactive
models:
  seer: {{provider: openai, model: seer, base_url: "{url}", timeout: 5, deadline: 30, concurrency: {at_once}}}
steps:
  data: {{uses: proactive.load, root: ./test}}
  played: {{uses: proactive.evaluate, model: $seer, samples: $data, label: seer}}
  scores: {{uses: proactive.score, samples: $data, episodes: [$played]}}
results: out/results.duckdb
"""
RECORDS = [record(scenario, number, n=5) for scenario in SCENARIOS for number in (1, 2)]


def start(folder: Path) -> subprocess.Popen[str]:
    env = os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1", "RUNNER_OFFLINE": "1"}
    command = [sys.executable, "-m", "runner", "exec", "proactive.yaml"]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said[-3000:]
    return said


def rows(folder: Path, query: str) -> list[dict[str, Any]]:
    from results.store import ResultsStore

    return ResultsStore(folder / "out/results.duckdb").query(query).to_pylist()


@pytest.mark.large
def test_a_run_killed_in_the_middle_of_episodes_goes_on_with_the_questions_that_are_missing(tmp_path: Path) -> None:
    write_release(tmp_path / "test", RECORDS)
    player = Player(scrambled, seconds=0.1)
    with serving(answer=player) as server:
        (tmp_path / "proactive.yaml").write_text(SPEC.format(url=server.base_url, at_once=AT_ONCE))
        process, deadline = start(tmp_path), time.monotonic() + 120
        while player.ended < len(RECORDS) + 4:  # the second turn is under way
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        while server._at_once:
            time.sleep(0.01)
        player.seconds, before = 0.0, len(player.bodies)
        finish(start(tmp_path))
        asked = Counter(str(body["messages"]) for body in player.bodies)
        assert len(asked) == len(player.distinct) > before  # the kill came before the end
        assert max(asked.values()) <= 2 and sum(n > 1 for n in asked.values()) <= AT_ONCE  # at most what was in flight
        counted = server.requests
        finish(start(tmp_path))
        assert server.requests == counted
    samples = make_samples(tmp_path / "again", RECORDS)
    numbers = numbers_of(samples)
    expected = {
        f"{case.record.scenario}/{case.record.sample_id}": alone(case, scrambled, numbers) for case in cases_of(samples)
    }
    found = rows(tmp_path, "SELECT DISTINCT episode_id, stop_reason, success, turns FROM pb_episodes")
    assert {row["episode_id"]: (row["turns"], row["stop_reason"], row["success"]) for row in found} == {
        name: (len(turns), reason, success) for name, (turns, reason, success) in expected.items()
    }
    accuracy = "SELECT scenario, 100 * avg(p_success) AS acc, avg(turns - 1) AS psr FROM pb_episodes WHERE status = 'ok' GROUP BY 1"
    [macro] = rows(tmp_path, f"SELECT avg(acc) AS acc, avg(psr) AS psr FROM ({accuracy})")
    told = rows(
        tmp_path, "SELECT DISTINCT metric, value FROM pb_metrics WHERE scenario = 'macro' AND metric IN ('acc', 'psr')"
    )
    assert {row["metric"]: round(row["value"], 9) for row in told} == {
        name: round(value, 9) for name, value in macro.items()
    }
