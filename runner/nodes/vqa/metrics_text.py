"""Scores of free answers: exact match, VQA accuracy, ANLS, substring. Pure functions on texts.

Rules are those of the field as generally known; tables are our own. What departs from an official script is marked *ours*.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

_SPACES = re.compile(r"\s+")
_MARKS = re.compile(rf"(?![-.]\d)[{re.escape(string.punctuation)}]")

ARTICLES = frozenset({"a", "an", "the"})
SMALL_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(SMALL_NUMBERS)}
"""Words that VQA writes as digits."""

_CONTRACTED = (
    "ain't", "aren't", "can't", "could've", "couldn't", "couldn't've", "didn't", "doesn't", "don't", "hadn't", "hadn't've", "hasn't",
    "haven't", "he'd", "he'd've", "he's", "how'd", "how'll", "how's", "i'd've", "i'm", "i've", "isn't", "it'd", "it'd've", "it'll",
    "ma'am", "mightn't", "mightn't've", "might've", "mustn't", "must've", "needn't", "o'clock", "oughtn't", "shan't", "she'd've", "she's",
    "should've", "shouldn't", "shouldn't've", "somebody'll", "somebody's", "someone'll", "someone's", "something'll", "that'll", "that's",
    "there'd", "there'd've", "there're", "there's", "they'd", "they'd've", "they'll", "they're", "they've", "'twas", "wasn't", "we'd've",
    "we've", "weren't", "what'll", "what're", "what's", "what've", "when's", "where'd", "where's", "where've", "who'd", "who'd've",
    "who'll", "who's", "who've", "why'll", "why're", "why's", "won't", "would've", "wouldn't", "wouldn't've", "y'all", "you'd", "you'd've",
    "you'll", "you're", "you've",
)  # fmt: skip
CONTRACTIONS = {text.replace("'", ""): text for text in _CONTRACTED}
"""Contractions written without an apostrophe that are no words of their own (not: its, well, were, shell)."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


def plain(text: str) -> str:
    """Lower case, without ASCII punctuation, spaces collapsed: how exact match compares.

    *Ours*: a minus sign or point before a digit stays, so that 3.5 is not 35.
    """
    return _SPACES.sub(" ", _MARKS.sub("", text.lower())).strip()


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """1 where the answer is one of those accepted, up to case, punctuation and spaces."""
    said = plain(answer)
    # A symbol such as "+" is nothing but punctuation: it must be compared as it stands.
    return float(any(said == plain(text) if said else answer.strip() == text.strip() for text in accepted))


@functools.lru_cache(maxsize=8192)  # a benchmark has few distinct answers, each many times
def vqa_normalised(text: str) -> str:
    """An answer as VQA compares it: punctuation, articles, number words and contractions evened out (Antol et al., 2015).

    A punctuation mark next to a space, or in a text with a thousands separator, vanishes; another one becomes a space. A full
    stop vanishes unless a digit follows.
    """
    line = _SPACES.sub(" ", text).strip()
    thousands = _THOUSANDS.search(line) is not None
    kept = line
    for mark in _PUNCTUATION:
        if mark in kept:
            kept = kept.replace(mark, "" if thousands or f"{mark} " in line or f" {mark}" in line else " ")
    words = (DIGITS.get(word, word) for word in _FULL_STOP.sub("", kept).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, human: Sequence[str]) -> float:
    """Mean over the annotators of min(matches among the others / 3, 1) (VQAv2, leave one out).

    *Ours*: both sides are always evened out, while the official script does so only where annotators disagree; with fewer than
    four answers, which the formula was not made for, any match counts 1.
    """
    said = vqa_normalised(answer)
    matches = sum(said == vqa_normalised(text) for text in human)
    if len(human) < 4:
        return float(matches > 0)
    others = len(human) - matches
    return (matches * min((matches - 1) / 3, 1) + others * min(matches / 3, 1)) / len(human)


def anls(answer: str, accepted: Sequence[str], threshold: float = 0.5) -> float:
    """Best normalised Levenshtein similarity to an accepted answer, 0 where it is below ``threshold`` (Biten et al., 2019).

    Similarity 1 - distance / longer length, in lower case, spaces collapsed. As the official script, a similarity of exactly
    ``threshold`` counts.
    """
    said = _SPACES.sub(" ", answer).strip().lower()
    best = max(Levenshtein.normalized_similarity(said, _SPACES.sub(" ", text).strip().lower()) for text in accepted)
    return float(best) if best >= threshold else 0.0


def contains(answer: str, accepted: Sequence[str], *, spaces: bool = True) -> float:
    """1 where an accepted answer stands in the reply, in lower case (OCRBench); ``spaces=False`` compares without spaces and
    with case (its handwritten formulas)."""
    if not spaces:
        said = _SPACES.sub("", answer)
        return float(any(_SPACES.sub("", text) in said for text in accepted))
    said = _SPACES.sub(" ", answer).strip().lower()
    return float(any(_SPACES.sub(" ", text).strip().lower() in said for text in accepted))
