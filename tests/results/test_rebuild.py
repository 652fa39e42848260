"""The database is an index: what is checked against the files, and that it can be made again from them."""

import json

import pytest
from synthetic_audit import RUN, audit, write_files

from results.rebuild import check, rebuild
from results.store import ResultsStore
from results.tables import RUN_TABLES, arrow_table, step_tables
from runner.errors import ResultsError, UsageError


@pytest.fixture
def workspace(tmp_path):
    """Two runs on disk and in the database."""
    store = ResultsStore(tmp_path / "results.duckdb")
    for run_id in (RUN, "second"):
        made = audit(run_id=run_id)
        made.store(store)
        write_files(made, tmp_path)
    return tmp_path, store


def everything(store):
    with store.reading() as read:
        return {t: read(f"SELECT * FROM {t} ORDER BY ALL").to_pylist() for t in (*RUN_TABLES, *step_tables())}


def artifact(root, step):
    record = json.loads((root / "runs" / RUN / "run.json").read_text())
    return next(root / "artifacts" / row["artifact_key"] for row in record["steps"] if row["step"] == step)


def test_nothing_to_say_when_all_is_well(workspace):
    assert check(workspace[0]) == []


def test_rebuild_gives_the_same_tables(workspace):
    root, store = workspace
    before = everything(store)
    assert any(before["c2b_example"]) and any(before["llm_calls"])
    store.path.unlink()
    outcome = rebuild(root)
    assert (outcome.runs, outcome.steps, outcome.problems) == (2, 14, [])
    assert everything(store) == before
    assert check(root) == []


def test_rebuild_replaces_a_damaged_file(workspace):
    root, store = workspace
    before = everything(store)
    store.path.write_bytes(b"rubbish" * 9999)
    store.path.with_name("results.duckdb.wal").write_bytes(b"more rubbish")
    with pytest.raises(ResultsError, match="rebuild"):
        store.query("SELECT 1")
    rebuild(root)
    assert everything(store) == before


def test_a_store_goes_on_after_a_rebuild(workspace):
    """The generation grows, so that a process that was waiting does not take the new file for a stale one."""
    root, store = workspace
    rebuild(root)
    audit(run_id="third").store(store)
    assert [d.what for d in check(root)] == ["is in the database, but its run.json is gone"]


def test_missing_and_changed_rows_are_found(workspace):
    root, store = workspace
    made = audit()
    store.replace_step(RUN, "", "captions", {})
    changed = made.tables("truth")["c2b_truth"].to_pylist()
    changed[0]["agreement"] = "tampered"
    store.replace_step(RUN, "", "truth", {"c2b_truth": arrow_table("c2b_truth", changed)})
    store.replace_run({"run": {**made.run["run"], "status": "failed"}, "messages": []})
    found = {(d.step, d.table): d.what for d in check(root)}
    assert found[("captions", "c2b_caption")].startswith("0 rows in the database, 23 in the files")
    assert found[("truth", "c2b_truth")] == "the rows differ from those in the files"
    assert found[("", "runs")] == "the rows differ from those in the files"
    assert found[("", "messages")].startswith("0 rows in the database, 2")
    assert len(found) == 4
    rebuild(root)
    assert check(root) == []


def test_a_flipped_byte_in_an_artifact_is_named_and_left_out(workspace):
    root, store = workspace
    path = artifact(root, "truth") / "field_c2b_truth.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    (difference,) = check(root)
    assert (difference.step, difference.table) == ("truth", "c2b_truth")
    assert "does not match the hash" in str(difference)
    assert rebuild(root).problems == [difference]
    sql = "SELECT count(*) AS n FROM c2b_truth WHERE run_id = $r"
    assert store.query(sql, {"r": RUN}).to_pylist() == [{"n": 0}]
    assert store.query(sql, {"r": "second"}).to_pylist() == [{"n": 19}]


def test_a_lost_artifact_and_a_broken_run_are_named(workspace):
    root, _ = workspace
    (artifact(root, "stability") / "manifest.json").unlink()
    (root / "runs" / "second" / "run.json").write_text("{")
    found = {(d.run_id, d.step): d.what for d in check(root)}
    assert found.keys() == {(RUN, "stability"), ("second", "")}
    assert "cannot be read" in found[RUN, "stability"]
    assert "run.json cannot be read" in found["second", ""]


def test_a_torn_last_line_is_no_problem_and_another_is(workspace):
    root, _ = workspace
    path = root / "runs" / RUN / "messages.jsonl"
    lines = path.read_text()
    path.write_text(lines + '{"step": "imag')
    assert check(root) == []
    path.write_text('{"step\n' + lines)
    assert [d.what for d in check(root)] == ["messages.jsonl, line 1 is damaged"]


def test_a_manifest_cannot_point_outside_its_folder(workspace, tmp_path):
    root, _ = workspace
    manifest = artifact(root, "truth") / "manifest.json"
    content = json.loads(manifest.read_text())
    content["outputs"]["field_c2b_truth"]["file"] = "../../secret.parquet"
    manifest.write_text(json.dumps(content))
    (tmp_path / "secret.parquet").write_text("x")
    assert [(d.step, d.table) for d in check(root)] == [("truth", "c2b_truth")]


def test_rebuild_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no runs"):
        rebuild(tmp_path)
