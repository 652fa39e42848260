"""Metrics of open-world classification: free text against one class name. Pure functions on arrays and strings.

Sources: "On Large Multimodal Models as Open-World Image Classifiers" (arXiv 2503.21851; OWC below) for text inclusion, exact
match, judged inclusion, semantic and concept similarity; "Large Multimodal Models as General In-Context Classifiers"
(arXiv 2602.23229; CIRCLE below) for the median concept similarity and the intersection over union of words.

Each function returns one value an answer, so that means, intervals and tables are made elsewhere and alike for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.inclusion import same_length, text_inclusion
from runner.nodes.openworld.elo import EloRatings, elo_ratings

if TYPE_CHECKING:
    from runner.models.base import FloatArray

__all__ = [
    "THRESHOLDS",
    "ConceptSimilarity",
    "EloRatings",
    "Embedded",
    "JudgeParse",
    "concept_similarity",
    "elo_ratings",
    "embed_distinct",
    "error_quadrants",
    "exact_match",
    "indexed_similarity",
    "mean_average_similarity",
    "parse_judge_reply",
    "semantic_similarity",
    "text_inclusion",
    "textual_iou",
]

Values = NDArray[np.float64]
Indices = NDArray[np.int64]
Encode = Callable[[Sequence[str]], "FloatArray"]
JudgeParse = Literal["strict", "first_digit", "constrained"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
_ROWS_AT_ONCE = 16_384
_NOT_A_WORD = re.compile(r"[^a-z\s]")


# --- strings ---------------------------------------------------------------------------------------------------------


def exact_match(references: Sequence[str], predictions: Sequence[str | None]) -> NDArray[np.bool_]:
    """Whether both are equal without commas, dollar signs and case; bool [n]; spaces count. A missing prediction is wrong.

    Source: OWC. Raises ValueError where the numbers of references and predictions differ.
    """
    same_length(references, predictions)
    pairs = zip(references, predictions, strict=True)
    equal = (p is not None and _unpunctuated(r) == _unpunctuated(p) for r, p in pairs)
    return np.fromiter(equal, np.bool_, len(references))


def _unpunctuated(text: str) -> str:
    return text.replace(",", "").replace("$", "").lower()


def textual_iou(references: Sequence[str], predictions: Sequence[str | None]) -> Values:
    """Intersection over union of word sets, float64 [n] in [0, 1]; NaN for a missing prediction.

    Both are split at single spaces. Words of the reference stay as they are (also their case); words of the prediction are
    stripped, lower-cased and lose everything but the letters a to z and white space, so that a word of digits becomes
    the empty word, which counts. Source: CIRCLE's code. Raises ValueError where the numbers differ.
    """
    same_length(references, predictions)
    pairs = zip(references, predictions, strict=True)
    return np.fromiter((np.nan if p is None else _iou(r, p) for r, p in pairs), np.float64, len(references))


def _iou(reference: str, prediction: str) -> float:
    wanted, said = set(reference.split(" ")), {_word(word) for word in prediction.split(" ")}
    union = wanted | said
    return len(wanted & said) / len(union) if union else 0.0


def _word(word: str) -> str:
    """Line breaks, quotes and commas go first: what is strip-ped afterwards are the blanks that they hid."""
    return _NOT_A_WORD.sub("", re.sub(r"[\n\"',]", "", word.strip()).strip().lower())


def parse_judge_reply(reply: str, mode: JudgeParse = "strict") -> int | None:
    """The verdict in a judge's reply: 1 = a good answer, 0 = not, None = unparsable.

    ``strict`` (the published rule, the comparable one): the reply is exactly "0" or "1", so that "1.", " 1" and "Yes" are
    unparsable. ``first_digit``: the first digit of the reply, where it is 0 or 1. ``constrained``: for servers that were
    allowed nothing but the two choices; white space and quotation marks around the choice are ignored.
    """
    if mode == "first_digit":
        reply = next((character for character in reply if character in "0123456789"), "")
    elif mode == "constrained":
        reply = reply.strip().strip("\"'").strip()
    elif mode != "strict":
        raise ValueError(f"unknown way to read a judge's reply: {mode!r}; it is strict, first_digit or constrained")
    return {"0": 0, "1": 1}.get(reply)


# --- embeddings ------------------------------------------------------------------------------------------------------


class Embedded(NamedTuple):
    """Texts by their distinct strings: ``vectors`` float32 [m, d], unit norm; text i has row ``rows[i]``, int64 [n]."""

    vectors: FloatArray
    rows: Indices

    def gathered(self) -> FloatArray:
        """One vector a text, float32 [n, d]."""
        return self.vectors[self.rows]


def embed_distinct(texts: Sequence[str], encode: Encode) -> Embedded:
    """Embed every distinct string once, in order of length (like lengths share a batch), and say which row is whose.

    ``encode``: strings to unit vectors float32 [m, d], as ``SentenceEncoder.encode`` does.
    """
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    place = {text: row for row, text in enumerate(distinct)}
    rows = np.fromiter((place[text] for text in texts), np.int64, len(texts))
    return Embedded(encode(distinct), rows)


def semantic_similarity(predictions: FloatArray, references: FloatArray) -> Values:
    """Cosine of prediction and reference, row by row: unit vectors [n, d] twice to float64 [n] in [-1, 1], never clipped.

    Source: OWC, SS = <g(prediction), g(reference)>; summed in float64. Raises ValueError where the shapes differ.
    """
    if predictions.shape != references.shape:
        raise ValueError(
            f"vectors of predictions {predictions.shape} and references {references.shape} differ in shape"
        )
    everything = np.arange(len(predictions))
    joined = np.concatenate([predictions, references])
    return indexed_similarity(joined, everything, everything + len(predictions))


def indexed_similarity(vectors: FloatArray, left: Indices, right: Indices) -> Values:
    """Cosines of the pairs (``left[i]``, ``right[i]``) of rows of unit ``vectors`` [m, d]; float64 [n]; in blocks."""
    result = np.empty(len(left), np.float64)
    for start in range(0, len(left), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        one, other = vectors[left[block]].astype(np.float64), vectors[right[block]].astype(np.float64)
        result[block] = np.einsum("nd,nd->n", one, other)
    return result


def mean_average_similarity(similarity: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> tuple[Values, Values]:
    """Whether each similarity [n] reaches each threshold, float64 [n, t] of 0 and 1, and the mean over thresholds [n].

    Means over answers are the shares SS >= t and the mean-average semantic similarity (OWC's code). NaN stays NaN.
    Raises ValueError for thresholds outside [-1, 1] or none.
    """
    if not thresholds or not all(-1 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"thresholds must be one or more cosines in [-1, 1], not {list(thresholds)}")
    values = np.asarray(similarity, np.float64)[:, None]
    reached = np.where(np.isnan(values), np.nan, values >= np.asarray(thresholds, np.float64))
    return reached, reached.mean(1)


class ConceptSimilarity(NamedTuple):
    """Reductions over the concepts of each answer, float64 [n]: bCS, mCS, mean and least."""

    best: Values
    median: Values
    mean: Values
    least: Values


def concept_similarity(similarity: ArrayLike, counts: ArrayLike) -> ConceptSimilarity:
    """Best, median, mean and least similarity of each answer's concepts.

    ``similarity``: cosines of all concepts with their answer's reference, answers one after the other [c]; ``counts``:
    concepts of each answer [n], all >= 1 (the whole prediction is a concept). The median of an even number is the lower
    of the middle two, as torch takes it. Source: OWC (bCS), CIRCLE (mCS). Raises ValueError for other counts.
    """
    values, sizes = np.asarray(similarity, np.float64), np.asarray(counts, np.int64)
    if np.any(sizes < 1) or sizes.sum() != len(values):
        raise ValueError(f"{len(values)} concepts cannot be those of answers with {sizes.sum()}, at least 1 each")
    if not len(sizes):
        return ConceptSimilarity(*(np.empty(0) for _ in range(4)))
    starts = np.cumsum(sizes) - sizes
    ordered = values[np.lexsort((values, np.repeat(np.arange(len(sizes)), sizes)))]
    mean = np.add.reduceat(values, starts) / sizes
    return ConceptSimilarity(ordered[starts + sizes - 1], ordered[starts + (sizes - 1) // 2], mean, ordered[starts])


# --- errors ----------------------------------------------------------------------------------------------------------


def error_quadrants(correct: ArrayLike, closeness: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Cell of the table of correctness and closeness, int64 [n]: 0 hit and close, 1 hit and far, 2 miss and close, 3 miss and far.

    ``correct``: the judge's verdict (1, 0, NaN = none) [n]; ``closeness``: bCS [n]. Close means >= ``threshold``; -1 where
    either is NaN. The axes are OWC's; the threshold and the table are ours.
    """
    verdict, close = np.asarray(correct, np.float64), np.asarray(closeness, np.float64)
    cell: NDArray[Any] = 2 * (verdict < 0.5).astype(np.int64) + (close < threshold)
    return np.where(np.isnan(verdict) | np.isnan(close), -1, cell)
