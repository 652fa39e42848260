"""What a person sees who types SQL."""

import io

import pytest
from rich.console import Console
from synthetic_audit import audit

from results.sqlshell import as_table, ask, cell
from runner.errors import UsageError


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT * FROM finding", "did you mean findings"),
        ("SELECT * FROM c2b_groups", "did you mean c2b_group"),
        ("SELECT verdit FROM c2b_group", "did you mean verdict"),
        ("SELECT accurracy FROM findings", "did you mean accuracy"),
        ("DROP TABLE runs", "only reading"),
        ("SELECT * FROM read_csv('/etc/passwd')", "only reading"),
        ("SELEC 1", "for example"),
    ],
)
def test_errors_say_what_to_write(store, sql, hint):
    audit().store(store)
    with pytest.raises(UsageError) as error:
        ask(store, sql)
    assert hint in str(error.value)
    assert "Candidate bindings" not in str(error.value)


def test_a_terminal_table(store):
    audit().store(store)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(as_table(ask(store, "SELECT target, n, acc FROM c2b_group ORDER BY ALL"), limit=3))
    text = console.export_text()
    assert "target" in text and "3 of 19 rows" in text


def test_cells_cannot_steer_the_terminal():
    assert cell("a\x1b[31mred\u202e") == "a\\x1b[31mred\\x202e"
    assert cell("[bold]x[/bold]") == "[bold]x[/bold]"
    assert cell("x" * 999).endswith("…")
    assert (cell(None), cell(0.123456789), cell(b"abc"), cell(["a"])) == ("", "0.123457", "<3 bytes>", "['a']")
