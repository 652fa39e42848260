"""Which tokens have a high norm, and vectors without them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.leakage.token_norms import distance_without, high_norm


def test_threshold_by_hand():
    norms = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 8.1], [1.0] * 7])
    # median 4, deviations 3 2 1 0 1 4 4.1: median 2, threshold 14
    assert not high_norm(norms).any()
    assert high_norm(norms, 2.0).tolist()[0] == [False] * 6 + [True]  # 4 + 2 x 2 = 8, strictly above
    assert high_norm(torch.tensor([1.0, 1.0, 1.0, 1.0, 1.001])).tolist() == [False] * 4 + [True]  # no spread at all


@given(st.lists(st.floats(0.125, 64, width=32), min_size=3, max_size=12), st.sampled_from([0.25, 2.0, 8.0]))
def test_scale_and_order_change_nothing(values, scale):
    norms = torch.tensor(values)
    found = high_norm(norms)
    assert (high_norm(scale * norms) == found).all() and (high_norm(norms.flip(0)).flip(0) == found).all()


def test_distances_without_high_norm_tokens():
    """The part's ordinary tokens stay; its artefact turns round, and carries the whole change."""
    before = torch.tensor([[[1.0, 0], [1, 0], [9, 0], [0, 5]]])
    after = torch.tensor([[[1.0, 0], [1, 0], [-9, 0], [7, 7]]])
    part = torch.tensor([[True, True, True, False]])
    high = torch.tensor([[False, False, True, False]])
    found = distance_without(before, after, high, high, part)
    assert float(found.all_tokens) == 2 and float(found.without) == 0
    alone = distance_without(before, after, high, high, high)
    assert float(alone.all_tokens) == 2 and alone.without.isnan()
    either = distance_without(before, after, torch.zeros_like(high), high, part)
    assert float(either.without) == 0
