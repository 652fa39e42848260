"""Runs: rows, caching, failures, questions, budgets, damage, and going on after all of them."""

import json
import os

import graph_sample as sample
import pytest

from results.rebuild import check
from results.store import ResultsStore
from runner.errors import DataError, ResultsError, UsageError
from runner.graph import ArtifactStore, execute, make_plan, resume_run
from runner.graph.stop import StopSwitch

CHAIN = {
    "name": "chain",
    "steps": {
        "a": {"uses": "sample.numbers", "count": 3},
        "b": {"uses": "sample.scaled", "numbers": "$a"},
        "c": {"uses": "sample.total", "parts": ["$a", "$b"]},
    },
}
REVIEW = {
    "name": "review",
    "steps": {
        "a": {"uses": "sample.numbers", "count": 3},
        "think": {"uses": "sample.agent", "numbers": "$a", "review": True},
        "after": {"uses": "sample.scaled", "numbers": "$think"},
    },
}


@pytest.fixture
def run(tmp_path, workspace):
    """Runs a sample spec with the real results database; the outcome comes back."""

    def executed(spec, **options):
        compiled = sample.sample_spec(tmp_path, spec)
        return execute(compiled, workspace, ResultsStore(compiled.results), device="cpu", **options)

    return executed


@pytest.fixture
def query(workspace):
    return lambda sql: ResultsStore(workspace.root / "results.duckdb").query(sql).to_pylist()


def statuses(workspace, outcome):
    rows = workspace.run(outcome.run_id).record()["steps"]
    return {(row["variant"], row["step"]): row["status"] for row in rows}


def node_key(tmp_path, workspace, spec, step):
    plan = make_plan(sample.sample_spec(tmp_path, spec), workspace)
    return next(node.key for node in plan.nodes if node.first.step == step)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_rows_reach_the_database_under_run_variant_and_step(run, query, workspace):
    outcome = run(CHAIN)
    assert (outcome.status, outcome.exit_code) == ("finished", 0)
    rows = query("SELECT step, metric, value FROM encoder_score ORDER BY ALL")
    assert [(r["step"], r["metric"], r["value"]) for r in rows] == [
        (step, f"m{i}", factor * i) for step, factor in (("a", 1), ("b", 2), ("c", 3)) for i in range(3)
    ]
    (row,) = query("SELECT * FROM runs")
    assert row["status"] == "finished" and row["device"] == "cpu" and row["spec_text"] == json.dumps(CHAIN)
    assert json.loads(row["versions"])["pyarrow"] and row["created"] <= row["finished"]
    assert check(workspace.root) == []


def test_a_sweep_runs_shared_steps_once_and_stores_their_rows_under_each_variant(run, query, counted, workspace):
    run(sample.MATRIX)
    assert len([line for line in counted() if line.startswith("run ")]) == 12
    rows = query("SELECT variant, step, count(*) AS n FROM encoder_score GROUP BY ALL")
    assert len(rows) == 16
    shared = query("SELECT variant, value FROM encoder_score WHERE step = 'think' ORDER BY ALL")
    assert [r["value"] for r in shared[:6]] == [r["value"] for r in shared[6:]]
    assert query("SELECT params->>'by' AS x FROM variants ORDER BY x") == [{"x": "2.0"}, {"x": "3.0"}]
    assert {r["model"] for r in query("SELECT model FROM models")} == {"scale"}


def test_models_are_loaded_once_and_closed(run, counted):
    run(sample.MATRIX)
    assert [line for line in counted() if line in ("load", "unload")] == ["load", "unload"]


def test_linked_models_get_models_and_outputs(run, query):
    models = {
        "base": {"provider": "sample_scale", "factor": 3.0},
        "top": {"provider": "sample_scale", "factor": 2.0, "base": "$base", "head": "$fit.weights"},
    }
    steps = {
        "n": {"uses": "sample.numbers", "count": 3},
        "fit": {"uses": "sample.everything", "numbers": "$n"},
        "use": {"uses": "sample.scaled", "numbers": "$n", "by": "$top"},
    }
    run({"name": "links", "models": models, "steps": steps})
    rows = query("SELECT value FROM encoder_score WHERE step = 'use' ORDER BY metric")
    assert [r["value"] for r in rows] == [0.0, 9.0, 18.0]  # (2 * 3 + (0 + 1 + 2)) * n


def test_a_second_run_does_nothing_again_and_has_all_rows(run, query, counted, workspace):
    first, before = run(sample.MATRIX), counted()
    second = run(sample.MATRIX)
    assert [line for line in counted() if line != "load"] == [line for line in before if line != "load"]
    assert first.run_id != second.run_id and second.counts["cached"] == 16 and second.counts["done"] == 0
    for table in ("encoder_score", "messages"):
        difference = query(
            f"SELECT * EXCLUDE (run_id) FROM {table} WHERE run_id = '{first.run_id}' EXCEPT ALL "
            f"SELECT * EXCLUDE (run_id) FROM {table} WHERE run_id = '{second.run_id}'"
        )
        assert difference == []
    assert check(workspace.root) == []


def test_two_workspaces_hold_the_same_bytes(tmp_path):
    from runner.graph import Workspace

    found = []
    for name in ("one", "two"):
        workspace = Workspace(tmp_path / name).create()
        spec = sample.sample_spec(tmp_path, sample.MATRIX)
        execute(spec, workspace, ResultsStore(workspace.root / "results.duckdb"))
        files = sorted(workspace.artifacts.glob("*/*.parquet")) + sorted(workspace.artifacts.glob("*/*.safetensors"))
        found.append({str(f.relative_to(workspace.root)): f.read_bytes() for f in files})
        workspace.close()
    assert found[0] == found[1] and len(found[0]) > 12


def test_another_seed_gives_other_rows(run, query):
    for seed in (0, 1):
        run(sample.MATRIX | {"seed": seed})
    rows = query("SELECT DISTINCT value FROM encoder_score WHERE step = 'noise'")
    assert len(rows) == 12


# --- failures --------------------------------------------------------------------------------------------------------

BRANCHES = {
    "name": "branches",
    "steps": {
        "a": {"uses": "sample.numbers", "count": 2},
        "bad": {"uses": "sample.total", "parts": ["$a"]},
        "after_bad": {"uses": "sample.scaled", "numbers": "$bad"},
        "b": {"uses": "sample.scaled", "numbers": "$a"},
        "c": {"uses": "sample.scaled", "numbers": "$b", "by": 3.0},
    },
}


def test_a_failed_step_stops_only_what_depends_on_it(run, workspace, monkeypatch, query):
    monkeypatch.setenv(sample.FAIL, "bad")
    outcome = run(BRANCHES)
    assert (outcome.status, outcome.exit_code) == ("failed", 1)
    assert statuses(workspace, outcome) == {
        ("", "a"): "done",
        ("", "b"): "done",
        ("", "c"): "done",
        ("", "bad"): "failed",
    }
    assert outcome.counts["not_run"] == 1
    (error,) = outcome.errors
    assert error.step == "bad" and error.position.line == 2
    assert "step 'bad' (spec.json:2:1): ValueError: told to fail" in str(error)
    assert "told to fail" in (outcome.folder / "errors.log").read_text()
    assert "told to fail" in query("SELECT error FROM run_steps WHERE step = 'bad'")[0]["error"]
    assert outcome.lines()[-1] == f"to go on: runner exec {workspace.root.parent / 'spec.json'}"


def test_the_same_command_goes_on_with_a_failed_run(run, workspace, monkeypatch, counted):
    monkeypatch.setenv(sample.FAIL, "bad")
    first = run(BRANCHES)
    monkeypatch.delenv(sample.FAIL)
    second = run(BRANCHES)
    assert (second.run_id, second.status) == (first.run_id, "finished")
    assert sorted(line for line in counted() if line.startswith("run ")) == [
        "run a", "run after_bad", "run b", "run bad", "run bad", "run c",
    ]  # fmt: skip
    assert set(statuses(workspace, second).values()) == {"done"}
    assert check(workspace.root) == []


def test_fail_fast_stops_everything(run, monkeypatch):
    monkeypatch.setenv(sample.FAIL, "bad")
    outcome = run(BRANCHES, fail_fast=True)
    assert outcome.status == "failed" and outcome.counts["not_run"] >= 2


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("class", "must return Numbers, but returned int"),
        ("column", "table encoder_score: the step's table lacks column value"),
        ("extra", "the table has no column valeu, which the step returned"),
        ("type", "column value: expected double, found string"),
        ("null", "column head: 1 of 1 values are NULL"),
        ("value", "output 'values' at 0: Input should be a valid number"),
        ("table", "output 'scores': expected a pyarrow Table, found list"),
        ("raise", "the data is bad"),
    ],
)
def test_what_is_wrong_with_a_step_is_said_with_its_name_and_place(run, workspace, how, says):
    outcome = run({"name": "wrong", "steps": {"w": {"uses": "sample.wrong", "how": how}}})
    assert outcome.status == "failed"
    assert str(outcome.errors[0]).startswith("step 'w' (spec.json:1:1): ")
    assert says in outcome.errors[0].message
    assert list(workspace.artifacts.iterdir()) == []
    assert (outcome.errors[0].hint == "bring better data") == (how == "raise")


def test_failed_items_make_a_partial_run_that_can_be_tried_again(run, workspace, monkeypatch, query, counted):
    monkeypatch.setenv("SAMPLE_FAILED_ITEM", "3.0")
    spec = CHAIN | {"steps": CHAIN["steps"] | {"d": {"uses": "sample.scaled", "numbers": "$c"}}}
    first = run(spec)
    assert (first.status, first.exit_code, first.counts["failed_items"]) == ("partial", 3, 1)
    again = run(spec)
    assert (again.status, again.run_id != first.run_id) == ("partial", True)
    failed = query(f"SELECT step, item, text FROM messages WHERE run_id = '{again.run_id}'")
    assert failed == [{"step": "c", "item": "item 1", "text": "told to fail"}]
    monkeypatch.delenv("SAMPLE_FAILED_ITEM")
    before = len(counted())
    third = run(spec, retry_failed=True)
    assert third.status == "finished"
    assert counted()[before:] == ["run c", "run d"]
    assert check(workspace.root) == [] or all(d.run_id != third.run_id for d in check(workspace.root))


def test_a_results_database_that_fails_stops_the_run_and_the_next_attempt_repairs_it(run, tmp_path, workspace, counted):
    class Full:
        def replace_run(self, run_json):
            pass

        def replace_steps(self, run_id, steps):
            raise ResultsError("the disk is full")

    spec = sample.sample_spec(tmp_path, CHAIN)
    with pytest.raises(ResultsError, match="the disk is full"):
        execute(spec, workspace, Full())
    done = len(counted())
    outcome = run(CHAIN)
    assert outcome.status == "finished" and check(workspace.root) == []
    assert len(set(counted()[done:]) & set(counted()[:done])) == 0


# --- questions -------------------------------------------------------------------------------------------------------


def test_a_question_waits_and_the_answer_goes_on(run, workspace, tmp_path, counted, query):
    outcome = run(REVIEW)
    assert (outcome.status, outcome.exit_code) == ("waiting", 4)
    (question,) = workspace.run(outcome.run_id).record()["questions"]
    assert (question["step"], question["question"]) == ("think", {"proposals": [100.0, 101.0, 102.0]})
    assert statuses(workspace, outcome)["", "think"] == "waiting"
    again = run(REVIEW)
    assert (again.run_id, again.status) == (outcome.run_id, "waiting")
    done = resume_run(workspace, outcome.run_id, 1000, compile=sample.compile_sample)
    assert (done.run_id, done.status, done.questions) == (outcome.run_id, "finished", ())
    rows = query("SELECT value FROM encoder_score WHERE step = 'after' ORDER BY value")
    assert [r["value"] for r in rows] == [2200.0, 2202.0, 2204.0]
    assert len([line for line in counted() if line.startswith('item ["agent')]) == 3
    assert check(workspace.root) == []


def test_only_a_waiting_run_takes_an_answer(run, workspace):
    outcome = run(CHAIN)
    with pytest.raises(UsageError, match="does not wait for an answer; it is finished"):
        resume_run(workspace, outcome.run_id, 1, compile=sample.compile_sample)
    with pytest.raises(UsageError, match="no run 'nonsense'"):
        resume_run(workspace, "nonsense", 1)
    with pytest.raises(UsageError, match=r"no run '\.\./x'"):
        resume_run(workspace, "../x", 1)


def test_several_questions_are_answered_by_step(run, workspace, query):
    steps = {
        "a": {"uses": "sample.numbers", "count": 1},
        "p": {"uses": "sample.agent", "numbers": "$a", "review": True},
        "b": {"uses": "sample.numbers", "count": 2},
        "q": {"uses": "sample.agent", "numbers": "$b", "review": True},
    }
    outcome = run({"name": "two", "steps": steps})
    assert len(outcome.questions) == 2
    with pytest.raises(UsageError, match="asks 2 questions") as caught:
        resume_run(workspace, outcome.run_id, 5, compile=sample.compile_sample)
    assert "answer by step: p, q" in str(caught.value)
    half = resume_run(workspace, outcome.run_id, {"q": 5}, compile=sample.compile_sample)
    assert half.status == "waiting" and [q["step"] for q in half.questions] == ["p"]
    done = resume_run(workspace, outcome.run_id, 7, compile=sample.compile_sample)
    assert done.status == "finished"
    rows = query("SELECT step, value FROM encoder_score WHERE step IN ('p', 'q') ORDER BY ALL")
    assert [(r["step"], r["value"]) for r in rows] == [("p", 107.0), ("q", 105.0), ("q", 106.0)]


def test_an_answer_is_refused_when_the_inputs_changed(run, workspace, tmp_path):
    (tmp_path / "words.txt").write_text("one")
    spec = REVIEW | {
        "steps": REVIEW["steps"] | {"e": {"uses": "sample.everything", "numbers": "$a", "path": "words.txt"}}
    }
    outcome = run(spec)
    (tmp_path / "words.txt").write_text("two")
    with pytest.raises(UsageError, match="have changed since"):
        resume_run(workspace, outcome.run_id, 1, compile=sample.compile_sample)
    assert run(spec).run_id != outcome.run_id


# --- stopping --------------------------------------------------------------------------------------------------------


class StopAfter(StopSwitch):
    """Turns itself at the n-th question."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def check(self):
        self.left -= 1
        if self.left == 0:
            self.request()
        super().check()


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 11, 14])
def test_a_stopped_run_goes_on(run, workspace, counted, number):
    outcome = run(sample.MATRIX, stop=StopAfter(number))
    assert (outcome.status, outcome.exit_code) == ("interrupted", 130)
    assert outcome.lines()[-1].startswith("to go on: runner exec ")
    done = run(sample.MATRIX)
    assert (done.run_id, done.status) == (outcome.run_id, "finished")
    items = [line for line in counted() if line.startswith("item ")]
    assert len(items) == len(set(items)) == 12
    assert check(workspace.root) == []


def test_minutes_are_counted_over_all_attempts(run):
    outcome = run(CHAIN | {"budget": {"minutes": 0}})
    assert outcome.status == "failed"
    assert "budget.minutes" in outcome.errors[0].message


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scores.parquet", "values.json", "manifest.json"])
def test_a_damaged_artifact_is_made_again(run, workspace, tmp_path, counted, query, name):
    first = run(CHAIN)
    path = ArtifactStore(workspace).folder(node_key(tmp_path, workspace, CHAIN, "b")) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    before = len(counted())
    second = run(CHAIN)
    assert second.status == "finished"
    assert counted()[before:] == ["run b"]
    assert check(workspace.root) == []
    rows = f"SELECT * EXCLUDE (run_id) FROM encoder_score WHERE run_id = '{first.run_id}'"
    assert query(f"{rows} EXCEPT ALL {rows.replace(first.run_id, second.run_id)}") == []


def test_an_input_that_is_damaged_under_way_is_made_again(run, workspace, tmp_path, counted, monkeypatch):
    """The arrays of ``all`` are spoilt after its rows were taken over and before ``pick`` reads them."""
    spec = {"name": "late", "steps": {k: v for k, v in sample.MATRIX["steps"].items() if k in ("base", "all", "pick")}}
    spec["steps"]["all"] = {"uses": "sample.everything", "numbers": "$base"}
    spoilt = []

    def spoiling(self, key):
        if (self.folder(key) / "weights.safetensors").exists() and not spoilt:
            path = self.folder(key) / "weights.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
            spoilt.append(key)
        return original(self, key)

    original = ArtifactStore.tables
    monkeypatch.setattr(ArtifactStore, "tables", spoiling)
    outcome = run(spec)
    assert spoilt and outcome.status == "finished"
    assert [line for line in counted() if line.startswith("run ")] == ["run base", "run all", "run all", "run pick"]


@pytest.mark.parametrize("name", ["checkpoints.sqlite", "messages.jsonl", "plan.json", "run.json"])
def test_a_damaged_run_folder_does_not_matter(run, workspace, monkeypatch, name):
    monkeypatch.setenv(sample.FAIL, "join")
    first = run(sample.MATRIX)
    (first.folder / name).write_bytes(b"{ damaged" * 100)
    monkeypatch.delenv(sample.FAIL)
    second = run(sample.MATRIX)
    assert second.status == "finished"
    assert (second.run_id == first.run_id) == (name != "run.json")


def test_a_torn_journal_line_is_left_out(run, workspace, monkeypatch, query):
    monkeypatch.setenv(sample.FAIL, "join")
    first = run(sample.MATRIX)
    with (first.folder / "llm_calls.jsonl").open("a") as file:
        file.write('{"call_id": "to')
    monkeypatch.delenv(sample.FAIL)
    run(sample.MATRIX)
    assert query("SELECT count(*) AS n FROM llm_calls") == [{"n": 0}]
    assert query("SELECT count(*) AS n FROM messages") == [{"n": 1}]


def test_a_missing_input_is_said_before_anything_runs(run, tmp_path, counted):
    spec = CHAIN | {"steps": CHAIN["steps"] | {"e": {"uses": "sample.everything", "numbers": "$a", "path": "gone.txt"}}}
    with pytest.raises(DataError, match=r"gone\.txt"):
        run(spec)
    assert counted() == []


def test_the_run_knows_the_commit_of_its_spec(run, tmp_path, query):
    git = f"git -C {tmp_path} -c user.name=x -c user.email=x@x"
    (tmp_path / "f").write_text("1")
    assert os.system(f"git init -q {tmp_path} && {git} add f && {git} commit -q -m x") == 0
    first = run(CHAIN)
    (tmp_path / "f").write_text("2")
    second = run(CHAIN)
    commits = {r["run_id"]: r["git_commit"] for r in query("SELECT run_id, git_commit FROM runs")}
    assert len(commits[first.run_id]) == 40 and commits[second.run_id] == commits[first.run_id] + "+"
