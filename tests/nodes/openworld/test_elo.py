"""Elo ratings: games computed by hand, one by one, and what must hold for any games."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.openworld.elo import elo_ratings, gains

GAMES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=60
)


def played(games):
    first = [a for a, _, _ in games]
    return first, [(a + step) % 4 for a, step, _ in games], [score for _, _, score in games]


def one_by_one(first, second, score, players, k=16.0):
    """The textbook's update, game by game."""
    rating = [1000.0] * players
    for a, b, s in zip(first, second, score, strict=True):
        expected = 1 / (1 + 10 ** ((rating[b] - rating[a]) / 400))
        rating[a], rating[b] = rating[a] + k * (s - expected), rating[b] + k * ((1 - s) - (1 - expected))
    return rating


def test_three_games_by_hand():
    # A beats B: both expect 1/2, so 8 points change hands. Then a draw: A expects 1/(1 + 10^-0.04) = 0.5230096 and gives
    # 16 * 0.0230096 = 0.3681535. Then B beats C, who both stand where they stood: 992.3681535 against 1000.
    ratings = elo_ratings([0, 0, 1], [1, 1, 2], [1, 0.5, 1], 3, shards=1)
    expected_b = 1 / (1 + 10 ** ((1000 - 992.3681535) / 400))
    np.testing.assert_allclose(
        ratings.online, [1007.6318465, 992.3681535 + 16 * (1 - expected_b), 1000 - 16 * (1 - expected_b)], atol=1e-6
    )


@settings(deadline=None, max_examples=60)
@given(GAMES, st.integers(1, 8), st.integers(0, 5))
def test_any_games(games, shards, seed):
    first, second, score = played(games)
    ratings = elo_ratings(first, second, score, 4, shards=shards, seed=seed)
    free = elo_ratings(first, second, score, 4, shards=shards, seed=seed, zero_sum=False)
    np.testing.assert_allclose(ratings.online, one_by_one(first, second, score, 4), atol=1e-8)
    np.testing.assert_allclose(ratings.online.sum(), 4000, atol=1e-8)
    np.testing.assert_allclose(ratings.shards.sum(1), 4000, atol=1e-8)
    np.testing.assert_allclose(free.shards, ratings.shards, atol=1e-8)  # E_a + E_b = 1
    np.testing.assert_array_equal(ratings.final, np.median(ratings.shards, axis=0))


@settings(deadline=None, max_examples=30)
@given(GAMES, st.integers(1, 8))
def test_shards_are_contiguous_parts_of_one_shuffle(games, shards):
    first, second, score = (np.array(part) for part in played(games))
    ratings = elo_ratings(first, second, score, 4, shards=shards, seed=3)
    order = np.random.default_rng(3).permutation(len(score))
    parts = np.array_split(order, min(shards, len(score)))
    expected = [one_by_one(first[part], second[part], score[part], 4) for part in parts]
    np.testing.assert_allclose(ratings.shards, expected, atol=1e-8)


@settings(deadline=None)
@given(st.floats(0, 3000), st.floats(0, 3000), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_a_mirrored_game_is_the_mirrored_update(a, b, score, zero_sum):
    gain_a, gain_b = gains(a, b, score, k=16, zero_sum=zero_sum)
    mirrored = gains(b, a, 1 - score, k=16, zero_sum=zero_sum)
    np.testing.assert_allclose(mirrored, (gain_b, gain_a), atol=1e-9)


def test_the_better_player_ends_above():
    rng = np.random.default_rng(0)
    first, second = np.zeros(2000, int), np.ones(2000, int)
    ratings = elo_ratings(first, second, (rng.random(2000) < 0.8).astype(float), 2)
    assert ratings.final[0] > 1010 and ratings.final[1] < 990 and ratings.shards.shape == (100, 2)


@pytest.mark.parametrize(
    ("first", "second", "score", "what"),
    [
        ([], [], [], "needs games"),
        ([0], [1], [1, 0], "needs games"),
        ([0], [0], [1], "two different players"),
        ([0], [2], [1], "two different players"),
        ([-1], [1], [1], "two different players"),
        ([0], [1], [2], "1, 0.5 or 0"),
        ([0], [1], [np.nan], "1, 0.5 or 0"),
    ],
)
def test_impossible_games(first, second, score, what):
    with pytest.raises(ValueError, match=what):
        elo_ratings(first, second, score, 2)
