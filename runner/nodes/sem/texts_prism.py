"""Sentences that PRISM learns from: one scene with a target word and every value, and with every target and one value's word.

Source: Molahasani et al. (2025), ICCV; how words are drawn where a class has several is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from runner.naming import article_for

_PLACE = re.compile(r"(?:\b([Aa])n?( +))?\{(\w+)\}")


class Sentences(NamedTuple):
    """``positives`` [samples][classes]: the target stays, the value changes; ``negatives`` [samples][targets] the reverse."""

    positives: list[list[str]]
    negatives: list[list[str]]


def filled(scene: str, words: Mapping[str, str]) -> str:
    """The scene with ``{name}`` replaced by its word; ``a`` or ``an`` directly before one follows the word's sound.

    Words enter as data: braces in them are never read as places, and places without a word stay.
    """

    def put(match: re.Match[str]) -> str:
        article, space, name = match.groups()
        if name not in words:
            return match.group()
        word = words[name]
        if article is None:
            return word
        return article + article_for(word)[1:] + space + word

    return _PLACE.sub(put, scene)


def sentences(
    scenes: Sequence[str], targets: Sequence[Sequence[str]], values: Sequence[Sequence[str]], samples: int, seed: int
) -> Sentences:
    """Draw ``samples`` times a scene, a target word and a value's word.

    ``targets`` and ``values``: words by class. Other classes take their word of the same place (from the first again where
    they have fewer), so that parallel lists stay parallel.
    """
    rng = np.random.default_rng(seed)
    found = Sentences([], [])
    for _ in range(samples):
        scene = scenes[int(rng.integers(len(scenes)))]
        target, word = _drawn(rng, targets)
        value, sign = _drawn(rng, values)
        one, other = targets[target][word], values[value][sign]
        found.positives.append([filled(scene, {"target": one, "bias": _at(words, sign)}) for words in values])
        found.negatives.append([filled(scene, {"target": _at(words, word), "bias": other}) for words in targets])
    return found


def _drawn(rng: np.random.Generator, words: Sequence[Sequence[str]]) -> tuple[int, int]:
    group = int(rng.integers(len(words)))
    return group, int(rng.integers(len(words[group])))


def _at(words: Sequence[str], place: int) -> str:
    return words[place % len(words)]
