"""Answers of CaSED and of text retrieval for the pictures of datasets."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runner.artifacts import Datasets, ImageFeatures
from runner.context import StepContext
from runner.data.places import Place
from runner.data.sampling import sampled
from runner.data.sources import open_sources
from runner.errors import DataError
from runner.models.base import ImageTextEncoder
from runner.models.contrastive.vocabulary import TextVectors
from runner.nodes.classify.cased import cased_scores
from runner.nodes.classify.features import check_encoder, image_rows
from runner.nodes.classify.words import Lexicon, candidate_words
from runner.nodes.embedding import ImageTower, embed
from runner.nodes.text_embedding import embed_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]
    Places = NDArray[np.int64]

Row = dict[str, Any]
_CHUNK = 512  # pictures scored together
_TAGGED = 2**18  # words whose parts of speech are remembered


class Queries(NamedTuple):
    """Pictures with vectors float32 [n, dim], row for row, and those without, with the reason."""

    rows: list[Row]
    vectors: FloatArray
    failed: list[tuple[Row, str]]


def queries(images: Datasets, split: str, limit: int | None, seed: int) -> list[Row]:
    """Rows of the split, at most ``limit`` a dataset. Raises ``DataError`` for a dataset without pictures in it."""
    rows, chosen = image_rows(images), list[Row]()
    for name in (dataset["dataset"] for dataset in images.datasets):
        own = [row for row in rows if row["dataset"] == name]
        wanted = [row for row in own if row["split"] == split]
        if not wanted:
            there = ", ".join(sorted({row["split"] for row in own})) or "none"
            raise DataError(f"{name} has no picture in the split {split!r}", hint=f"Its splits are: {there}.")
        chosen += sampled(wanted, limit, seed, lambda row: str(row["sample_id"]))
    return chosen


def embedded(
    ctx: StepContext,
    encoder: ImageTextEncoder,
    images: Datasets,
    rows: Sequence[Row],
    features: ImageFeatures | None,
    batch_size: int,
) -> Queries:
    """Vectors of the pictures, from ``features`` where given. Those without one are reported as failed."""
    if features is None:
        vectors, why = _encoded(ctx, encoder, images, rows, batch_size)
    else:
        check_encoder(encoder, features)
        known = {(row["dataset"], row["sample_id"]): i for i, row in enumerate(features.rows.to_pylist())}
        places = [known.get((row["dataset"], row["sample_id"])) for row in rows]
        vectors = [None if place is None else features.features["features"][place] for place in places]
        why = ["the picture has no features"] * len(rows)
    kept = [i for i, vector in enumerate(vectors) if vector is not None]
    lost = [(rows[i], why[i]) for i, vector in enumerate(vectors) if vector is None]
    for row, reason in lost:
        ctx.failed(f"{row['dataset']}/{row['sample_id']}", reason)
    found = np.stack([vectors[i] for i in kept]) if kept else np.zeros((0, encoder.dim), np.float32)
    return Queries([rows[i] for i in kept], np.ascontiguousarray(found, np.float32), lost)


def _encoded(
    ctx: StepContext, encoder: ImageTextEncoder, images: Datasets, rows: Sequence[Row], batch_size: int
) -> tuple[list[Any], list[str]]:
    places = [Place(row["source_id"], row["uri"]) for row in rows]
    found = embed(ctx, ImageTower(encoder), open_sources(images.corpus), places, batch_size)
    why = [found.unreadable.get(place, "not found in its source") for place in places]
    return [found.vectors.get(place) for place in places], why


def nearest_texts(vectors: FloatArray, vocabulary: TextVectors, k: int) -> Places:
    """Rows of the vocabulary by cosine, nearest first: int64 [n, min(k, texts)]. Exact."""
    import faiss

    k = min(k, len(vocabulary.texts))
    if not len(vectors):
        return np.zeros((0, k), np.int64)
    index = faiss.IndexFlatIP(vocabulary.vectors.shape[1])
    index.add(np.ascontiguousarray(vocabulary.vectors))
    return np.asarray(index.search(np.ascontiguousarray(vectors), k)[1], np.int64)


@dataclass(frozen=True)
class CasedRules:
    """``captions``: texts retrieved for a picture; ``template``: what is embedded of a word; the rest as in ``cased``."""

    captions: int = 10
    alpha: float = 0.7
    min_count: int = 2
    template: str = "{}"


def cased(
    ctx: StepContext,
    encoder: ImageTextEncoder,
    vocabulary: TextVectors,
    vectors: FloatArray,
    lexicon: Lexicon,
    rules: CasedRules,
    batch_size: int,
) -> list[str]:
    """CaSED's word for each picture [n, dim]; every candidate word of all pictures is embedded once."""
    near = nearest_texts(vectors, vocabulary, rules.captions)
    known = functools.lru_cache(_TAGGED)(lexicon)
    own = [
        candidate_words(
            [vocabulary.texts[i] for i in row], known, min_count=rules.min_count, irregular=lexicon.irregular_nouns
        )
        for row in ctx.track(near, unit="captioned")
    ]
    words = sorted({word for listed in own for word in listed})
    embedded_words = embed_texts(ctx, encoder, words, template=rules.template, batch_size=batch_size)
    places = {word: i for i, word in enumerate(words)}
    answers: list[str] = []
    for start in range(0, len(own), _CHUNK):
        part = slice(start, start + _CHUNK)
        chosen, mask = _membership([[places[word] for word in listed] for listed in own[part]])
        p = cased_scores(
            vectors[part], embedded_words[chosen], vocabulary.vectors[near[part]],
            logit_scale=encoder.logit_scale, alpha=rules.alpha, own=mask,
        )  # fmt: skip
        answers += [words[chosen[best]] for best in p.argmax(1)]
    return answers


def _membership(own: Sequence[Sequence[int]]) -> tuple[Places, NDArray[np.bool_]]:
    """The words that any of some pictures has [v], and which each one has, bool [n, v]."""
    chosen = np.unique(np.concatenate([np.asarray(listed, np.int64) for listed in own]))
    mask = np.zeros((len(own), len(chosen)), bool)
    for row, listed in enumerate(own):
        mask[row, np.searchsorted(chosen, listed)] = True
    return chosen, mask


def answer_rows(
    found: Queries, answers: Sequence[str], fixed: Mapping[str, Any], order: Sequence[Row]
) -> Iterator[Row]:
    """Rows of ``owc_prediction`` in the order of ``order``; ``fixed``: method, prompt_key, model, seed."""
    said = {_name(row): answer for row, answer in zip(found.rows, answers, strict=True)}
    failures = {_name(row): reason for row, reason in found.failed}
    for row in order:
        answer = said.get(_name(row))
        yield {
            **fixed,
            **{name: row[name] for name in ("dataset", "sample_id", "source_id", "uri", "target")},
            **dict.fromkeys(("reply", "prediction", "judged", "first_item"), answer),
            "n_items": None if answer is None else 1,
            "n_images": 1,
            "failure": failures.get(_name(row)),
        }


def _name(row: Row) -> tuple[str, str]:
    return row["dataset"], row["sample_id"]
