"""Tables of numbers separated by blanks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.data.parts.numbers import read_named, read_numbers
from runner.errors import DataError

ROWS = st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6), st.sampled_from(["", " 7", "  1 2 3", " x y"])), min_size=1)  # fmt: skip


@given(ROWS)
def test_rows_keep_their_order_whatever_follows_the_numbers(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    path = tmp_path_factory.mktemp("n") / "t.txt"
    path.write_text("".join(f"{a} {b!r}{rest}\n" for a, b, rest in rows))
    assert (read_numbers(path, 2) == np.array([(a, b) for a, b, _ in rows])).all()


@pytest.mark.parametrize("text", ["1 2\n3 4\n5\n", "1 2\n3 4\n5 x\n", "1 2\n3 4\n5 inf\n", "1 2\n3 4 9\n5 x 9\n"])
def test_what_is_no_number_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(DataError, match=r"t.txt, line 3: expected 2 numbers"):
        read_numbers(tmp_path / "t.txt", 2)


def test_files_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        read_numbers(tmp_path / "t.txt", 2)
    (tmp_path / "t.txt").write_text("")
    for read in (lambda path: read_numbers(path, 2), read_named):
        with pytest.raises(DataError, match="is empty"):
            read(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_text("1 a\n1 b\n")
    with pytest.raises(DataError, match="line 2: 1 was already named 'a'"):
        read_named(tmp_path / "t.txt")
