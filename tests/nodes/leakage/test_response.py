"""Masking response by hand, for planted predictors, and against naive formulas."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.leakage.resampling import interval, resample_counts
from runner.nodes.leakage.response import (
    Response,
    Sums,
    locality_score,
    picture_spread,
    resampled_response,
    respond,
    response_sums,
    weighted_accuracy,
)

NAN = float("nan")


def whole(sums):
    return Sums(*(field.sum(0) for field in sums))


def groups_of(owner, parts):
    return torch.tensor([[o == part for o in owner] for part in range(parts)])


def test_by_hand_on_three_pictures():
    """Two parts, three concepts (two of part 0, one of part 1); picture 2 does not show part 1."""
    change = torch.tensor([
        [-0.4, 0.2, 0.1], [0.0, 0.1, -0.3],  # picture 0: part 0 hidden, part 1 hidden
        [0.2, NAN, 0.0], [0.1, 0.1, 0.5],  # picture 1: the second concept has no answer
        [-0.6, 0.0, 0.9],  # picture 2: part 0 hidden; its concept of part 1 does not count
    ])  # fmt: skip
    usable = torch.tensor([[True] * 3] * 4 + [[True, True, False]])
    sums = response_sums(change, usable, torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 0]), 3, 2)
    owner = torch.tensor([0, 0, 1])
    found = respond(whole(sums), owner, groups_of([0, 0, 1], 2))
    expected = [[(0.4 + 0.2 + 0.2 + 0.6 + 0.0) / 5, (0.0 + 0.1 + 0.1 + 0.1) / 4], [0.05, 0.4]]
    torch.testing.assert_close(found.matrix, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)
    signed = [[(-0.4 + 0.2 + 0.2 - 0.6) / 5, 0.3 / 4], [0.05, 0.1]]
    torch.testing.assert_close(found.signed, torch.tensor(signed, dtype=torch.float64), rtol=0, atol=1e-7)
    assert found.own.item() == pytest.approx((0.28 + 0.4) / 2)
    assert found.other.item() == pytest.approx((0.075 + 0.05) / 2)
    assert found.score.item() == pytest.approx(0.34 / (0.34 + 0.0625))
    assert found.concept_own.tolist() == pytest.approx([0.4, 0.1, 0.4])
    assert found.concept_other.tolist() == pytest.approx([0.05, 0.1, 0.05])
    std, n = picture_spread(sums, groups_of([0, 0, 1], 2))
    means = [0.3, 0.2, 0.3]  # of part 0's concepts with part 0 hidden, picture by picture
    mean = sum(means) / 3
    assert std[0, 0].item() == pytest.approx(math.sqrt(sum((m - mean) ** 2 for m in means) / 2))
    assert n.tolist() == [[3, 2], [2, 2]]


def planted(reads, pictures=200, parts=3):
    """One concept a part; ``reads(bits, part)`` is the predictor. Hiding part k sets its bit to 0."""
    bits = torch.randint(0, 2, (pictures, parts), generator=torch.Generator().manual_seed(5)).double()
    plain = torch.stack([reads(bits, q) for q in range(parts)], 1)
    change, picture, hidden = [], [], []
    for k in range(parts):
        masked = bits.clone()
        masked[:, k] = 0
        change.append(torch.stack([reads(masked, q) for q in range(parts)], 1) - plain)
        picture.append(torch.arange(pictures))
        hidden.append(torch.full((pictures,), k))
    values = torch.cat(change)
    return response_sums(
        values, torch.ones_like(values, dtype=torch.bool), torch.cat(picture), torch.cat(hidden), pictures, parts
    )


def measured(sums, parts=3):
    owner = list(range(parts))
    return respond(whole(sums), torch.tensor(owner), groups_of(owner, parts))


def test_a_predictor_that_reads_only_its_part_has_score_one():
    found = measured(planted(lambda bits, q: bits[:, q]))
    assert found.score.item() == 1 and found.other.item() == 0 and found.own.item() == pytest.approx(0.5, abs=0.1)
    assert found.concept_score.tolist() == [1, 1, 1]


def test_a_predictor_that_reads_the_whole_picture_has_score_one_half():
    found = measured(planted(lambda bits, q: bits.mean(1)))
    assert found.score.item() == pytest.approx(0.5, abs=0.03)
    wrong = measured(planted(lambda bits, q: bits[:, (q + 1) % 3]))
    assert wrong.score.item() == 0  # reads another part only


def test_nothing_changes_so_nothing_is_said():
    found = measured(planted(lambda bits, q: torch.full((len(bits),), 0.7, dtype=torch.float64)))
    assert found.own.item() == 0 and math.isnan(found.score.item())
    assert math.isnan(locality_score(torch.tensor(0.0), torch.tensor(0.0)).item())


def test_concepts_of_the_whole_object_are_shown_and_not_scored():
    sums = planted(lambda bits, q: bits[:, q])
    wide = Sums(*(torch.cat([field, field[..., :1]], -1) for field in sums))  # a fourth concept, of no part
    groups = torch.cat([groups_of([0, 1, 2, -1], 3), torch.tensor([[False, False, False, True]])])
    found = respond(whole(wide), torch.tensor([0, 1, 2, -1]), groups)
    assert found.score.item() == 1 and found.matrix.shape == (4, 3)
    torch.testing.assert_close(found.matrix[3], found.matrix[0])
    assert found.concept_own.isnan().tolist() == [False] * 3 + [True] == found.concept_other.isnan().tolist()


def test_a_pair_without_pictures_is_nan_and_left_out_of_the_means():
    sums = planted(lambda bits, q: bits[:, q])
    never = Sums(*(field.clone() for field in sums))
    for field in never:
        field[:, 1, 0] = 0  # part 1 never hidden for concept 0
    found = measured(never)
    assert found.matrix.isnan().sum() == 1 and found.matrix[0, 1].isnan()
    assert found.score.item() == 1


def test_intervals_hold_the_estimate_and_are_those_of_repeated_pictures():
    sums = planted(lambda bits, q: bits[:, q] * 0.8 + 0.1 * bits.mean(1), pictures=60)
    owner, groups = torch.tensor([0, 1, 2]), groups_of([0, 1, 2], 3)
    counts = resample_counts(60, 300, 4)
    draws = resampled_response(sums, owner, groups, counts)
    point = respond(whole(sums), owner, groups)
    rows = torch.arange(60).repeat_interleave(counts[7].long())
    repeated = respond(whole(Sums(*(field[rows] for field in sums))), owner, groups)
    for name in Response._fields:
        drawn, value = getattr(draws, name), getattr(point, name)
        assert drawn.shape == (300, *value.shape)
        torch.testing.assert_close(drawn[7], getattr(repeated, name))
        low, high = interval(drawn)
        assert (low <= value).all() and (value <= high).all()
    low, high = interval(draws.matrix)
    assert (low < high).all()


rows_of_truth = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9, NAN]), st.sampled_from([0.0, 1.0, NAN]), st.integers(0, 3)),
    min_size=1, max_size=15,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rows_of_truth)
def test_accuracy_is_that_of_repeated_pictures(rows):
    values, truth, weights = (torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True))
    accuracy = weighted_accuracy(values[:, None], truth[:, None], weights[None])[0, 0].item()
    repeated = [(v, t) for v, t, w in rows for _ in range(w) if v == v and t == t]
    if repeated:
        assert accuracy == pytest.approx(sum((v > 0.5) == (t > 0.5) for v, t in repeated) / len(repeated))
    else:
        assert math.isnan(accuracy)


def test_every_part_weighs_the_same_however_many_concepts_it_has():
    change = torch.tensor([[0.4, 0.4, 0.4, 0.1], [0.0, 0.0, 0.0, 0.3]])
    sums = response_sums(
        change, torch.ones_like(change, dtype=torch.bool), torch.zeros(2, dtype=torch.int64), torch.arange(2), 1, 2
    )
    found = respond(whole(sums), torch.tensor([0, 0, 0, 1]), groups_of([0, 0, 0, 1], 2))
    assert found.own.item() == pytest.approx((0.4 + 0.3) / 2) and found.other.item() == pytest.approx(0.1 / 2)
    for a, b in itertools.pairwise(found.concept_own[:3].tolist()):
        assert a == b
