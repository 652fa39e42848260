"""The SQL in docs/results.md runs, and the page names every view."""

import re
from pathlib import Path

import pytest
from synthetic_audit import audit
from synthetic_leakage import store_leakage
from synthetic_lvlm import store_lvlm
from synthetic_openworld import experiment
from synthetic_proactive import store_proactive

from results import database
from results.store import ResultsStore

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text("utf8")
PARTS = "## Questions about parts: leakage, masking, discovery"
LVLM = "## Questions about smaller and merged vision-language models"
ASKING = "## Questions about asking for help"
CHAPTER = "## Questions about open-world and closed-world classification"


def statements(text):
    """The statements of all SQL blocks."""
    blocks = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    return [s.strip() for block in blocks for s in block.split(";") if s.strip()]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with an audit, an experiment and a sweep."""
    store = ResultsStore(tmp_path_factory.mktemp("docs") / "results.duckdb")
    audit().store(store)
    experiment(run_id="sweep", variants={"dataset=dtd,rounds=2": ("dtd",), "dataset=food101,rounds=2": ("food101",)}).store(store)  # fmt: skip
    store_leakage(store)
    store_lvlm(store)
    store_proactive(store)
    experiment(run_id="z-last").store(store)
    return store


@pytest.mark.parametrize("sql", statements(PAGE), ids=lambda s: s.partition("\n")[0][3:40])
def test_examples_run(filled, sql):
    filled.query(sql)


def test_examples_about_classification_find_something(filled):
    found = statements(PAGE.partition(CHAPTER)[2])
    assert len(found) > 15
    without = [sql.partition("\n")[0] for sql in found if not filled.query(sql).num_rows]
    assert without == []


def test_examples_about_parts_find_something(filled):
    found = statements(PAGE.partition(PARTS)[2].partition(LVLM)[0])
    assert len(found) == 7
    assert [sql.partition("\n")[0] for sql in found if not filled.query(sql).num_rows] == []


def test_examples_about_vision_language_models_find_something(filled):
    found = statements(PAGE.partition(LVLM)[2].partition(ASKING)[0])
    assert len(found) == 11
    assert [sql.partition("\n")[0] for sql in found if not filled.query(sql).num_rows] == []


def test_examples_about_asking_find_something(filled):
    found = statements(PAGE.partition(ASKING)[2].partition(CHAPTER)[0])
    assert len(found) == 10
    assert [sql.partition("\n")[0] for sql in found if not filled.query(sql).num_rows] == []


def test_every_view_is_named():
    assert [v.name for v in database.views() if f"| `{v.name}` |" not in PAGE] == []
