"""The SQL in docs/results.md runs, and the page names every view."""

import re
from pathlib import Path

import pytest
from synthetic_audit import audit

from results import database

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text("utf8")
STATEMENTS = [
    s.strip() for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) for s in block.split(";") if s.strip()
]


@pytest.mark.parametrize("sql", STATEMENTS, ids=lambda s: s.partition("\n")[0][3:40])
def test_examples_run(store, sql):
    audit().store(store)
    store.query(sql)


def test_every_view_is_named():
    assert [v.name for v in database.views() if f"| `{v.name}` |" not in PAGE] == []
