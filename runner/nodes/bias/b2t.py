"""Bias-to-Text: which words in the captions of wrongly classified pictures hint at a bias? Needs true labels. Pure.

**Positive score = bias against** pictures that fit the keyword: the opposite sign of phi.
Source: Kim et al., "Discovering and Mitigating Visual Biases through Keyword Explanation", arXiv 2301.11104.

Keywords are found by the package ``yake``, which is under the LGPL or GPL, version 3 (its metadata names both), not under
this project's licence: hence the extra ``b2t``, imported only when keywords are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from runner.errors import UsageError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Mark = Literal["", "M", "S"]

COSINE_SCALE = 100.0
KEYWORDS = 20
NGRAM = 3
DEDUPLICATION = 0.9

# A full stop on its own closes YAKE's blocks of words whatever the caption ends in; a line break alone does not.
_JOINT = " .\n"


class Keyword(NamedTuple):
    """A keyword and its YAKE score (smaller = more telling)."""

    text: str
    yake: float


class Keywords(NamedTuple):
    """The keywords of a text, best first, and those dropped because no single caption holds them."""

    kept: list[Keyword]
    spanning: list[str]


def join_captions(captions: Sequence[str]) -> str:
    """One text in which no candidate keyword can span two captions."""
    cleaned = (" ".join(caption.split()).rstrip(" .!?,;:") for caption in captions)
    return "".join(caption + _JOINT for caption in cleaned if caption)


def keywords(captions: Sequence[str], *, top: int = KEYWORDS) -> Keywords:
    """YAKE keywords of the captions: English, up to three words, de-duplicated at 0.9, the best ``top``.

    Keywords that stand in no caption are dropped and listed. Raises ``UsageError`` without the extra ``b2t``.
    """
    text = join_captions(captions)
    if not text:
        return Keywords([], [])
    extractor = keyword_extractor()(lan="en", n=NGRAM, dedup_lim=DEDUPLICATION, top=top)
    kept: list[Keyword] = []
    spanning: list[str] = []
    for word, score in extractor.extract_keywords(text):
        pattern = whole_words(word)
        if any(pattern.search(caption) for caption in captions):
            kept.append(Keyword(word, float(score)))
        else:
            spanning.append(word)
    return Keywords(kept, spanning)


def keyword_extractor() -> Any:
    """YAKE's class. Raises ``UsageError`` where it is not installed."""
    try:
        from yake import KeywordExtractor
    except ImportError as error:
        raise UsageError("Bias-to-Text needs yake for its keywords", hint="pip install 'vlm-runner[b2t]'") from error
    return KeywordExtractor


def whole_words(keyword: str) -> re.Pattern[str]:
    """Finds the keyword as whole words, in any case and spacing; its characters mean themselves."""
    inner = r"\s+".join(re.escape(word) for word in keyword.split())
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)


def mentioned(captions: Sequence[str], keyword: str) -> BoolArray:
    """Which captions hold the keyword as whole words; bool [n]. An empty keyword is in none."""
    if not keyword.strip():
        return np.zeros(len(captions), bool)
    pattern = whole_words(keyword)
    return np.fromiter((pattern.search(caption) is not None for caption in captions), bool, len(captions))


class Subgroup(NamedTuple):
    """Pictures whose caption holds a keyword: ``k`` right of ``n``; ``acc`` is NaN where there is none."""

    k: int
    n: int

    @property
    def acc(self) -> float:
        """k / n."""
        return self.k / self.n if self.n else float("nan")


def subgroup_accuracy(captions: Sequence[str], correct: ArrayLike, keyword: str) -> Subgroup:
    """Accuracy over a class's pictures whose caption holds the keyword; ``correct`` bool [n], one for each caption."""
    held = mentioned(captions, keyword)
    return Subgroup(int((held & np.asarray(correct, bool)).sum()), int(held.sum()))


def b2t_scores(images: ArrayLike, texts: ArrayLike, correct: ArrayLike) -> FloatArray:
    """Score per keyword: mean of 100 cos(image, text) over wrong pictures minus the mean over right ones; [m].

    ``images`` [n, dim] and ``texts`` [m, dim] of unit norm, ``correct`` bool [n]; all pictures of one class. Positive: the
    wrong pictures resemble the keyword more (bias *against* it). NaN where all are right or all are wrong.
    Cosines are linear in the picture, so the means are taken over pictures first: O(n dim + m dim).
    """
    vectors, right = np.asarray(images, np.float64), np.asarray(correct, bool)
    words = np.asarray(texts, np.float64)
    if right.all() or not right.any():
        return np.full(len(words), np.nan)
    return np.asarray(COSINE_SCALE * words @ (vectors[~right].mean(0) - vectors[right].mean(0)))


def b2t_intervals(
    images: ArrayLike, texts: ArrayLike, correct: ArrayLike, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """(low, high) of ``b2t_scores``, each [m]: Welch's interval of a difference of means.

    NaN where either side has fewer than two pictures.
    """
    right = np.asarray(correct, bool)
    n = np.array([(~right).sum(), right.sum()])
    if n.min() < 2:
        undefined = np.full(len(np.asarray(texts)), np.nan)
        return undefined, undefined.copy()
    cosines = COSINE_SCALE * np.asarray(images, np.float64) @ np.asarray(texts, np.float64).T
    error = np.stack([cosines[~right].var(0, ddof=1), cosines[right].var(0, ddof=1)]) / n[:, None]
    total = error.sum(0)
    # Degrees of freedom after Welch and Satterthwaite; without any spread they do not matter.
    spread = (error**2 / (n[:, None] - 1)).sum(0)
    freedom = np.divide(total**2, spread, out=np.full(total.shape, float(n.sum() - 2)), where=spread > 0)
    half = stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(total)
    score = b2t_scores(images, texts, correct)
    return score - half, score + half


def marks(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Mark]]:
    """The mark of each keyword of each class, from its scores {class: {keyword: score}}.

    Empty where the score is < 0 (or undefined); ``M`` where another class has the same keyword with a score > 0; else ``S``.
    """
    return {
        name: {word: _mark(score, word, [other for key, other in scores.items() if key != name]) for word, score in own.items()}
        for name, own in scores.items()
    }  # fmt: skip


def _mark(score: float, keyword: str, others: Sequence[Mapping[str, float]]) -> Mark:
    if np.isnan(score) or score < 0:
        return ""
    return "M" if any(other.get(keyword, 0.0) > 0 for other in others) else "S"
