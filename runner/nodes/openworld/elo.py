"""Elo ratings of players from paired comparisons. Pure numpy.

Source: the ranking of "On Large Multimodal Models as Open-World Image Classifiers" (arXiv 2503.21851).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

START = 1000.0
SCALE = 400.0


class EloRatings(NamedTuple):
    """Ratings [players]: ``online`` after one pass, ``final`` the median over ``shards`` [shards, players]."""

    online: Values
    final: Values
    shards: Values


class Games(NamedTuple):
    """Games in order of play: numbers of both players, int64 [g]; outcome for the first (1, 0.5, 0), float64 [g]."""

    first: Indices
    second: Indices
    score: Values


def elo_ratings(
    first: ArrayLike, second: ArrayLike, score: ArrayLike, players: int,
    *, k: float = 16.0, shards: int = 100, zero_sum: bool = True, seed: int = 1234,
) -> EloRatings:  # fmt: skip
    """Rate ``players`` (numbered from 0) that all start at 1000.

    Online: one pass in the order given. Final: the games are shuffled (``seed``) and cut into contiguous shards, each is
    replayed from 1000, and a player's rating is its median over shards. With fewer games than ``shards`` there is one
    game a shard (ours). ``zero_sum``: both players move by the same amount, so ratings add up to 1000 a player.
    Raises ValueError for no games, unknown players, a player against itself, or scores outside [0, 1].
    """
    games = _checked(first, second, score, players)
    count = len(games.score)
    online = replay(games, np.array([0]), np.array([count]), players, k=k, zero_sum=zero_sum)[0]
    shuffled = np.random.default_rng(seed).permutation(count)
    cut = min(shards, count)
    sizes = np.full(cut, count // cut) + (np.arange(cut) < count % cut)
    mixed = Games(games.first[shuffled], games.second[shuffled], games.score[shuffled])
    rounds = replay(mixed, np.cumsum(sizes) - sizes, sizes, players, k=k, zero_sum=zero_sum)
    return EloRatings(online, np.median(rounds, axis=0), rounds)


def _checked(first: ArrayLike, second: ArrayLike, score: ArrayLike, players: int) -> Games:
    games = Games(np.asarray(first, np.int64), np.asarray(second, np.int64), np.asarray(score, np.float64))
    sides: NDArray[Any] = np.concatenate([games.first, games.second])
    if not len(games.first) == len(games.second) == len(games.score) or not len(games.score):
        raise ValueError("an Elo rating needs games, each with two players and one score")
    if sides.min() < 0 or sides.max() >= players or np.any(games.first == games.second):
        raise ValueError(f"games are between two different players of the {players}")
    if not np.all((games.score >= 0) & (games.score <= 1)):
        raise ValueError("scores of games are 1, 0.5 or 0 for the first player")
    return games


def replay(games: Games, starts: Indices, sizes: Indices, players: int, *, k: float, zero_sum: bool) -> Values:
    """Ratings [shards, players] after each shard was played by itself from 1000; shard s is ``sizes[s]`` games from ``starts[s]``.

    Games of a shard follow one another by nature; the shards go side by side.
    """
    ratings = np.full((len(starts), players), START)
    for turn in range(int(sizes.max())):
        shard = np.flatnonzero(turn < sizes)
        game = starts[shard] + turn
        a, b = games.first[game], games.second[game]
        gain_a, gain_b = gains(ratings[shard, a], ratings[shard, b], games.score[game], k=k, zero_sum=zero_sum)
        ratings[shard, a] += gain_a
        ratings[shard, b] += gain_b
    return ratings


def gains(
    rating_a: ArrayLike, rating_b: ArrayLike, score: ArrayLike, *, k: float, zero_sum: bool
) -> tuple[Values, Values]:
    """What both players gain: k (S - E_a) and k ((1 - S) - E_b), with E_a = 1 / (1 + 10^((R_b - R_a) / 400)).

    ``zero_sum``: half the difference of the two for the first player, and its opposite for the second.
    """
    a, b, s = (np.asarray(x, np.float64) for x in (rating_a, rating_b, score))
    gain_a = k * (s - 1 / (1 + 10 ** ((b - a) / SCALE)))
    gain_b = k * ((1 - s) - 1 / (1 + 10 ** ((a - b) / SCALE)))
    if zero_sum:
        gain_a = (gain_a - gain_b) / 2
        gain_b = -gain_a
    return gain_a, gain_b
