import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from runner.nodes.bias.statistics import (
    adjust,
    adjust_within,
    chi_square_homogeneity,
    cochran_mantel_haenszel,
    fisher_value_tests,
    mcnemar_exact,
    permutation_test,
)
from runner.nodes.significance import _fisher_block

group = st.integers(1, 80).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
attribute = st.lists(group, min_size=2, max_size=5)


def split(groups):
    return np.array([k for k, _ in groups]), np.array([n for _, n in groups])


@given(attribute)
def test_fisher_equals_scipy(groups):
    k, n = split(groups)
    for j, p in enumerate(fisher_value_tests(k, n)):
        rest_k, rest_n = k.sum() - k[j], n.sum() - n[j]
        expected = stats.fisher_exact([[k[j], n[j] - k[j]], [rest_k, rest_n - rest_k]]).pvalue
        assert p == pytest.approx(expected, rel=1e-6)


def test_fisher_tea_tasting_and_undefined_groups():
    # 3 of 4 against 1 of 4: 34 of the 70 tables are at most as likely.
    np.testing.assert_allclose(fisher_value_tests([3, 1], [4, 4]), 34 / 70)
    p = fisher_value_tests([[3, 1, 0], [2, 0, 0]], [[4, 4, 0], [5, 0, 0]])
    assert np.isnan(p).tolist() == [[False, False, True], [True, True, True]]


def test_fisher_blocks_agree_with_one_block(monkeypatch):
    rng = np.random.default_rng(0)
    n = rng.integers(1, 300, (40, 4))
    k = rng.binomial(n, 0.8)
    whole = fisher_value_tests(k, n)
    monkeypatch.setattr("runner.nodes.significance._CELLS", 50)
    np.testing.assert_allclose(fisher_value_tests(k, n), whole, rtol=1e-12)
    assert _fisher_block(np.array([[0, 1, 0, 2]]))[0] == 1.0


@given(attribute)
def test_chi_square_equals_scipy(groups):
    k, n = split(groups)
    statistic, p = chi_square_homogeneity(k, n)
    if k.sum() in (0, n.sum()):
        assert (statistic, p) == (0, 1)
        return
    expected = stats.chi2_contingency(np.stack([k, n - k]), correction=False)
    assert statistic == pytest.approx(expected.statistic, rel=1e-9, abs=1e-12)
    assert p == pytest.approx(expected.pvalue, rel=1e-9)


def test_chi_square_needs_two_groups_and_ignores_padding():
    statistic, p = chi_square_homogeneity([[5, 3, 0], [5, 0, 0]], [[10, 10, 0], [10, 0, 0]])
    assert statistic[0] == pytest.approx(chi_square_homogeneity([5, 3], [10, 10])[0])
    assert np.isnan([statistic[1], p[1]]).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from(["bh", "by", "holm"]))
def test_adjust_equals_statsmodels(p, method):
    name = {"bh": "fdr_bh", "by": "fdr_by", "holm": "holm"}[method]
    np.testing.assert_allclose(adjust(p, method), multipletests(p, method=name)[1], atol=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from(["bh", "by", "holm"]), st.data())
def test_adjust_is_monotone_ignores_nan_and_order(p, method, data):
    adjusted = adjust(p, method)
    order = np.argsort(p)
    assert np.all(np.diff(adjusted[order]) >= -1e-15)
    assert np.all(adjusted >= np.array(p) - 1e-15) and adjusted.max() <= 1
    place = data.draw(st.integers(0, len(p)))
    with_nan = np.insert(p, place, np.nan)
    np.testing.assert_array_equal(np.delete(adjust(with_nan, method), place), adjusted)
    np.testing.assert_allclose(adjust(np.array(p)[order], method), adjusted[order], atol=1e-15)


def test_adjust_by_hand_and_batched():
    # p * 4 / rank, running minimum from the right.
    np.testing.assert_allclose(adjust([0.01, 0.04, 0.03, 0.5]), [0.04, 0.16 / 3, 0.16 / 3, 0.5])
    batch = np.array([[0.01, 0.04, 0.03], [0.2, np.nan, 0.1]])
    np.testing.assert_allclose(adjust(batch)[1], [0.2, np.nan, 0.2])
    np.testing.assert_allclose(adjust_within([0.01, 0.02, 0.04], ["a", "b", "a"]), [0.02, 0.02, 0.04])
    with pytest.raises(ValueError, match="unknown adjustment"):
        adjust([0.1], "bonferroni-ish")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        adjust([1.5])


def test_permutation_agrees_with_the_exact_distribution_of_two_values():
    # For two equal groups |phi| orders tables as their probability does: Fisher's p, up to Monte Carlo error.
    k, n = np.array([14, 7]), np.array([20, 20])
    p = permutation_test(k, n, permutations=9999, seed=1)
    np.testing.assert_allclose(p, fisher_value_tests(k, n), atol=0.01)
    np.testing.assert_array_equal(p, permutation_test(k, n, permutations=9999, seed=1))
    assert permutation_test([20, 0], [20, 20], permutations=999)[0] == 1 / 1000
    assert np.isnan(permutation_test([3, 0], [5, 0], permutations=10)).all()


@settings(max_examples=40)
@given(st.lists(st.tuples(group, group), min_size=1, max_size=5))
def test_cmh_equals_statsmodels(strata):
    a, n1 = split([s[0] for s in strata])
    c, n2 = split([s[1] for s in strata])
    ratio, p, used = cochran_mantel_haenszel(a, n1, c, n2)
    assert used == len(strata)
    varied = (a + c > 0) & (a + c < n1 + n2)
    if not varied.any():
        assert p == 1
        return
    table = StratifiedTable([np.array([[w, x - w], [y, z - y]]) for w, x, y, z in zip(a, n1, c, n2, strict=True)])
    assert p == pytest.approx(table.test_null_odds(correction=False).pvalue, rel=1e-6, abs=1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        assert ratio == pytest.approx(table.oddsratio_pooled, rel=1e-9, nan_ok=True)


def test_cmh_without_strata_is_nan():
    ratio, p, used = cochran_mantel_haenszel([3], [5], [0], [0])
    assert np.isnan([ratio, p]).all() and used == 0


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_equals_statsmodels(b, c):
    expected = statsmodels_mcnemar([[5, b], [c, 5]], exact=True).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(min(expected, 1.0), rel=1e-9)
