"""Fractions, quotas, orders: what is drawn is exactly what was asked for, whatever the order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.apportioning import apportioned
from runner.nodes.finetuning.drawing import batches, draws, fraction_of, single_pass

DOMAINS = ["a"] * 30 + ["b"] * 10 + ["c"] * 60


@given(st.floats(0.02, 1), st.integers(0, 1000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_fraction_is_its_whole_number_of_distinct_records(fraction: float, seed: int, stratified: bool) -> None:
    rows = fraction_of(DOMAINS, fraction, seed, stratified=stratified)
    assert len(rows) == int(round(100 * fraction, 9)) == len(set(rows.tolist()))
    assert rows.tolist() == sorted(rows.tolist())
    assert rows.tolist() == fraction_of(DOMAINS, fraction, seed, stratified=stratified).tolist()
    if stratified:
        shares = Counter(DOMAINS[i] for i in rows)
        assert all(abs(shares[d] - n * len(rows) / 100) < 1 for d, n in Counter(DOMAINS).items())


def test_another_seed_draws_others_and_too_little_is_refused() -> None:
    assert fraction_of(DOMAINS, 0.5, 0).tolist() != fraction_of(DOMAINS, 0.5, 1).tolist()
    with pytest.raises(ValueError, match="leaves none of 100"):
        fraction_of(DOMAINS, 0.001, 0)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any), st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_quotas_sum_and_are_never_off_by_one(parts: list[int], n: int) -> None:
    shares = {str(i): part / sum(parts) for i, part in enumerate(parts)}
    quota = apportioned(n, shares)
    assert sum(quota.values()) == n
    assert all(abs(quota[name] - share * n) < 1 + 1e-9 for name, share in shares.items())


def test_without_shares_each_pass_holds_each_record_once() -> None:
    found = draws(["a"] * 7, 21, 0)
    assert [sorted(found[i : i + 7].tolist()) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert found[:7].tolist() != found[7:14].tolist()


def test_shares_become_exact_counts_and_repeat_evenly() -> None:
    found = draws(DOMAINS, 80, 3, {"a": 0.25, "b": 0.5, "c": 0.25})
    assert Counter(DOMAINS[i] for i in found) == {"a": 20, "b": 40, "c": 20}
    times = Counter(int(i) for i in found)
    assert {n for i, n in times.items() if DOMAINS[i] == "b"} == {4}  # 40 draws of 10 records
    assert {n for i, n in times.items() if DOMAINS[i] != "b"} == {1}


def test_one_pass_ends_where_the_first_domain_is_used_up() -> None:
    assert single_pass(DOMAINS, {"a": 0.5, "b": 0.5}) == 20
    assert single_pass(DOMAINS, {"c": 1.0, "b": 0.0}) == 60


@given(st.integers(1, 9), st.integers(1, 80), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_batches_by_length_hold_what_was_drawn(size: int, count: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 500, 50)
    drawn = np.random.default_rng(seed).integers(0, 50, size * count)
    grouped, plain = (batches(drawn, lengths, size, seed, by_length=b) for b in (True, False))
    assert Counter(np.concatenate(grouped).tolist()) == Counter(drawn.tolist())
    assert [len(b) for b in grouped] == [size] * count
    assert np.concatenate(plain).tolist() == drawn.tolist()


def test_batches_by_length_are_padded_less() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 1000)
    waste = [
        sum(int((lengths[b].max() - lengths[b]).sum()) for b in batches(np.arange(1000), lengths, 10, 0, by_length=by))
        for by in (True, False)
    ]
    assert waste[0] < 0.2 * waste[1]
