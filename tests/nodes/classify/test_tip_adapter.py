"""Tip-Adapter: identities, golden numbers by hand, and the search against the plain double loop."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.classify.customary import DEFAULT, FINETUNE_EPOCHS, GRIDS, TEMPLATES, grid_of
from runner.nodes.classify.tip_adapter import cache_model, search_alpha_beta, tip_logits


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def material(seed, *, classes=4, shots=3, dim=6, queries=12, noise=1.0):
    """Clustered unit features, float32: pool with labels, queries with labels, class weights [D, C]."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dim))
    labels = rng.permutation(np.repeat(np.arange(classes), shots))
    truth = rng.integers(0, classes, queries)
    pool = unit(centres[labels] + noise * rng.normal(size=(len(labels), dim))).astype(np.float32)
    query = unit(centres[truth] + noise * rng.normal(size=(queries, dim))).astype(np.float32)
    weights = unit(centres + noise * rng.normal(size=centres.shape)).T.astype(np.float32)
    return pool, labels, query, truth, weights


def written_out(query, keys, values, weights, alpha, beta):
    """The published formula, term by term in float64."""
    f, F, W = (np.asarray(a, np.float64) for a in (query, keys, weights))
    logits = np.empty((len(f), W.shape[1]))
    for i in range(len(f)):
        for c in range(W.shape[1]):
            own = [n for n in range(F.shape[1]) if values[n, c] == 1]
            cache = sum(np.exp(-beta * (1 - f[i] @ F[:, n])) for n in own)
            logits[i, c] = 100 * (f[i] @ W[:, c]) + alpha * cache
    return logits


def test_golden_numbers_of_two_classes_in_the_plane():
    # Query along x; keys at 0, 90 and 60 degrees; class weights at 90 and 0 degrees.
    keys = np.array([[1, 0, 0.5], [0, 1, np.sqrt(3) / 2]])
    values = np.array([[1, 0], [0, 1], [1, 0]])
    weights = np.array([[0, 1], [1, 0]])
    logits = tip_logits([[1, 0]], keys, values, weights, alpha=2, beta=3)
    # exp(0) + exp(-1.5) = 1.22313016, times 2; 100 + 2 exp(-3) = 100.09957414.
    np.testing.assert_allclose(logits, [[2.44626032, 100.09957414]], atol=1e-8)
    linear = tip_logits([[1, 0]], keys, values, weights, alpha=2, beta=3, variant="linear")
    np.testing.assert_allclose(linear, [[100 * 2 * 1.5, 100]], atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0, 20), st.floats(0, 40))
@settings(max_examples=40, deadline=None)
def test_logits_are_the_published_formula(seed, alpha, beta):
    pool, labels, query, _, weights = material(seed)
    keys, values = cache_model(pool, labels, 4)
    expected = written_out(query, keys, values, weights, alpha, beta)
    np.testing.assert_allclose(tip_logits(query, keys, values, weights, alpha, beta), expected, rtol=1e-12, atol=1e-10)


@given(st.integers(0, 10_000), st.sampled_from(["exponential", "linear"]))
@settings(max_examples=25, deadline=None)
def test_without_weight_the_cache_says_nothing(seed, variant):
    pool, labels, query, _, weights = material(seed)
    keys, values = cache_model(pool, labels, 4)
    logits = tip_logits(query, keys, values, weights, 0.0, 5.5, variant)
    np.testing.assert_allclose(logits, 100 * (query.astype(np.float64) @ weights), atol=1e-10)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_linear_variant_is_the_sum_over_examples(seed):
    pool, labels, query, _, weights = material(seed)
    omega = 0.37
    sums = np.stack(
        [(query.astype(np.float64) @ unit(pool[labels == c].astype(np.float64)).T).sum(1) for c in range(4)], 1
    )
    expected = query.astype(np.float64) @ weights + omega * sums
    keys, values = cache_model(pool, labels, 4)
    got = tip_logits(query, keys, values, weights, omega, 0.0, "linear")
    np.testing.assert_allclose(got / 100, expected, atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0.1, 30))
@settings(max_examples=25, deadline=None)
def test_a_query_equal_to_a_key_counts_at_least_one_for_its_class(seed, beta):
    pool, labels, _, _, weights = material(seed)
    keys, values = cache_model(pool, labels, 4)
    query = keys.T
    np.testing.assert_allclose(np.einsum("nd,dn->n", query, keys), 1, atol=1e-12)
    cache = tip_logits(query, keys, values, weights, 1.0, beta) - tip_logits(query, keys, values, weights, 0.0, beta)
    assert (cache[np.arange(len(labels)), labels] >= 1 - 1e-9).all()


def test_a_large_beta_leaves_exact_matches_alone():
    pool, labels, query, _, weights = material(3)
    keys, values = cache_model(pool, labels, 4)
    both = np.concatenate([keys.T[:5], query.astype(np.float64)])
    cache = tip_logits(both, keys, values, weights, 1.0, 1e7) - tip_logits(both, keys, values, weights, 0.0, 1.0)
    np.testing.assert_allclose(cache[:5], np.eye(4)[labels[:5]], atol=1e-6)
    np.testing.assert_allclose(cache[5:], 0, atol=1e-6)


@given(st.integers(0, 10_000), st.permutations(range(4)))
@settings(max_examples=25, deadline=None)
def test_relabelling_classes_permutes_logits(seed, order):
    pool, labels, query, _, weights = material(seed)
    order = np.array(order)
    new_name = np.argsort(order)
    before = tip_logits(query, *cache_model(pool, labels, 4), weights, 1.5, 4.0)
    after = tip_logits(query, *cache_model(pool, new_name[labels], 4), weights[:, order], 1.5, 4.0)
    np.testing.assert_allclose(after, before[:, order], atol=1e-10)


def test_one_class_with_one_shot():
    keys, values = cache_model(np.array([[3.0, 4.0]], np.float32), [0], 1)
    np.testing.assert_allclose(keys, [[0.6], [0.8]])
    assert values.tolist() == [[1.0]]
    found = search_alpha_beta([[1, 0]], [0], keys, values, [[1], [0]], [1.0, 2.0], [0.5])
    assert found[:3] == (0.5, 1.0, 1.0)


def test_epochs_are_averaged_as_they_are_and_scaled_afterwards():
    epochs = np.array([[[2.0, 0.0]], [[0.0, 1.0]]])
    keys, _ = cache_model(epochs, [0], 1)
    np.testing.assert_allclose(keys[:, 0], np.array([2, 1]) / np.sqrt(5))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(bad):
    pool, labels, query, truth, weights = material(0)
    keys, values = cache_model(pool, labels, 4)
    pool[1, 2] = bad
    with pytest.raises(ValueError, match="features contain NaN or infinity"):
        cache_model(pool, labels, 4)
    query[0, 0] = bad
    with pytest.raises(ValueError, match="query contain NaN"):
        tip_logits(query, keys, values, weights, 1, 1)
    with pytest.raises(ValueError, match="query contain NaN"):
        search_alpha_beta(query, truth, keys, values, weights, [1.0], [1.0])


def test_what_does_not_fit_is_refused():
    pool, labels, query, truth, weights = material(0)
    keys, values = cache_model(pool, labels, 4)
    with pytest.raises(ValueError, match="1 of 5 classes have no labelled feature, the first is 4"):
        cache_model(pool, labels, 5)
    with pytest.raises(ValueError, match="0 to 2"):
        cache_model(pool, labels, 3)
    with pytest.raises(ValueError, match="norm 0"):
        cache_model(np.array([[[1.0, 0.0]], [[-1.0, 0.0]]]), [0], 1)
    with pytest.raises(ValueError, match="shapes must be"):
        tip_logits(query, keys.T, values, weights, 1, 1)
    with pytest.raises(ValueError, match="one-hot"):
        tip_logits(query, keys, values * 0.5, weights, 1, 1)
    with pytest.raises(ValueError, match="every beta must be a finite number"):
        tip_logits(query, keys, values, weights, 1, np.inf)
    with pytest.raises(ValueError, match="at least one"):
        search_alpha_beta(query, truth, keys, values, weights, [], [1.0])
    with pytest.raises(ValueError, match="one label for each"):
        search_alpha_beta(query, truth[1:], keys, values, weights, [1.0], [1.0])


def plain_loop(query, truth, keys, values, weights, betas, alphas, logits_of):
    """The published search: beta outside, alpha inside, the first strictly better pair."""
    best, grid = (None, None, -1.0), np.empty((len(betas), len(alphas)))
    for i, beta in enumerate(betas):
        for j, alpha in enumerate(alphas):
            said = logits_of(query, keys, values, weights, alpha, beta).argmax(1)
            grid[i, j] = np.mean(said == truth)
            if grid[i, j] > best[2]:
                best = (alpha, beta, grid[i, j])
    return best, grid


@given(st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 3.0]), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_the_search_is_the_plain_loop_on_random_features(seed, noise, shots):
    pool, labels, query, truth, weights = material(seed, noise=noise, shots=shots)
    keys, values = cache_model(pool, labels, 4)
    grid = GRIDS["eurosat"]
    betas, alphas = grid.betas()[::20], grid.alphas()[::3]
    found = search_alpha_beta(query, truth, keys, values, weights, betas, alphas)
    best, accuracies = plain_loop(query, truth, keys, values, weights, betas, alphas, written_out)
    assert found[:3] == best
    assert np.array_equal(found.grid, accuracies)


corners = st.sampled_from([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)])


@given(
    st.lists(corners, min_size=3, max_size=9),
    st.lists(corners, min_size=1, max_size=6),
    st.lists(corners, min_size=3, max_size=3),
    st.lists(st.sampled_from([-0.5, 0.0, 0.1, 1.0, 30.0, 200.0]), min_size=1, max_size=4),
    st.lists(st.sampled_from([0.0, 0.1, 1.0, 12.0, 1000.0]), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_the_search_is_the_plain_loop_where_logits_tie(pool, query, weights, alphas, betas, random):
    """Corners of the cube: classes share features and prompts, so that many logits are equal to the last bit."""
    labels = [0, 1, 2, *(random.randrange(3) for _ in pool[3:])]
    truth = np.array([random.randrange(3) for _ in query])
    keys, values = cache_model(pool, labels, 3)
    weights = np.array(weights).T
    found = search_alpha_beta(query, truth, keys, values, weights, betas, alphas)
    best, accuracies = plain_loop(query, truth, keys, values, weights, betas, alphas, tip_logits)
    assert np.array_equal(found.grid, accuracies)
    assert found[:3] == best


@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_the_search_is_the_plain_loop_over_several_blocks(scale):
    """More queries than one block, unequal shots, features beyond the unit sphere (float32 overflows, float64 does not)."""
    pool, labels, query, truth, weights = material(7, classes=5, shots=120, dim=8, queries=700, noise=2.0)
    keep = np.sort(np.concatenate([np.flatnonzero(labels == c)[: 10 + 25 * c] for c in range(5)]))
    keys, values = cache_model(pool[keep], labels[keep], 5)
    betas, alphas = [0.1, 0.9, 6.0], [0.1, 1.3, 2.2, 9.0]
    found = search_alpha_beta(query * scale, truth, keys, values, weights, betas, alphas)
    best, accuracies = plain_loop(query * scale, truth, keys, values, weights, betas, alphas, tip_logits)
    assert found[:3] == best
    assert np.array_equal(found.grid, accuracies)
    linear = search_alpha_beta(query, truth, keys, values, weights, [1.0], alphas, "linear")
    for j, alpha in enumerate(alphas):
        said = tip_logits(query, keys, values, weights, alpha, 1.0, "linear").argmax(1)
        assert linear.grid[0, j] == np.mean(said == truth)


def test_of_equal_accuracies_the_first_pair_is_kept():
    keys, values = cache_model(np.eye(2), [0, 1], 2)
    found = search_alpha_beta(np.eye(2), [0, 1], keys, values, np.eye(2), [3.0, 1.0, 2.0], [5.0, 0.5])
    assert found[:3] == (5.0, 3.0, 1.0)
    assert found.grid.shape == (3, 2)


def test_published_ranges_and_prompts():
    assert set(GRIDS) == set(TEMPLATES) and len(GRIDS) == 10
    assert all(template.count("{}") == 1 for template in TEMPLATES.values())
    betas, alphas = GRIDS["dtd"].betas(), GRIDS["dtd"].alphas()
    assert (len(betas), len(alphas)) == (200, 20)
    assert (betas[0], alphas[0]) == (0.1, 0.1)
    assert betas[-1] == pytest.approx(13 - 12.9 / 200)
    assert alphas[1] == pytest.approx(0.1 + 12.9 / 20)
    assert grid_of("flowers102")[:4] == (10, 1, 50, 50)
    assert grid_of("my-own") == DEFAULT
    assert FINETUNE_EPOCHS == {"eurosat": 100}


def test_the_package_is_light_and_gives_its_functions():
    code = (
        "import sys, runner.nodes.classify as c, runner.nodes.classify.steps, runner.nodes.classify.customary;"
        "assert not {'numpy', 'torch', 'faiss', 'pyarrow', 'PIL'} & set(sys.modules), sorted(sys.modules);"
        "assert all(callable(getattr(c, n)) for n in ('cache_model', 'tip_logits', 'search_alpha_beta', 'knn_vote'));"
        "assert 'torch' not in sys.modules and 'faiss' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    import runner.nodes.classify

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = runner.nodes.classify.nothing
