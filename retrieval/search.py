"""Captions to groups of pictures: over-fetch, judge, cut, and say what became of every candidate."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from retrieval.contrast import contrast_texts, display_names
from retrieval.index import Index, Similarity, search
from retrieval.quality import Candidates, Fates, Rules, best_contrast, judge, keep_all, on_target
from retrieval.tables import counts_table, retrieval_table
from runner.artifacts import Captions, RetrievedImages
from runner.context import StepContext
from runner.models.base import ImageTextEncoder

TARGET_PROMPT = "a photo of a {}"
"""The usual zero-shot prompt; on the packaged encoder it tells CIFAR-10 classes apart better than the bare names do."""


def retrieve(
    ctx: StepContext,
    index: Index,
    encoder: ImageTextEncoder,
    queries: Captions,
    rules: Rules | None,
    *,
    k: int,
    overfetch: int = 5,
    similarity: Similarity = "image",
    relevance: bool = True,
    others: Sequence[str] = (),
) -> RetrievedImages:
    """Search every kept caption of ``queries``. Without ``rules``: the ``k`` nearest as they are.

    ``others`` names what else the corpus shows: a picture nearer to one of these than to its target is not relevant.

    Raises ``DataError`` where another encoder made the index.
    """
    index.require(encoder)
    if similarity == "image":
        _warn_of_missed(ctx, index)
    asked = queries.captions.filter(pc.field("status") == "kept")
    captions = asked.to_pylist()
    candidates = _candidates(index, encoder, captions, k if rules is None else k * overfetch, similarity)
    ctx.advance("captions", len(captions), len(captions))
    ctx.check()
    if rules is None:
        fates = keep_all(candidates)
    else:
        names = display_names(queries.task, _classes(queries))
        contrast = targeted = None
        if relevance:
            contrast = _contrast(index, encoder, captions, names, candidates, similarity, ctx)
            targeted = _targeted(index, encoder, captions, [*names.items()], others, candidates, similarity)
        fates = _judge(index, candidates, rules, contrast, targeted)
    numbers, groups = numbered((c["target"], c["attribute"], c["value"]) for c in captions)
    counts = counts_table(groups, numbers[candidates.caption], candidates.similarity, fates)
    _warn_of_empty(ctx, counts.to_pylist())
    return RetrievedImages(
        task=queries.task,
        targets=queries.targets,
        corpus=[source["spec"] for source in index.sources],
        encoder=index.encoder,
        captions=asked,
        retrieval=retrieval_table(captions, candidates, fates, index.rows),
        counts=counts,
    )


def _candidates(
    index: Index, encoder: ImageTextEncoder, captions: list[dict[str, Any]], fetch: int, similarity: Similarity
) -> Candidates:
    """The nearest rows of every caption as flat arrays. Draws of stage 1 (resamples) are groups of their own."""
    vectors = index.embed_queries(encoder, [caption["text"] for caption in captions])
    similarities, rows = search(index, vectors, fetch, similarity=similarity)
    caption = np.repeat(np.arange(len(captions), dtype=np.int64), rows.shape[1])
    group, _ = numbered((c["resample"], c["target"], c["attribute"], c["value"]) for c in captions)
    attribute, _ = numbered((c["resample"], c["target"], c["attribute"]) for c in captions)
    attribute[np.array([bool(c["is_neutral"]) for c in captions], np.bool_)] = -1
    flat = rows.ravel()
    return Candidates(
        caption=caption,
        row=flat,
        similarity=similarities.ravel().astype(np.float64),
        image=_image_numbers(index, flat),
        group=group[caption],
        attribute=attribute[caption],
    )


def _image_numbers(index: Index, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each of ``rows``, equal where the bytes of the pictures are equal. Looks at these rows alone."""
    distinct, back = np.unique(rows, return_inverse=True)
    hashes = index.rows["sha256"].take(distinct).to_numpy(zero_copy_only=False).astype(str)
    _, numbers = np.unique(hashes, return_inverse=True)
    return np.asarray(numbers[back], np.int64)


def numbered(keys: Iterable[Hashable]) -> tuple[NDArray[np.int64], list[Any]]:
    """A number for each key, equal for equal keys, counted by first appearance; and the distinct keys."""
    place: dict[Hashable, int] = {}
    numbers = np.array([place.setdefault(key, len(place)) for key in keys], np.int64)
    return numbers, list(place)


def _classes(queries: Captions) -> list[str]:
    """Every class of the task: a picture must be told apart from all of them, not only from those audited."""
    known = [value for output in queries.task.get("outputs", []) for value in output.get("values") or []]
    return list(dict.fromkeys([*known, *queries.targets]))


def _judge(
    index: Index,
    candidates: Candidates,
    rules: Rules,
    contrast: NDArray[np.float64] | None,
    targeted: NDArray[np.bool_] | None,
) -> Fates:
    sizes = {name: index.rows[name].to_numpy()[candidates.row].astype(np.int64) for name in ("width", "height")}
    return judge(candidates, rules, **sizes, vectors=index.vectors, contrast=contrast, targeted=targeted)


def _contrast(
    index: Index,
    encoder: ImageTextEncoder,
    captions: list[dict[str, Any]],
    names: dict[str, str],
    candidates: Candidates,
    similarity: Similarity,
    ctx: StepContext,
) -> NDArray[np.float64]:
    """Highest similarity of each candidate to a caption that it must not resemble more than its own."""
    texts = contrast_texts(captions, names)
    alone = [str(c["caption_id"]) for c, against in zip(captions, texts, strict=True) if not against]
    if alone:
        ctx.warn(f"{len(alone)} captions have no contrast caption and are not checked for relevance, first {alone[0]}")
    vectors = index.embed_queries(encoder, [text for against in texts for text in against])
    ends = np.cumsum([len(against) for against in texts])
    searched, matrix = index.matrix(similarity)
    places = np.searchsorted(searched, candidates.row)
    return best_contrast(candidates.caption, places, matrix, np.split(vectors, ends[:-1]))


def _targeted(
    index: Index,
    encoder: ImageTextEncoder,
    captions: list[dict[str, Any]],
    classes: list[tuple[str, str]],
    others: Sequence[str],
    candidates: Candidates,
    similarity: Similarity,
) -> NDArray[np.bool_]:
    """Whether each candidate looks more like its target than like any other class of the task or like ``others``."""
    shown = [name for _, name in classes]
    shown += [name for name in others if name.casefold() not in {known.casefold() for known in shown}]
    vectors = index.embed_queries(encoder, [TARGET_PROMPT.format(name) for name in shown])
    number = {target: n for n, (target, _) in enumerate(classes)}
    target = np.array([number[str(caption["target"])] for caption in captions], np.int64)
    searched, matrix = index.matrix(similarity)
    return on_target(target[candidates.caption], np.searchsorted(searched, candidates.row), matrix, vectors)


def _warn_of_missed(ctx: StepContext, index: Index) -> None:
    if not index.structure.exact:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in index.recalls.items()) or "not measured"
        probes = "" if index.structure.nprobe is None else f", nprobe {index.structure.nprobe}"
        ctx.warn(f"the search is approximate ({index.structure.kind}{probes}): {shown}; faiss: flat would be exact")


def _warn_of_empty(ctx: StepContext, counts: list[dict[str, Any]]) -> None:
    empty = [f"{c['target']}, {c['attribute']} = {c['value']}" for c in counts if not c["kept"]]
    if empty:
        ctx.warn(f"{len(empty)} of {len(counts)} groups have no picture left, first: {empty[0]}")
