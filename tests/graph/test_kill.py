"""Kill a run anywhere; the same command finishes it with the rows of an undisturbed run, and repeats no finished item.

Children are forked from a server that has imported everything and started nothing, so that each costs little.
"""

import json
import multiprocessing
import os
import random
import signal
from collections import Counter

import graph_sample as sample
import pytest

from results.rebuild import check
from results.store import ResultsStore
from results.tables import step_tables
from runner.graph import Workspace

SPEC = sample.MATRIX
TIMES = "started, seconds, created, finished, git_commit, versions, run_id"


@pytest.fixture(scope="session")
def children():
    context = multiprocessing.get_context("forkserver")
    preload = ["graph_sample", "results.store", "runner.graph.compiled", "runner.engines.local", "safetensors.numpy"]
    context.set_forkserver_preload(preload)
    return context


class Scene:
    """A folder with the spec, in which children run it."""

    def __init__(self, context, folder, pause=0.0):
        folder.mkdir(exist_ok=True)
        self.context, self.folder, self.log = context, folder, folder / "work.log"
        self.path, self.out = folder / "spec.json", folder / "out"
        self.path.write_text(json.dumps(SPEC))
        self.environment = {sample.LOG: str(self.log), sample.PAUSE: str(pause)}

    def start(self, kill_at=None, signal_number=signal.SIGKILL):
        arguments = (str(self.path), kill_at, signal_number, self.environment)
        process = self.context.Process(target=sample.child, args=arguments)
        process.start()
        return process

    def run(self, kill_at=None, signal_number=signal.SIGKILL):
        process = self.start(kill_at, signal_number)
        process.join()
        return process.exitcode

    def artifacts(self):
        return {p.parent.name: p.read_bytes() for p in (self.out / "artifacts").glob("*/manifest.json")}

    def rows(self):
        """Every table without what differs between any two runs."""
        found = {}
        runs = [r.run_id for r in Workspace(self.out).runs()]
        with ResultsStore(self.out / "results.duckdb").reading() as read:
            for table in (*step_tables(), "run_steps", "messages", "variants", "models"):
                columns = "* EXCLUDE (run_id, started, seconds)" if table == "run_steps" else "* EXCLUDE (run_id)"
                query = f"SELECT {columns} FROM {table} WHERE run_id = $run ORDER BY ALL"
                found[table] = read(query, {"run": runs[0]}).to_pylist()
            found["runs"] = read("SELECT status, name, seed, spec_text FROM runs").to_pylist()
        return found

    def data(self):
        """The bytes of all artifacts' files, manifests (which hold times) left out."""
        files = (p for p in (self.out / "artifacts").rglob("*") if p.is_file() and p.name != "manifest.json")
        return {str(p.relative_to(self.out)): p.read_bytes() for p in files}


@pytest.fixture(scope="session")
def undisturbed(children, tmp_path_factory):
    scene = Scene(children, tmp_path_factory.mktemp("undisturbed"))
    assert scene.run() == 0
    return scene


def finish(scene, undisturbed, kept):
    """Run again; then everything must be as if nothing had happened."""
    assert scene.run() == 0
    assert scene.rows() == undisturbed.rows()
    assert scene.data() == undisturbed.data()
    assert check(scene.out) == []
    now = scene.artifacts()
    assert {key: now[key] for key in kept} == kept, "a finished step was run again"
    items = Counter(line for line in scene.log.read_text().split("\n") if line.startswith("item "))
    assert max(items.values()) == 1, "a finished item was done again"
    assert list((scene.out / "partial").iterdir()) == []
    begun = [scene.out / "artifacts", scene.out, *(r.path for r in Workspace(scene.out).runs())]
    assert not [path for folder in begun for path in folder.glob(".*.tmp")]


@pytest.mark.parametrize(
    "number", [1, 7, 27, 60, *(pytest.param(n, marks=pytest.mark.large) for n in (3, 5, 6, 9, 12, 17, 40))]
)
def test_killed_at_an_fsync_or_rename(children, undisturbed, tmp_path, number):
    scene = Scene(children, tmp_path / "scene")
    assert scene.run(kill_at=number) == -signal.SIGKILL
    finish(scene, undisturbed, scene.artifacts())


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.large) for n in range(2, 10))])
def test_killed_three_times_at_random_moments(children, undisturbed, tmp_path, seed):
    """Ten runs, thirty kills: three in a row, each after a random time (two of the runs by default)."""
    chance = random.Random(seed)
    scene = Scene(children, tmp_path / "scene", pause=0.02)
    kept = {}
    for _ in range(3):
        process = scene.start()
        process.join(chance.uniform(0.0, 2.0))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        now = scene.artifacts()
        assert {key: now.get(key) for key in kept} == kept
        kept = now
    ended = [run.record()["run"]["status"] == "finished" for run in Workspace(scene.out).runs()]
    if any(ended):  # a run that ended before its kill is not continued: its successor found everything done
        assert scene.run() == 0
        assert scene.data() == undisturbed.data()
    else:
        finish(scene, undisturbed, kept)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [8, pytest.param(20, marks=pytest.mark.large)])
def test_asked_to_stop(children, undisturbed, tmp_path, number, at):
    """One signal stops cleanly: exit code 130, the run says so, and the same command goes on with the same run."""
    scene = Scene(children, tmp_path / "scene", pause=0.05)
    assert scene.run(kill_at=at, signal_number=number) == 130
    (run,) = Workspace(scene.out).runs()
    assert run.record()["run"]["status"] == "interrupted"
    assert check(scene.out) == []
    finish(scene, undisturbed, scene.artifacts())
    assert [r.run_id for r in Workspace(scene.out).runs()] == [run.run_id]


def test_asked_twice_ends_at_once(children, tmp_path):
    """A step that does not look up from its work cannot hold back the second signal."""
    scene = Scene(children, tmp_path / "scene", pause=30)
    process = scene.start()
    while not scene.log.exists():
        process.join(0.05)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        process.join(1.0)
    process.join(10)
    assert process.exitcode == 130


def test_a_second_process_on_the_same_run_names_the_first(children, tmp_path):
    scene = Scene(children, tmp_path / "scene", pause=0.3)
    first = scene.start()
    while not scene.log.exists():
        first.join(0.05)
    from runner.errors import ResultsBusy
    from runner.graph import execute

    spec = sample.compile_sample(scene.path.read_text(), str(scene.path), scene.folder)
    with pytest.raises(ResultsBusy, match=f"process {first.pid}"):
        execute(spec, Workspace(scene.out), ResultsStore(spec.results))
    first.join()
    assert first.exitcode == 0


def test_two_runs_side_by_side_share_their_steps(children, tmp_path):
    """Two specs with equal steps in one workspace: each step runs in one of them, the other takes its result."""
    scene = Scene(children, tmp_path / "scene", pause=0.05)
    first = scene.start()
    while not scene.log.exists():
        first.join(0.05)
    scene.path = scene.folder / "other.json"
    scene.path.write_text(json.dumps(SPEC | {"name": "other"}))
    assert scene.run() == 0
    first.join()
    assert first.exitcode == 0
    runs = [line for line in scene.log.read_text().split("\n") if line.startswith("run ")]
    assert len(runs) == 12
    assert check(scene.out) == []
