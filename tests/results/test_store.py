"""Replacing, querying, exporting; what is refused and how it is said."""

import json

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_audit import RUN, audit
from synthetic_debias import store_debias
from synthetic_heads import store_heads
from synthetic_leakage import store_leakage
from synthetic_lvlm import store_lvlm
from synthetic_openworld import experiment
from synthetic_proactive import store_proactive

from results import database
from results.store import ResultsStore
from results.tables import RUN_TABLES, arrow_schema, arrow_table, schema_text, step_tables, tables
from runner.errors import ResultsBusy, ResultsError, UsageError


def count(store, table):
    return store.query(f"SELECT count(*) AS n FROM {table}").to_pylist()[0]["n"]


def gate(**row):
    return {"c2b_gate": arrow_table("c2b_gate", [{"n": 1, "k": 1, "chance": 0.5, **row}])}


def test_what_is_written_comes_back(store):
    """Every row of every table, in order, with lists, JSON, bytes and NULLs."""
    made = audit()
    made.store(store)
    for step in made.steps:
        for name, table in made.tables(step).items():
            own = ", ".join(c.name for c in tables()[name].own_columns)
            found = store.query(f"SELECT {own} FROM {name} WHERE step = $step", {"step": step})
            assert found.to_pylist() == table.to_pylist(), name


def everything(store):
    with store.reading() as read:
        return {name: read(f"SELECT * FROM {name}").to_pylist() for name in tables() if name != "meta"}


def test_writing_again_changes_nothing(store):
    """Re-running replaces, never doubles."""
    audit().store(store)
    before = everything(store)
    audit().store(store)
    assert everything(store) == before


def test_a_step_that_writes_less_leaves_nothing_behind(store):
    """Rows of tables that the step no longer fills go as well; other steps, variants and runs are untouched."""
    for place in (("a", "", "s"), ("a", "", "t"), ("a", "k=1", "s"), ("b", "", "s")):
        store.replace_step(*place, gate())
    store.replace_step("a", "", "s", {"corpus_source": arrow_table("corpus_source", [])})
    left = store.query("SELECT run_id, variant, step FROM c2b_gate ORDER BY ALL").to_pylist()
    assert [tuple(row.values()) for row in left] == [("a", "", "t"), ("a", "k=1", "s"), ("b", "", "s")]


def test_lists_that_are_not_given_stay(store):
    made = audit()
    store.replace_run(made.run)
    store.replace_run({"run": {**made.run["run"], "status": "finished"}, "messages": []})
    assert store.query("SELECT status FROM runs").to_pylist() == [{"status": "finished"}]
    assert count(store, "llm_calls") == 6
    assert count(store, "messages") == 0


def test_delete_run_removes_all_of_it_and_nothing_else(store):
    audit().store(store)
    audit(run_id="other").store(store)
    store.delete_run(RUN)
    with store.reading() as read:
        for name in (*RUN_TABLES, *step_tables()):
            assert read(f"SELECT run_id FROM {name} WHERE run_id = '{RUN}'").num_rows == 0
    assert count(store, "runs") == 1
    assert count(store, "c2b_group") == len(audit().steps["verdict"]["c2b_group"])


def test_time_stamps_become_utc(store):
    run = audit().run
    store.replace_run({"run": {**run["run"], "created": "2026-11-20T12:15:00+02:00"}})
    assert store.query("SELECT created::VARCHAR AS c FROM runs").to_pylist() == [{"c": "2026-11-20 10:15:00"}]


def test_columns_go_by_name_not_by_position(store):
    table = arrow_table("c2b_gate", [{"n": 7, "k": 3, "chance": 0.25}]).select(["chance", "k", "n"])
    store.replace_step("r", "", "s", {"c2b_gate": table})
    assert store.query("SELECT n, k, chance, target FROM c2b_gate").to_pylist() == [
        {"n": 7, "k": 3, "chance": 0.25, "target": None}
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"c2b_gat": pa.table({"n": [1]})}, "did you mean 'c2b_gate'"),
        ({"c2b_gate": pa.table({"n": [1], "k": [1], "chanse": [0.5]})}, "did you mean 'chance'"),
        ({"c2b_gate": pa.table({"n": [1], "k": [1]})}, "column chance must not be NULL"),
        ({"c2b_gate": pa.table({"n": ["many"], "k": [1], "chance": [0.5]})}, "column n must be int64"),
        ({"c2b_gate": pa.table({"n": [1.5], "k": [1], "chance": [0.5]})}, "column n must be int64"),
        ({"runs": arrow_table("runs", [])}, "not filled by steps"),
    ],
)
def test_tables_that_do_not_fit_are_refused_and_change_nothing(store, content, said):
    store.replace_step("r", "", "s", gate())
    with pytest.raises(ResultsError, match=said):
        store.replace_step("r", "", "s", content)
    assert count(store, "c2b_gate") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": {"name": "x"}}, "names no run"),
        ({"run": {"run_id": "r"}}, "column name must not be NULL"),
        ({"messages": [{"level": "x", "txt": "y"}]}, "did you mean 'text'"),
        ({"llm_calls": [{"call_id": 1}]}, "must not be NULL"),
        ({"run": {**audit().run["run"], "created": "yesterday"}}, "yesterday"),
        ({"run": {**audit().run["run"], "overrides": "{not json"}}, "overrides|JSON"),
    ],
)
def test_rows_that_do_not_fit_are_refused(store, change, said):
    with pytest.raises(ResultsError, match=said):
        store.replace_run({**audit().run, **change})


def test_query_only_reads(store, tmp_path):
    """SQL from a person can neither change the file nor see other files."""
    audit().store(store)
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (
        "DELETE FROM runs", "DROP TABLE runs", "INSERT INTO runs SELECT * FROM runs", f"COPY runs TO '{tmp_path}/out.csv'",
        f"SELECT * FROM '{secret}'", f"SELECT * FROM read_csv('{secret}')", f"ATTACH '{tmp_path}/x.duckdb'",
        "SET enable_external_access = true", "INSTALL httpfs", "SELECT * FROM store", f"SELECT * FROM glob('{tmp_path}/*')",
        f"EXPORT DATABASE '{tmp_path}/dump'",
    ):  # fmt: skip
        with pytest.raises(UsageError):
            store.query(sql)
    assert {p.name for p in tmp_path.iterdir()} == {
        "secret.csv", "results.duckdb", "results.duckdb.lock", "results.duckdb.generation",
    }  # fmt: skip
    assert count(store, "runs") == 1


def test_a_failed_query_does_not_keep_the_file(store):
    """The exception is alive while the next writer connects."""
    audit().store(store)
    with pytest.raises(UsageError) as kept:
        store.query("SELECT nme FROM runs")
    store.replace_step("r", "", "s", gate())
    assert kept.value.exit_code == 2


def test_numpy_scalars_bind(store):
    audit().store(store)
    assert store.query("SELECT $a + 1 AS b", {"a": np.int64(2)}).to_pylist() == [{"b": 3}]
    assert store.query("SELECT ? AS b", [np.float32(0.5)]).to_pylist() == [{"b": 0.5}]


def test_reading_before_anything_was_written(store):
    with pytest.raises(UsageError, match="no results file"):
        store.query("SELECT 1")


def test_one_reading_sees_one_commit(store):
    audit().store(store)
    with store.reading() as read:
        assert read("SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 1}]
        hasty = ResultsStore(store.path, timeout=0.05)
        with pytest.raises(ResultsBusy, match="is in use by process"):
            hasty.delete_run(RUN)


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_export(store, tmp_path, format):
    audit().store(store)
    path = tmp_path / f"out.{format}"
    store.export("SELECT target, bias_values, resample FROM c2b_attribute ORDER BY ALL LIMIT 2", path, format)
    if format == "csv":
        assert path.read_text().splitlines() == [
            '"target","bias_values","resample"',
            '"cat","[""cat"", ""dog""]",0',
            '"cat","[""dark"", ""bright"", ""overcast""]",0',
        ]
    elif format == "json":
        assert json.loads(path.read_text())[0] == {"target": "cat", "bias_values": ["cat", "dog"], "resample": 0}
    else:
        assert pq.read_table(path).to_pylist()[0]["bias_values"] == ["cat", "dog"]


def test_export_of_awkward_values(store, tmp_path):
    audit().store(store)
    sql = "SELECT 'nan'::DOUBLE AS a, 3::HUGEINT AS b, 'x'::BLOB AS c, TIMESTAMP '2026-01-02' AS d, {'k': [1]} AS e"
    store.export(sql, tmp_path / "o.json", "json")
    assert json.loads((tmp_path / "o.json").read_text()) == [
        {"a": None, "b": 3, "c": "eA==", "d": "2026-01-02T00:00:00", "e": {"k": [1]}}
    ]
    store.export(sql, tmp_path / "o.csv", "csv")
    with pytest.raises(UsageError, match="unknown format"):
        store.export(sql, tmp_path / "o.xml", "xml")
    with pytest.raises(UsageError, match="cannot write"):
        store.export(sql, tmp_path / "no" / "o.csv", "csv")


def test_foreign_files_are_left_alone(tmp_path):
    text = tmp_path / "a.duckdb"
    text.write_text("not a database" * 1000)
    other = tmp_path / "b.duckdb"
    with duckdb.connect(other) as connection:
        connection.execute("CREATE TABLE mine (a INT)").fetchall()
    for path, said in ((text, "cannot be opened"), (other, "not one of runner")):
        before = path.read_bytes()
        with pytest.raises(ResultsError, match=said):
            ResultsStore(path).delete_run("x")
        with pytest.raises(ResultsError, match=said):
            ResultsStore(path).query("SELECT 1")
        assert path.read_bytes() == before


def test_a_newer_file_is_refused(store):
    store.create()
    with duckdb.connect(store.path) as connection:
        connection.execute("UPDATE meta SET schema_version = 99").fetchall()
    with pytest.raises(ResultsError, match="newer runner"):
        store.query("SELECT 1")
    with pytest.raises(ResultsError, match="newer runner"):
        store.delete_run("x")


def test_an_older_file_grows_and_keeps_its_rows(store):
    """A file that lacks a table, a column and the views gets them on the first read or write."""
    audit().store(store)
    with duckdb.connect(store.path) as connection:
        for view in reversed(database.views()):
            connection.execute(f"DROP VIEW {view.name}").fetchall()
        connection.execute("DROP TABLE c2b_stability").fetchall()
        connection.execute("ALTER TABLE c2b_gate DROP COLUMN chance").fetchall()
        connection.execute("ALTER TABLE runs DROP COLUMN error").fetchall()
        connection.execute("UPDATE meta SET schema_sha256 = 'old'").fetchall()
    fresh = ResultsStore(store.path)
    assert count(fresh, "c2b_stability") == 0
    assert count(fresh, "runs_overview") == 1
    assert fresh.query("SELECT DISTINCT chance FROM c2b_gate").to_pylist() == [{"chance": None}]
    audit(run_id="next").store(fresh)
    assert fresh.query("SELECT count(chance) AS n FROM c2b_gate").to_pylist() == [{"n": 4}]


def test_an_empty_file_counts_as_none(store):
    store.path.touch()
    store.create()
    assert count(store, "runs") == 0


def test_a_log_of_a_deleted_file_is_not_replayed(store):
    store.create()
    store.path.unlink()
    store.path.with_name("results.duckdb.wal").write_bytes(b"left over")
    audit().store(store)
    assert count(store, "runs") == 1


def test_an_old_copy_put_in_place_is_noticed(store):
    """The second belt: a database below the generation beside it misses commits."""
    store.create()
    old = store.path.read_bytes()
    audit().store(store)
    store.path.write_bytes(old)
    with pytest.raises(ResultsError, match="older than its last commit"):
        store.replace_step("r", "", "s", gate())


def test_schema_text_and_database_agree(store):
    """Types, NULLs and comments in the database are those of schema.sql run as it stands."""
    store.create()
    columns = """SELECT table_name, column_name, data_type, is_nullable, column_index FROM duckdb_columns()
                 WHERE NOT internal AND table_name IN (SELECT table_name FROM duckdb_tables()) ORDER BY ALL"""
    with duckdb.connect() as plain:
        plain.execute(schema_text()).fetchall()
        assert store.query(columns).to_pylist() == plain.sql(columns).to_arrow_table().to_pylist()


def test_everything_is_commented(store):
    store.create()
    assert store.query("SELECT table_name FROM duckdb_tables() WHERE comment IS NULL").num_rows == 0
    assert store.query("SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL").num_rows == 0
    sql = """SELECT table_name, column_name FROM duckdb_columns() WHERE comment IS NULL AND NOT internal
             AND table_name IN (SELECT table_name FROM duckdb_tables())"""
    assert store.query(sql).num_rows == 0
    assert all(table.comment and all(c.comment for c in table.columns) for table in tables().values())


@pytest.mark.parametrize("filled", [False, True])
def test_every_view_runs(store, filled):
    store.create()
    if filled:
        audit(evidence=True).store(store)
        experiment(run_id="experiment").store(store)
        store_heads(store)
        store_debias(store)
        store_leakage(store)
        store_lvlm(store)
        store_proactive(store)
    with store.reading() as read:
        for view in database.views():
            assert (read(f"SELECT * FROM {view.name}").num_rows > 0) == filled, view.name


def test_findings_say_it_in_words(store):
    audit().store(store)
    rows = store.query("SELECT sentence FROM findings WHERE value = 'dark'").to_pylist()
    assert rows[0]["sentence"] == (
        "cat, lighting = dark: right 61 % of the time (95 % interval 51 to 70 %, n = 100) against 84 % on the others: worse by 23 points"
    )


def test_verdicts_do_not_multiply(store):
    """Captions stored by two steps, and truth steps twice, still give one row a group."""
    made = audit()
    made.store(store)
    store.replace_step(RUN, "", "truth again", made.tables("truth"))
    assert count(store, "verdicts") == count(store, "c2b_group")
    captions = store.query("SELECT captions FROM verdicts WHERE target = 'cat' AND value = 'dark'").to_pylist()
    assert captions == [{"captions": ["a cat in dark light"]}]


def test_arrow_schema_covers_every_table():
    for name, table in tables().items():
        assert arrow_schema(name).names == [c.name for c in table.own_columns]
