import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sith.edit import (
    PRESETS,
    UNSCORED,
    Rule,
    apply_rules,
    keep_top,
    multipliers_from_scores,
    task_multipliers,
    task_relevance,
)
from runner.nodes.sith.weights import unit

SCORES = torch.tensor([[1, 2, 3], [4, 5, UNSCORED]])


def test_the_presets_by_hand():
    assert multipliers_from_scores(SCORES, PRESETS["spurious"]).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert multipliers_from_scores(SCORES, PRESETS["nsfw"]).tolist() == [[1, 1, -1], [0, 0, 1]]


def test_the_first_rule_that_fits_counts_and_unscored_fits_none():
    rules = [Rule(2.0, ge=3, le=4), Rule(0.5, le=3)]
    assert multipliers_from_scores(SCORES, rules).tolist() == [[0.5, 0.5, 2], [2, 1, 1]]
    found = apply_rules({"effect": torch.tensor([0.1, float("nan"), 3.0])}, [Rule(0.0, ge=0.0, of="effect")])
    assert found.multipliers.tolist() == [0, 1, 0] and found.rule.tolist() == [0, -1, 0]
    assert Rule(0.0, ge=3, le=4).text() == "score >= 3 and <= 4 -> 0"
    with pytest.raises(ValueError, match="needs a bound"):
        multipliers_from_scores(SCORES, [Rule(0.0)])
    with pytest.raises(ValueError, match="no evidence"):
        apply_rules({"score": torch.ones(2)}, [Rule(0.0, ge=1, of="effect")])


def test_only_the_strongest_of_each_head_stay_changed():
    m = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    strength = torch.tensor([[1.0, 3.0, 3.0, 9.0], [0.0, 9.0, 9.0, 9.0]])
    assert keep_top(m, strength, 2).tolist() == [[1, 0, 0, 1], [0, 1, 1, 1]]
    assert keep_top(m, strength, 1).tolist() == [[1, 0, 1, 1], [0, 1, 1, 1]]
    assert torch.equal(keep_top(m, strength, 4), m)


def test_relevance_by_hand():
    g = unit(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    support, a = torch.tensor([[0, 1], [2, -1]]), torch.tensor([[0.5, 0.25], [0.4, 0.0]])
    half = 2**-0.5
    assert task_relevance(support, a, g, torch.tensor([0])).tolist() == pytest.approx([0.5 + 0.25 * half, 0.0])
    assert task_relevance(support, a, g, torch.tensor([0, 2])).tolist() == pytest.approx([0.5 + 0.25 * half, 0.4])
    assert task_relevance(support, a, g, torch.tensor([], dtype=torch.int64)).tolist() == [0, 0]
    assert task_multipliers(torch.tensor([0.2, 0.9])).tolist() == pytest.approx([0.8, 1.2])
    assert task_multipliers(torch.tensor([0.2, 0.9]), maximum=1.0).tolist() == pytest.approx([0.8, 1.0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 8))
def test_more_task_concepts_never_lower_the_relevance(seed, size):
    generator = torch.Generator().manual_seed(seed)
    g = unit(torch.randn(9, 5, generator=generator))
    support = torch.randint(0, 9, (4, 3), generator=generator)
    a = torch.rand(4, 3, generator=generator)
    order = torch.randperm(9, generator=generator)
    less, more = (task_relevance(support, a, g, order[:n]) for n in (size, size + 1))
    assert size == 0 or bool((more >= less - 1e-6).all())
    assert bool((task_multipliers(more) >= 0.8).all())
