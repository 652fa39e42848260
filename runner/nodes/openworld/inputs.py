"""What the scoring steps are given, checked and joined: answers, judgements, groups, scores, an encoder with its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.artifacts import Categories, Judgements, OpenAnswers, OpenScores
from runner.context import StepContext, item_key
from runner.errors import DataError
from runner.models.base import SentenceEncoder
from runner.nodes.openworld.metrics import Encode
from runner.nodes.openworld.scoring import KEY, Judged, Verdict, judged_pair

if TYPE_CHECKING:
    from runner.models.base import FloatArray

Row = dict[str, Any]
Say = Callable[[str], None]

_USED = (*KEY, "target", "prediction", "judged", "n_items", "first_item")
_TEXTS_AT_ONCE = 1024


def answer_rows(answers: Sequence[OpenAnswers]) -> list[Row]:
    """The rows of all answers. Raises ``DataError`` for none, and for two answers under one name."""
    rows = [row for one in answers for row in one.answers.select(list(_USED)).to_pylist()]
    if not rows:
        raise DataError("there are no answers to score")
    _distinct(rows, "the methods' answers", "Give one of the methods another name with its field `label`.")
    return rows


def score_rows(scores: Sequence[OpenScores], *, same_encoder: bool) -> list[Row]:
    """The rows of all scores. Raises ``DataError`` for two under one name, and for similarities of different encoders."""
    encoders = {one.settings["encoder_identity"] for one in scores}
    if same_encoder and len(encoders) > 1:
        names = ", ".join(sorted({one.settings["encoder"] for one in scores}))
        raise DataError(
            f"similarities of different sentence encoders ({names}) cannot be compared", hint="Score with one."
        )
    used = [*KEY, "target", "prediction", "semantic_similarity"]
    rows = [row for one in scores for row in one.scores.select(used).to_pylist()]
    _distinct(rows, "the scores", "Score each method once, or give one another name with its field `label`.")
    return rows


def _distinct(rows: Iterable[Row], what: str, hint: str) -> None:
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        key = tuple(row[name] for name in KEY)
        if key in seen:
            said = ", ".join(f"{name} {value!r}" for name, value in zip(KEY, key, strict=True))
            raise DataError(f"{what} hold two for {said}", hint=hint)
        seen.add(key)


def groups_of(answers: Sequence[OpenAnswers], override: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """Datasets by group: ``override``, else what the datasets say of themselves. Raises ``DataError`` for unknown or unclear ones."""
    said: dict[str, str | None] = {}
    for entry in (entry for one in answers for entry in one.datasets):
        name, group = entry["dataset"], entry.get("group")
        if override is None and said.setdefault(name, group) != group:
            raise DataError(f"{name} belongs to the groups {said[name]!r} and {group!r}", hint="Say it in `groups`.")
        said.setdefault(name, group)
    if override is not None:
        unknown = sorted({dataset for members in override.values() for dataset in members} - set(said))
        if unknown:
            raise DataError(f"groups name {', '.join(unknown)}; the answers are on {', '.join(sorted(said))}")
        return {name: list(dict.fromkeys(members)) for name, members in override.items()}
    groups: dict[str, list[str]] = {}
    for dataset, group in sorted(said.items()):
        if group is not None:
            groups.setdefault(group, []).append(dataset)
    return groups


def judged_of(rows: Sequence[Row], judgements: Judgements | None, categories: Categories | None, say: Say) -> Judged:
    """Verdicts and categories by pair; ``say`` is told of answers whose pair was never judged."""
    verdicts = sorts = None
    answered = [row for row in rows if row["prediction"] is not None]
    if judgements is not None:
        table = judgements.judgements.to_pylist()
        verdicts = {
            (row["reference"], row["answer"]): Verdict(row["verdict"], row["reply"], row["attempts"] <= 1)
            for row in table
        }
        _tell(sum(judged_pair(row) not in verdicts for row in answered), len(answered), "judged (owc.judge)", say)
    if categories is not None:
        table = categories.categories.to_pylist()
        sorts = {(row["reference"], row["answer"]): row["category"] for row in table}
        unsorted = sum((row["target"], row["prediction"]) not in sorts for row in answered)
        _tell(unsorted, len(answered), "put into a category (owc.taxonomy)", say)
    return Judged(verdicts, sorts)


def _tell(missing: int, answers: int, what: str, say: Say) -> None:
    if missing:
        say(f"{missing} of {answers} answers were never {what}: give that step the same answers")


def cached_encoder(ctx: StepContext, sentences: SentenceEncoder) -> Encode:
    """``sentences.encode`` that keeps every vector under (encoder, text), stops when asked to and says how far it is."""

    def encode(texts: Sequence[str]) -> FloatArray:
        vectors = np.zeros((len(texts), sentences.dim), np.float32)
        ctx.advance("texts", 0, len(texts))
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            ctx.check()
            block = texts[start : start + _TEXTS_AT_ONCE]
            vectors[start : start + len(block)] = _known_or_new(ctx, sentences, block)
            ctx.advance("texts", len(block))
        return vectors

    return encode


def _known_or_new(ctx: StepContext, sentences: SentenceEncoder, texts: Sequence[str]) -> FloatArray:
    keys = [item_key("sentence", sentences.identity, text) for text in texts]
    stored = [ctx.items.get(key) for key in keys]
    new = [i for i, data in enumerate(stored) if data is None]
    vectors = np.zeros((len(texts), sentences.dim), np.float32)
    for i, data in enumerate(stored):
        if data is not None:
            vectors[i] = np.frombuffer(data, np.float32)
    if new:
        vectors[new] = sentences.encode([texts[i] for i in new])
        ctx.items.put_many({keys[i]: vectors[i].tobytes() for i in new})
    return vectors
