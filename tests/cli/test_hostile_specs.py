"""Specs, places for results and SQL that mean harm: one clear refusal each, and nothing is made, run or replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hostile_material import GIB, runner

STEP = b"steps:\n  a: {uses: retrieval.folder_tree, path: tree, task: Tell., classes: [cat, dog]}\n"
FINE = b"name: x\n" + STEP
SECRET = "sk-never-printed-4711"


def _bomb() -> bytes:
    lines = [b"a: &a [" + b",".join([b"x"] * 9) + b"]"]
    lines += [b"%c: &%c [%s]" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(ord("b"), ord("k"))]
    return b"\n".join(lines)


SPECS = {
    "alias bomb": (_bomb(), "once aliases are expanded"),
    "tag apply": (b"name: !!python/object/apply:os.system ['touch marker']\n" + STEP, "plain data"),
    "tag new": (b"name: x\nsteps: !!python/object/new:subprocess.Popen [[touch, marker]]\n", "plain data"),
    "10 MB": (b"name: x\ndescription: " + b"a" * (10 << 20), "at most 1,048,576 bytes"),
    "twice": (b"name: x\nname: y\n" + STEP, "set twice"),
    "deep list": (b"name: x\nsteps: " + b"[" * 5000, "levels deep"),
    "deep mapping": (b"name: x\nsteps: " + b"{a: " * 5000, "levels deep"),
    "NUL": (b"name: x\0\n" + STEP, "U+0000"),
    "not UTF-8": (b"name: \xff\xfe\n" + STEP, "not UTF-8"),
    "endless number": (b"name: x\nseed: " + b"9" * 100_000 + b"\n" + STEP, "too long"),
    "path with NUL": (FINE.replace(b"path: tree", b'path: "tr\\0ee"'), "U+0000"),
    "path of nobody": (FINE.replace(b"path: tree", b"path: ~nobody-here/x"), "no such file"),
    "long path": (FINE.replace(b"path: tree", b"path: " + b"a" * 5000), "no such file"),
    "path with a line break": (FINE.replace(b"path: tree", b'path: "a\\nb\\e"'), "no such file"),
    "step in SQL": (FINE.replace(b"  a:", b"  \"a'; DROP TABLE runs; --\":"), "cannot be a name"),
    "step in HTML": (FINE.replace(b"  a:", b'  "<script>\\e[31m\\u202e":'), "cannot be a name"),
    "name for a shell": (b'name: "$(touch marker)"\n' + STEP, "not a short name"),
    "name that climbs": (b"name: ../../x\n" + STEP, "not a short name"),
    "key that steers": (b'name: x\n"\\e]0;t\\a": 1\n' + STEP, "\\x1b]0;t\\x07"),
    "uses what is no step": (FINE.replace(b"retrieval.folder_tree", b'"os.system\\e[2J"'), "does not exist"),
    "results: /dev/null": (FINE + b"results: /dev/null\n", "device or pipe, not a file"),
    "results: pipe": (FINE + b"results: pipe\n", "device or pipe, not a file"),
    "results: folder": (FINE + b"results: tree\n", "is a folder"),
    "results: new/": (FINE + b"results: new/\n", "names a folder"),
    "results: /": (FINE + b"results: /\n", "is a folder"),
    "results: below a file": (FINE + b"results: notes.txt/r.duckdb\n", "Not a directory"),
    "results: too long": (FINE + b"results: " + b"a/" * 3000 + b"r\n", "File name too long"),
    "results: line break": (FINE + b'results: "a\\nb.duckdb"\n', "control character"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    (folder / "tree/cat/light/dark").mkdir(parents=True)
    (folder / "notes.txt").write_text("years of work")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize("name", SPECS)
def test_a_hostile_spec_is_refused_where_it_stands_and_leaves_nothing(name: str, place: Path) -> None:
    (place / "s.yaml").write_bytes(SPECS[name][0])
    before = sorted(place.rglob("*"))
    said = runner("validate", "s.yaml", cwd=place, memory=2 * GIB, seconds=20)
    assert said.code == 2
    assert said.err.startswith("s.yaml:") and SPECS[name][1] in said.err.split("\n  ")[0]
    assert len(said.err) < 2000
    assert sorted(place.rglob("*")) == before


def test_a_run_never_puts_a_database_in_the_place_of_something_else(place: Path) -> None:
    """A device would be replaced by the file, a stranger's file by ``results rebuild``."""
    (place / "s.yaml").write_bytes(FINE + b"results: pipe\n")
    before = sorted(place.rglob("*"))
    assert runner("exec", "s.yaml", cwd=place).code == 2
    assert runner("results", "rebuild", "--results", "pipe", cwd=place).code == 2
    assert runner("results", "rebuild", "--results", "notes.txt", cwd=place).code == 2
    assert sorted(place.rglob("*")) == before
    assert stat.S_ISFIFO((place / "pipe").stat().st_mode)
    (place / "s.yaml").write_bytes(FINE + b"results: notes.txt\n")
    said = runner("exec", "s.yaml", cwd=place)
    assert said.code == 1 and "not a valid DuckDB" in said.err
    assert (place / "notes.txt").read_text() == "years of work"


def test_a_file_system_that_refuses_is_one_line(place: Path) -> None:
    (place / "s.yaml").write_bytes(FINE + b"results: /proc/none/r.duckdb\n")
    said = runner("exec", "s.yaml", cwd=place)
    assert said.code == 2 and said.err.startswith("error: cannot make the workspace /proc/none: ")
    assert len(said.err.splitlines()) == 2


def test_overrides_are_plain_values(place: Path) -> None:
    (place / "p.yaml").write_bytes(
        b"name: x\nparams: {side: 1}\n" + STEP.replace(b"Tell.", b"Tell., min_side: $params.side")
    )
    for value in ("!!python/object/apply:os.system ['touch marker']", "*a", "&a [*a]", "[" * 500, "1\nsteps: {}", "$env.HOME", "\x1b[31m"):  # fmt: skip
        said = runner("validate", "p.yaml", "--set", f"side={value}", cwd=place, seconds=20)
        assert said.code == 2 and "problem" in said.err, value
    assert not (place / "marker").exists()


def test_secrets_of_the_environment_are_not_printed(place: Path) -> None:
    text = b"name: x\nmodels:\n  m: {provider: openai, model: y, base_url: 'http://127.0.0.1:9/v1', api_key_env: OPENAI_API_KEY, no: 1}\n"
    (place / "e.yaml").write_bytes(text + STEP)
    said = runner("validate", "e.yaml", cwd=place, OPENAI_API_KEY=SECRET, RUNNER_SECRET=SECRET)
    assert said.code == 2 and SECRET not in said.out + said.err


QUERIES = {
    "COPY (SELECT 1) TO 'marker.csv'": "only reading",
    "COPY runs FROM '/etc/passwd'": "only reading",
    "EXPORT DATABASE 'marker'": "only reading",
    "ATTACH 'marker.db'": "only reading",
    "SELECT * FROM read_csv('/etc/passwd')": "only reading",
    "SELECT * FROM read_text('/etc/passwd')": "only reading",
    "SELECT * FROM glob('/etc/*')": "only reading",
    "INSTALL httpfs": "only reading",
    "LOAD httpfs": "only reading",
    "PRAGMA enable_external_access=true": "only reading",
    "SET lock_configuration=false": "only reading",
    "CREATE TABLE marker(i INT)": "only reading",
    "SELECT getenv('RUNNER_SECRET')": "getenv",
    "SELECT 1; DROP TABLE runs": "one statement at a time",
    "SELECT 1; SELECT 2": "one statement at a time",
    ";": "one statement at a time",
    'SELECT * FROM "\x1b[31m"': "tables:",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from results.store import ResultsStore

    folder = tmp_path_factory.mktemp("sql")
    ResultsStore(folder / "r.duckdb").create()
    return folder


@pytest.mark.parametrize("query", QUERIES)
def test_sql_reads_and_nothing_else(query: str, database: Path) -> None:
    before = {p.name: p.read_bytes() for p in database.iterdir()}
    said = runner("sql", "--results", "r.duckdb", query, cwd=database, memory=6 * GIB, RUNNER_SECRET=SECRET)
    assert said.code == 2 and said.err.startswith("error: ") and QUERIES[query] in said.err
    assert "root:x:0" not in said.out + said.err and SECRET not in said.out + said.err
    assert {p.name: p.read_bytes() for p in database.iterdir()} == before


def test_columns_and_cells_of_a_query_cannot_steer_the_terminal(database: Path) -> None:
    said = runner("sql", "--results", "r.duckdb", "SELECT chr(27) || '[31m' AS \"\x1b]0;t\x07[bold]\"", cwd=database)
    assert said.code == 0 and "\\x1b]0;t\\x07[bold]" in said.out
