"""Questions put to a network in this process, saved one by one, and answers scored.

Prompts are those that a chat model is asked (``prompts.prompt``). A question whose picture cannot be read, or that the model cannot
take, is a failure with its reason; the others go on. What was answered is in the item cache by model, prompt and pictures' bytes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from results.tables import arrow_table
from runner.artifacts import VqaItems, VqaScores
from runner.context import StepContext, item_key
from runner.data.images import UnreadableImage, decode
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError, ModelRefused, StepError
from runner.models.lvlm.batches import places_of
from runner.models.lvlm.generating import Question, generate
from runner.nodes.vqa.aggregates import aggregate
from runner.nodes.vqa.metrics_choice import LETTERS
from runner.nodes.vqa.prompts import prompt
from runner.nodes.vqa.scoring import score

if TYPE_CHECKING:
    from runner.data.sources import Source
    from runner.models.lvlm.loading import LoadedLvlm

Row = Mapping[str, Any]
MultipleChoice = Literal["reply", "likelihood"]
Key = tuple[str, str]
"""Benchmark and item."""

VERSION = "1"
CHUNKS = 4
"""Batches whose pictures are held together; their questions are dealt to batches by length."""
SHOWN = 20
REPLY_CHARACTERS = 20_000


class Answer(NamedTuple):
    """What a model said, or why it said nothing."""

    text: str | None
    failure: str | None = None


@dataclass
class Answers:
    """Answers by item, and the seconds that each benchmark took."""

    found: dict[Key, Answer] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def key_of(row: Row) -> Key:
    """Names an item among several benchmarks."""
    return str(row["benchmark"]), str(row["item_id"])


def answer_items(
    ctx: StepContext,
    loaded: LoadedLvlm,
    benchmarks: Sequence[Row],
    items: Sequence[Row],
    corpus: Sequence[Row],
    *,
    identity: str,
    batch_size: int = 8,
    max_new_tokens: int = 16,
    multiple_choice: MultipleChoice = "reply",
) -> Answers:
    """Answer rows of ``vqa_item``, greedily and in batches.

    ``identity``: of the model, for the item cache. ``multiple_choice``: what an item with options is answered with: the model's
    reply, or the letter that is likeliest as its reply.
    """
    work = _Work(ctx, loaded, identity, batch_size, max_new_tokens, multiple_choice)
    sources = open_sources([dict(spec) for spec in corpus])
    answers = Answers()
    ctx.advance("answers", 0, len(items))
    for benchmark in benchmarks:
        name, started = str(benchmark["benchmark"]), time.perf_counter()
        rows = [row for row in items if row["benchmark"] == name]
        for at in range(0, len(rows), batch_size * CHUNKS):
            answers.found |= work.chunk(benchmark, rows[at : at + batch_size * CHUNKS], sources)
        answers.seconds[name] = time.perf_counter() - started
    tell(ctx, answers)
    return answers


class _Asked(NamedTuple):
    """One question that is ready: the key of its answer in the item cache, and what is asked."""

    row: Row
    cached: str
    question: Question
    letters: tuple[str, ...]


@dataclass(frozen=True)
class _Work:
    ctx: StepContext
    loaded: LoadedLvlm
    identity: str
    batch_size: int
    max_new_tokens: int
    multiple_choice: MultipleChoice

    def chunk(self, benchmark: Row, rows: Sequence[Row], sources: Sequence[Source]) -> dict[Key, Answer]:
        """Answers to some questions of one benchmark."""
        pictures = dict(read_pictures(sources, {place for row in rows for place in places_of(row)}))
        found: dict[Key, Answer] = {}
        waiting: list[_Asked] = []
        for row in rows:
            try:
                ready = self._ready(benchmark, row, pictures)
            except DataError as error:
                found[key_of(row)] = Answer(None, error.message)
                continue
            known = self.ctx.items.get(ready.cached)
            if known is None:
                waiting.append(ready)
            else:
                found[key_of(row)] = Answer(json.loads(known))
        self.ctx.advance("answers", len(found))
        for batch in self._batches(waiting):
            self.ctx.check()
            found |= self._batch(batch)
            self.ctx.advance("answers", len(batch))
        return found

    def _ready(self, benchmark: Row, row: Row, pictures: Mapping[Place, bytes]) -> _Asked:
        """Raises ``DataError`` where a picture is missing or cannot be read."""
        held = [_bytes(place, pictures) for place in places_of(row)]
        text = prompt(benchmark, row)
        likely = self.multiple_choice == "likelihood" and row.get("choices")
        letters = tuple(LETTERS[: len(row["choices"])]) if likely else ()
        digests = [hashlib.sha256(data).hexdigest() for data in held]
        settings = {"letters": letters} if letters else {"max_new_tokens": self.max_new_tokens}
        cached = item_key("vqa.answer", VERSION, self.identity, text, digests, settings)
        return _Asked(row, cached, Question([_decoded(data) for data in held], text), letters)

    def _batches(self, waiting: Sequence[_Asked]) -> Iterator[list[_Asked]]:
        """Questions that can run together: with or without pictures, letters or replies; of similar lengths."""
        groups: dict[tuple[bool, bool], list[_Asked]] = {}
        for one in sorted(waiting, key=lambda one: (len(one.question.images), len(one.question.text))):
            groups.setdefault((bool(one.question.images), bool(one.letters)), []).append(one)
        for group in groups.values():
            yield from (group[at : at + self.batch_size] for at in range(0, len(group), self.batch_size))

    def _batch(self, batch: Sequence[_Asked]) -> dict[Key, Answer]:
        """Answers to questions that run together; where that fails, each is asked alone so that only the bad one is lost."""
        try:
            texts = self._asked(batch)
        except (DataError, ModelRefused) as error:
            if len(batch) == 1:
                return {key_of(batch[0].row): Answer(None, error.message)}
            return {name: answer for one in batch for name, answer in self._batch([one]).items()}
        self.ctx.items.put_many({one.cached: json.dumps(t).encode() for one, t in zip(batch, texts, strict=True)})
        return {key_of(one.row): Answer(text) for one, text in zip(batch, texts, strict=True)}

    def _asked(self, batch: Sequence[_Asked]) -> list[str]:
        import torch

        choices = [one.letters for one in batch] if batch[0].letters else None
        try:
            return generate(
                self.loaded, [one.question for one in batch], max_new_tokens=self.max_new_tokens, choices=choices
            )
        except torch.OutOfMemoryError as error:
            raise StepError(
                f"out of memory while answering {len(batch)} questions at once", step=self.ctx.step,
                hint="lower batch_size, or max_new_tokens",
            ) from error  # fmt: skip


def _bytes(place: Place, pictures: Mapping[Place, bytes]) -> bytes:
    if place not in pictures:
        raise DataError(f"the picture {place.uri} is not there")
    return pictures[place]


def _decoded(data: bytes) -> Any:
    try:
        return decode(data)
    except UnreadableImage as error:
        raise DataError(f"a picture cannot be read: {error.message}") from error


def questions_of(items: VqaItems, count: int) -> list[Question]:
    """The first ``count`` questions that have pictures (of all, where none has), with their pictures. Raises ``DataError``."""
    rows = items.items.to_pylist()
    chosen = ([row for row in rows if row["uris"]] or rows)[:count]
    if not chosen:
        raise DataError("there is no question")
    about = {str(b["benchmark"]): b for b in items.benchmarks}
    sources = open_sources([dict(spec) for spec in items.corpus])
    pictures = dict(read_pictures(sources, {place for row in chosen for place in places_of(row)}))
    return [
        Question([_decoded(_bytes(place, pictures)) for place in places_of(row)], prompt(about[row["benchmark"]], row))
        for row in chosen
    ]


def tell(ctx: StepContext, answers: Answers) -> None:
    """Say which questions have no answer: the first ones by name, the others as a number."""
    lost = [(name, answer.failure) for name, answer in answers.found.items() if answer.failure is not None]
    for name, reason in lost[:SHOWN]:
        ctx.failed("/".join(name)[:200], str(reason)[:500])
    if len(lost) > SHOWN:
        ctx.failed("answers", f"{len(lost) - SHOWN:,} more without an answer, for which see the results")


# --- scoring ---------------------------------------------------------------------------------------------------------


def scored(
    items: VqaItems, answers: Answers, *, model: Mapping[str, Any], label: str, settings: Mapping[str, Any]
) -> VqaScores:
    """Answers with their scores, and the benchmarks' scores."""
    rows = items.items.to_pylist()
    about = {str(b["benchmark"]): b for b in items.benchmarks}
    told = [_scored(row, about[row["benchmark"]], answers.found[key_of(row)], label) for row in rows]
    both = [row | one for row, one in zip(rows, told, strict=True)]
    return VqaScores(
        benchmarks=items.benchmarks, model=dict(model), label=label, settings=dict(settings), items=item_table(rows),
        answers=arrow_table("vqa_answer", told), scores=arrow_table("vqa_score", score_rows(items.benchmarks, both, label, answers.seconds)),
    )  # fmt: skip


def _scored(row: Row, benchmark: Row, answer: Answer, label: str) -> dict[str, Any]:
    named = {"model": label, "benchmark": row["benchmark"], "item_id": row["item_id"]}
    if answer.text is None:
        return named | {"answer": None, "parsed": None, "score": None, "failure": answer.failure}
    found = score(str(benchmark["metric"]), answer.text, row)
    text = answer.text[:REPLY_CHARACTERS]
    return named | {"answer": text, "parsed": found.parsed, "score": found.score, "failure": None}


def score_rows(
    benchmarks: Iterable[Row], rows: Sequence[Row], label: str, seconds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Rows of ``vqa_score`` of rows of ``vqa_item`` with what was answered."""
    found = []
    for benchmark in benchmarks:
        name = str(benchmark["benchmark"])
        held = [row for row in rows if row["benchmark"] == name]
        found += [
            {**row, "model": label, "seconds": seconds.get(name) if row["category"] is None else None}
            for row in aggregate(benchmark, held)
        ]
    return found


def item_table(rows: Sequence[Row]) -> Any:
    """``VqaScores.items`` of rows of ``vqa_item``."""
    import pyarrow as pa

    texts = ("benchmark", "item_id", "category", "pair_id")
    schema = pa.schema([*((name, pa.string()) for name in texts), ("answers", pa.list_(pa.string()))])
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
