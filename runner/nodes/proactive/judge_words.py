"""Ideas in a short text, known by their words: which requests an answer makes, whether it names a category, whether it abstains.

Rules and words are ours (``judge_words.yaml``). They read English, sentence by sentence, and know negation only by its nearness: a negator
at most six words before a word cancels it, unless a word such as *unless* or *please* stands between.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

Sentence = tuple[str, ...]
Group = re.Pattern[str]
Pattern = tuple[Group, ...]

REACH = 7
"""Words between the first group of a pattern and the others, at most."""
NEGATION_REACH = 6
"""Words over which a negator reaches."""
MOST_CHARACTERS = 20_000
"""Of an answer that are read."""

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SENTENCE = re.compile(r"[.!?;\n]+")
_WORD = re.compile(r"[^\W_]+|,")
_COMMA = ","


@dataclass(frozen=True)
class Words:
    """The data file, ready to be matched. ``actions``: which of a scenario's actions an answer names."""

    negators: Group
    breakers: Group
    ideas: Mapping[str, tuple[Pattern, ...]]
    abstain: tuple[Pattern, ...]
    actions: Mapping[str, Group]


@functools.cache
def judge_words() -> Words:
    """The packaged words."""
    from runner.spec.yaml12 import Yaml12Loader  # `no` is a word here

    text = resources.files("runner.nodes.proactive").joinpath("judge_words.yaml").read_text("utf8")
    data: dict[str, Any] = Yaml12Loader(text).get_single_data()
    return Words(
        _group(data["negators"]), _group(data["breakers"]),
        {name: _patterns(patterns) for name, patterns in data["ideas"].items()},
        _patterns(data["abstain"]), {name: _group(entries) for name, entries in data["actions"].items()},
    )  # fmt: skip


def _patterns(raw: Sequence[Sequence[Sequence[str]]]) -> tuple[Pattern, ...]:
    return tuple(tuple(_group(group) for group in pattern) for pattern in raw)


def _group(entries: Sequence[str]) -> Group:
    """Finds every place in words with one blank between where an entry begins, the longest entry first."""
    ways = (re.escape(entry).replace(r"\*", r"\w*") for entry in sorted(entries, key=len, reverse=True))
    return re.compile(rf"(?<!\S)(?=({'|'.join(ways)})(?!\S))")


# --- reading -----------------------------------------------------------------------------------------------------------


def sentences(text: str) -> list[Sentence]:
    """Words of each sentence, lower case; ``can't`` and ``cannot`` become two words, digits up to 12 become words, commas stay."""
    plain = text[:MOST_CHARACTERS].replace("’", "'").lower()  # noqa: RUF001 (the typographic apostrophe is meant)
    apart = re.sub(r"\bcan(?:'t|not)\b", "can not", plain)
    apart = re.sub(r"n't\b", " not", apart)
    found = [tuple(map(_spelled, _WORD.findall(part))) for part in _SENTENCE.split(apart)]
    return [words for words in found if words]


def _spelled(word: str) -> str:
    return _NUMBERS[int(word)] if word.isascii() and word.isdigit() and len(word) < 3 and int(word) <= 12 else word


def _starts(sentence: Sentence, group: Group) -> Iterator[tuple[int, int]]:
    """(place, words) of each entry of ``group`` in ``sentence``."""
    text = " ".join(sentence)
    for found in group.finditer(text):
        yield text.count(" ", 0, found.start()), found[1].count(" ") + 1


def negated(sentence: Sentence, place: int, words: Words) -> bool:
    """Whether a negator shortly before ``place`` reaches it: no comma and no breaker stands between."""
    before = sentence[max(0, place - NEGATION_REACH) : place]
    ends = [start + length for start, length in _starts(before, words.negators)]
    if not ends:
        return False
    between = before[max(ends) :]
    return _COMMA not in between and next(_starts(between, words.breakers), None) is None


def _fits(sentence: Sentence, pattern: Pattern, words: Words, negation: bool) -> bool:
    first, *others = pattern
    heads = [p for p, _ in _starts(sentence, first) if not (negation and negated(sentence, p, words))]
    if not heads:
        return False
    rest = [[p for p, _ in _starts(sentence, group)] for group in others]
    return any(all(any(0 < abs(p - head) <= REACH for p in places) for places in rest) for head in heads)


def ideas_in(text: str, words: Words | None = None) -> frozenset[str]:
    """Names of the ideas that ``text`` expresses without negating them."""
    words = words or judge_words()
    parts = sentences(text)
    return frozenset(
        name for name, patterns in words.ideas.items()
        if any(_fits(part, pattern, words, True) for part in parts for pattern in patterns)
    )  # fmt: skip


def abstains(text: str, words: Words | None = None) -> bool:
    """Whether ``text`` says that it cannot tell."""
    words = words or judge_words()
    return any(_fits(part, pattern, words, False) for part in sentences(text) for pattern in words.abstain)


def mentions(text: str, name: str, words: Words | None = None) -> bool:
    """Whether ``text`` names ``name`` (words in order, last one also in the plural) without negating it. A blank name is never named."""
    words = words or judge_words()
    bare = name.replace("_", " ").rstrip(". ")
    wanted = [word for part in sentences(bare) for word in part]
    # A name such as "St. Bernard" would otherwise be torn apart where sentences end.
    text = text.replace(".", " ") if "." in bare else text
    parts = sentences(text.replace("_", " "))
    return any(not negated(part, place, words) for part in parts for place in _places(part, wanted))


def _places(sentence: Sentence, wanted: Sequence[str]) -> Iterator[int]:
    if not wanted:
        return
    *head, last = wanted
    forms = {last, f"{last}s", f"{last}es", f"{last[:-1]}ies" if last.endswith("y") else last}
    for place in range(len(sentence) - len(wanted) + 1):
        if list(sentence[place : place + len(head)]) == head and sentence[place + len(head)] in forms:
            yield place


def named_action(text: str, actions: Sequence[str], words: Words | None = None) -> str | None:
    """Which of ``actions`` the text names first without negating it; None where it names none of them."""
    words = words or judge_words()
    found = [
        (number, place, action)
        for number, part in enumerate(sentences(text))
        for action in dict.fromkeys(actions)
        if action in words.actions
        for place, _ in _starts(part, words.actions[action])
        if not negated(part, place, words)
    ]
    return min(found)[2] if found else None
