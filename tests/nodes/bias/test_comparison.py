"""Two classifiers on the same pictures: the paired interval, the counts and the verdicts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from results.tables import arrow_table
from runner.nodes.bias.comparison import comparison_rows, paired_tables
from runner.nodes.intervals import paired_difference_interval, wilson_interval

counts = st.integers(0, 200)


def test_a_published_example():
    """Newcombe (1998), table of examples: 36, 12, 2, 0 gives 0.0569 to 0.3404 for the difference of 0.2."""
    low, high = paired_difference_interval(36, 2, 12, 0)
    assert (low, high) == (pytest.approx(0.0569, abs=5e-5), pytest.approx(0.3404, abs=5e-5))


@given(counts, counts, counts, counts)
def test_the_interval_holds_the_difference_and_turns_with_the_order(a, b, c, d):
    n = a + b + c + d
    low, high = paired_difference_interval(a, b, c, d)
    if n == 0:
        assert np.isnan(low) and np.isnan(high)
        return
    assert -1 - 1e-9 <= low <= (c - b) / n + 1e-12 and (c - b) / n - 1e-12 <= high <= 1 + 1e-9
    turned_low, turned_high = paired_difference_interval(a, c, b, d)
    assert (turned_low, turned_high) == (pytest.approx(-high), pytest.approx(-low))


def test_without_correlation_it_is_the_interval_of_two_independent_shares():
    low, high = paired_difference_interval(25, 25, 25, 25)
    below, above = wilson_interval(50, 100)
    assert high == pytest.approx(np.hypot(above - 0.5, 0.5 - below)) and low == pytest.approx(-high)


@pytest.mark.parametrize("p", [(0.6, 0.2, 0.1, 0.1), (0.85, 0.05, 0.05, 0.05)])
def test_the_interval_covers(p):
    tables = np.random.default_rng(1).multinomial(80, p, size=4000)
    low, high = paired_difference_interval(*tables.T)
    true = p[2] - p[1]
    assert 0.93 <= np.mean((low <= true) & (true <= high)) <= 0.98


def member(uri, correct, target="cat", attribute="lighting", value="dark", source="caption"):
    return {
        "target": target, "attribute": attribute, "value": value, "value_source": source, "source_id": "s",
        "uri": uri, "correct": correct,
    }  # fmt: skip


def test_a_picture_counts_once_in_the_totals_and_once_in_each_group():
    first = [member("a", True), member("a", True, value="bright"), member("b", True), member("c", False)]
    first.append(member("n", True, attribute=None, value=None))
    second = [{**row, "correct": row["uri"] == "c"} for row in first] + [member("only here", True)]
    tables = paired_tables(first, second)
    assert tables[None, None, None, None] == tables["cat", None, None, None] == [0, 3, 1, 0]
    assert tables["cat", "lighting", "dark", "caption"] == [0, 2, 1, 0]
    assert tables["cat", "lighting", "bright", "caption"] == [0, 1, 0, 0]


def test_verdicts_point_the_right_way_and_rows_fit_the_table():
    first = [member(str(i), True) for i in range(100)] + [
        member(f"x{i}", i % 2 == 0, value="bright") for i in range(100)
    ]
    second = [
        {**row, "correct": row["correct"] and (row["value"] == "bright" or int(row["uri"]) > 20)} for row in first
    ]
    groups = [
        {
            "target": "cat",
            "attribute": "lighting",
            "value": "dark",
            "value_source": "caption",
            "phi": 0.5,
            "verdict": "favoured",
        }
    ]
    rows = comparison_rows(("A", first, groups), ("B", second, []))
    assert arrow_table("c2b_comparison", rows).num_rows == 4
    dark = next(r for r in rows if r["value"] == "dark")
    assert (dark["verdict"], dark["only_first"], dark["only_second"], dark["n"]) == ("worse", 21, 0, 100)
    assert dark["mcnemar_p"] == pytest.approx(binomtest(0, 21).pvalue)
    assert (dark["phi_first"], dark["verdict_first"], dark["phi_second"]) == (0.5, "favoured", None)
    bright = next(r for r in rows if r["value"] == "bright")
    assert (bright["verdict"], bright["difference"]) == ("no_evidence", 0)
    turned = comparison_rows(("B", second, []), ("A", first, groups))
    assert next(r for r in turned if r["value"] == "dark")["verdict"] == "better"


def test_few_pictures_give_no_verdict():
    rows = comparison_rows(
        ("A", [member(str(i), True) for i in range(9)], []), ("B", [member(str(i), False) for i in range(9)], [])
    )
    assert {row["verdict"] for row in rows} == {"insufficient_data"}
