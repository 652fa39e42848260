"""The studies: probes where the truth is known, the score by hand, and cosines written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sem.studies import cp_bn, disentanglement, leak_score, principal_plane

SEEDS = st.integers(0, 10_000)


def texts(entangled, *, templates=20, tasks=5, seed=0):
    """Features of template x value x task; ``entangled``: the value stands in the task's own coordinates."""
    rng = np.random.default_rng(seed)
    template, value, task = (a.ravel() for a in np.indices((templates, 2, tasks)))
    features = 0.3 * rng.normal(size=(len(task), 2 * tasks + 2))
    features[np.arange(len(task)), task] += 2
    if entangled:
        # The value moves along the first task's axis, which the task's probe must read.
        features[:, 0] += 1.0 * (2 * value - 1)
    else:
        features[:, -1] += 3.0 * (2 * value - 1)
    return features, task, value, template


def test_an_attribute_of_its_own_direction_does_not_leak_and_an_entangled_one_does():
    apart = disentanglement(*texts(False)[:3])
    mixed = disentanglement(*texts(True)[:3])
    assert apart.acc_main > 0.95 and apart.acc_bias > 0.95
    assert apart.acc_leak < 0.65 and apart.d > 0.7
    assert mixed.acc_bias > 0.9 and mixed.d < apart.d - 0.2


def test_probes_are_those_written_out_fold_by_fold():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    x, task, value, _ = texts(True)
    leaks = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=42).split(x, task):
        scaler = StandardScaler().fit(x[train])
        main = LogisticRegression(max_iter=1000, random_state=42).fit(scaler.transform(x[train]), task[train])
        logits = [main.decision_function(scaler.transform(x[rows])) for rows in (train, test)]
        again = StandardScaler().fit(logits[0])
        probe = LogisticRegression(max_iter=1000, random_state=42).fit(again.transform(logits[0]), value[train])
        leaks.append(probe.score(again.transform(logits[1]), value[test]))
    assert disentanglement(x, task, value).acc_leak == pytest.approx(np.mean(leaks))


def test_templates_can_be_kept_in_one_fold():
    x, task, value, template = texts(False)
    # The value can only be read from a coordinate that says which template it is: that helps with no unseen template.
    rng = np.random.default_rng(1)
    code = rng.normal(size=(20, 2, 60)) * 3
    x = np.concatenate([x[:, :-1], code[template, value]], axis=1)
    seen, unseen = disentanglement(x, task, value), disentanglement(x, task, value, template)
    assert seen.acc_bias > 0.95 > 0.85 > unseen.acc_bias
    with pytest.raises(ValueError, match="groups"):
        disentanglement(x, task, value, template % 3)


def test_two_tasks_have_one_column_of_logits():
    x, task, value, _ = texts(True)
    got = disentanglement(x, task > 1, value)
    assert 0 <= got.d <= 1 and got.acc_main > 0.8


def test_the_score_by_hand():
    d, spread = leak_score(0.9, 0.6, 0.5, 0.02, 0.03)
    # E = 0.1 / 0.4; |E| sqrt((0.03 / 0.1)^2 + (0.02 / 0.4)^2).
    assert d == pytest.approx(0.75)
    assert spread == pytest.approx(0.25 * math.sqrt(0.3**2 + 0.05**2))
    assert leak_score(0.9, 0.45, 0.5, 0.02, 0.03) == (1.0, pytest.approx(math.hypot(0.03 / 0.4, 0.125 * 0.05)))
    assert leak_score(0.9, 0.45, 0.5, 0.02, 0.03, "official") == (0.0, 0.0)
    assert leak_score(0.6, 0.9, 0.5, 0.0, 0.0)[0] == 0.0
    assert all(math.isnan(v) for v in leak_score(0.5, 0.6, 0.5, 0.1, 0.1))


@given(SEEDS, st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_content_and_bias_are_mean_cosines(seed, values):
    rng = np.random.default_rng(seed)
    z, neutral = rng.normal(size=(6, values, 5)), rng.normal(size=(6, 5))

    def cos(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    got = cp_bn(torch.tensor(z), torch.tensor(neutral))
    assert got.cp == pytest.approx(np.mean([cos(z[p, g], neutral[p]) for p in range(6) for g in range(values)]))
    pairs = [(g, k) for g in range(values) for k in range(g + 1, values)]
    assert got.bn == pytest.approx(np.mean([cos(z[p, g], z[p, k]) for p in range(6) for g, k in pairs]))


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_the_plane_is_that_of_scikit_learn_up_to_signs(seed):
    from sklearn.decomposition import PCA

    x = np.random.default_rng(seed).normal(size=(30, 6)) * np.arange(1, 7)
    rows = x / np.linalg.norm(x, axis=1, keepdims=True)
    got = principal_plane(torch.tensor(x)).numpy()
    expected = PCA(2).fit_transform(rows)
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(principal_plane(torch.tensor(x).flip(0)).flip(0).numpy(), got, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, t, a: disentanglement(x, t[:-1], a), r"features \[n, d\]"),
        (lambda x, t, a: disentanglement(x, t * 0, a), "two values"),
        (lambda x, t, a: disentanglement(x, t, a * 0), "two values"),
        (lambda x, t, a: disentanglement(x, t, a, folds=41), "the rarest has 40"),
        (lambda x, t, a: disentanglement(x * np.nan, t, a), "NaN"),
        (lambda x, t, a: cp_bn(torch.ones(3, 1, 4), torch.ones(3, 4)), "at least 2"),
        (lambda x, t, a: cp_bn(torch.zeros(3, 2, 4), torch.ones(3, 4)), "norm 0"),
    ],
)
def test_bad_inputs_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(*texts(False)[:3])
