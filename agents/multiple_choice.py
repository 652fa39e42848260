"""Closed-world classification by a model that is shown the list of classes, and labelled pictures where wanted.

Source: "Large Multimodal Models as General In-Context Classifiers" (arXiv 2602.23229), sections on zero-shot and vanilla
in-context classification; the wording is ours. The sequence is X_1 T_1 ... X_n T_n V Q: context pictures with their labels, the
query, the question with the list, the cue.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agents.asking import NotAnswered, reply_to
from agents.openworld_chunks import Losses, in_chunks
from agents.openworld_pictures import Part, Pictures, ahead, place_of
from agents.prompting import one_line, render
from runner.context import StepContext
from runner.data.images import UnreadableImage
from runner.data.places import Place
from runner.errors import StepError
from runner.models.base import ChatModel, ChatReply, ChatRequest, ImagePart, Message

if TYPE_CHECKING:
    from runner.artifacts import Neighbours

Row = dict[str, Any]
Context = Literal["none", "random", "similarity"]
ListPosition = Literal["query", "begin"]

ANSWER_TOKENS = 64
LABEL_CHARACTERS = 200
MAX_CLASSES, MAX_LIST_CHARACTERS = 5000, 100_000
_CUE = "Answer:"
_CHUNK = 32


def clean_choice(reply: str) -> str:
    """What is scored of a reply: the text after its last "Answer:", without brackets and double quotes, stripped."""
    answer = reply.rpartition(_CUE)[2]
    return answer.translate(str.maketrans("", "", '[]"')).strip()


def class_names(classes: Sequence[str], dataset: str) -> list[str]:
    """Texts of the classes as the model reads them, sorted alphabetically.

    Raises ``ValueError`` where two are the same, one is empty, or the list is too long to be read.
    """
    names = [one_line(name, LABEL_CHARACTERS) for name in classes]
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            raise ValueError(f"{dataset} has {'an empty class name' if not name else f'two classes called {name!r}'}")
        seen.add(name)
    length = sum(map(len, names))
    if len(names) > MAX_CLASSES or length > MAX_LIST_CHARACTERS:
        raise ValueError(
            f"the {len(names):,} class names of {dataset} ({length:,} characters) are too long a list to read"
        )
    return sorted(names)


def bullets(names: Sequence[str]) -> str:
    """One name a line."""
    return "\n".join(f"- {name}" for name in names)


def drawn(pool: Sequence[Row], shots: int, seed: int, dataset: str, sample_id: str) -> list[Row]:
    """``shots`` rows of the pool, without replacement; the draw depends on the seed and the query alone."""
    digest = hashlib.sha256(f"{seed}\0{dataset}\0{sample_id}".encode()).digest()
    order = np.random.default_rng(np.frombuffer(digest, np.uint32)).permutation(len(pool))
    return [pool[i] for i in order[:shots]]


@dataclass(frozen=True)
class Shots:
    """Context pictures by query: ``(dataset, sample_id)`` -> rows with source_id, uri and target, in the order shown."""

    rows: Mapping[tuple[str, str], Sequence[Row]]

    def of(self, row: Row) -> Sequence[Row]:
        """Those of one query."""
        return self.rows.get((row["dataset"], row["sample_id"]), ())


def random_shots(queries: Sequence[Row], pool: Sequence[Row], shots: int, seed: int) -> Shots:
    """``shots`` pictures of the dataset's pool for each query. Raises ``ValueError`` where the pool holds fewer."""
    own = {name: [row for row in pool if row["dataset"] == name] for name in {q["dataset"] for q in queries}}
    for name, rows in sorted(own.items()):
        if len(rows) < shots:
            raise ValueError(f"{shots} pictures are to be shown, but the pool holds {len(rows)} of {name}")
    return Shots({
        (q["dataset"], q["sample_id"]): drawn(own[q["dataset"]], shots, seed, q["dataset"], q["sample_id"]) for q in queries
    })  # fmt: skip


def nearest_shots(queries: Sequence[Row], pool: Sequence[Row], neighbours: Neighbours, shots: int) -> Shots:
    """The first ``shots`` neighbours of each query, in their order.

    Raises ``ValueError`` where a query has fewer, or one is not in the pool.
    """
    by_id = {(row["dataset"], row["sample_id"]): row for row in pool}
    ranked: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for row in neighbours.neighbours.select(["dataset", "sample_id", "rank", "pool_sample_id"]).to_pylist():
        ranked.setdefault((row["dataset"], row["sample_id"]), []).append((row["rank"], row["pool_sample_id"]))
    found: dict[tuple[str, str], Sequence[Row]] = {}
    for query in queries:
        key = (query["dataset"], query["sample_id"])
        names = [name for _, name in sorted(ranked.get(key, []))[:shots]]
        if len(names) < shots:
            raise ValueError(f"{shots} pictures are to be shown, but {'/'.join(key)} has {len(names)} neighbours")
        missing = next((name for name in names if (key[0], name) not in by_id), None)
        if missing is not None:
            raise ValueError(
                f"the neighbour {missing!r} of {'/'.join(key)} is not in the pool: they are of another pool"
            )
        found[key] = [by_id[key[0], name] for name in names]
    return Shots(found)


def refuse_leakage(queries: Sequence[Row], pool: Sequence[Row]) -> None:
    """Raises ``ValueError`` where a query is in the pool: its label would be shown with it."""
    both = {(q["dataset"], q["sample_id"]) for q in queries} & {(p["dataset"], p["sample_id"]) for p in pool}
    if both:
        raise ValueError(f"{len(both):,} queries are in the pool too, such as {'/'.join(min(both))}")


@dataclass(frozen=True)
class Choosing:
    """How pictures are asked about. ``names``: classes by dataset, as shown; ``shots`` and ``seed`` are what rows record."""

    names: Mapping[str, Sequence[str]]
    originals: Mapping[str, Mapping[str, str]]
    method: str
    shots: int = 0
    seed: int = 0
    list_position: ListPosition = "query"
    system: str | None = None
    max_tokens: int = ANSWER_TOKENS
    schema_choice: bool = False

    def messages(self, dataset: str, context: Sequence[tuple[ImagePart, str]], query: ImagePart) -> tuple[Message, ...]:
        """One user turn: context pairs, the query picture, the question with the list, the cue."""
        classes = f"{render('choice_list')}\n{bullets(self.names[dataset])}"
        first = self.list_position == "begin"
        parts: list[str | ImagePart] = [classes] if first else []
        for picture, label in context:
            parts += [picture, f"label: {one_line(label, LABEL_CHARACTERS)}"]
        asked = render("choice_question")
        parts += [query, asked if first else f"{asked}\n{classes}", render("choice_cue")]
        system = (Message("system", self.system),) if self.system else ()
        return (*system, Message("user", tuple(parts)))

    def request(self, row: Row, messages: tuple[Message, ...], seed: int) -> ChatRequest:
        """Greedy; a reply that is cut off or empty is an answer too, unless the choice is held to the list."""
        schema = {"type": "string", "enum": list(self.names[row["dataset"]])} if self.schema_choice else None
        return ChatRequest(
            messages, "circle.multiple_choice", item=f"{row['dataset']}/{row['sample_id']}", schema=schema,
            schema_name="class_name", max_tokens=self.max_tokens, seed=seed, allow_cut=not self.schema_choice,
            allow_empty=not self.schema_choice,
        )  # fmt: skip

    def prediction(self, dataset: str, reply: ChatReply) -> str:
        """The class as its dataset writes it where the choice was held to the list, else the cleaned reply."""
        if self.schema_choice:
            return self.originals[dataset][reply.data]
        return clean_choice(reply.text)


@dataclass(frozen=True)
class Chooser:
    """Asks one model about many pictures."""

    lmm: ChatModel
    ctx: StepContext
    choosing: Choosing
    queries: Pictures
    context: Pictures | None = None
    shots: Shots = Shots({})

    async def choose(self, rows: Sequence[Row]) -> list[Row]:
        """Rows of ``closed_world_answer`` in the order of ``rows``."""
        answers: list[Row] = []
        losses = Losses(self.ctx, "answers")
        self.ctx.advance("answers", 0, len(rows))
        async for chunk, (parts, shown) in ahead(rows, self._read, chunk=_CHUNK):
            work = functools.partial(self._answer, parts, shown)
            for answer in await in_chunks(chunk, work, self.ctx, unit="answers", total=False):
                if answer["failure"]:
                    losses.add(f"{answer['dataset']}/{answer['sample_id']}", answer["failure"])
                answers.append(answer)
        losses.close()
        return answers

    async def _read(self, rows: Sequence[Row]) -> tuple[dict[Place, Part], dict[Place, Part]]:
        parts = await self.queries.parts(map(place_of, rows))
        shown = [place_of(shot) for row in rows for shot in self.shots.of(row)]
        return parts, await self.context.parts(shown) if self.context is not None else {}

    async def _answer(self, parts: Mapping[Place, Part], shown: Mapping[Place, Part], row: Row) -> Row:
        choosing, shots = self.choosing, self.shots.of(row)
        answer: Row = {
            "method": choosing.method, "model": self.lmm.name, "shots": choosing.shots, "seed": choosing.seed,
            **{name: row[name] for name in ("dataset", "sample_id", "target")}, "failure": None,
        }  # fmt: skip
        try:
            query = _readable(parts[place_of(row)], "the picture")
            context = [(_readable(shown[place_of(s)], f"the context picture {s['uri']}"), s["target"]) for s in shots]
            messages = choosing.messages(row["dataset"], context, query)
            reply = await reply_to(self.lmm, choosing.request(row, messages, self.ctx.seed), self.ctx)
        except NotAnswered as error:
            return answer | {"failure": str(error)}
        return answer | {
            "reply": reply.text, "prediction": choosing.prediction(row["dataset"], reply), "n_images": 1 + len(context),
            "prompt_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens,
            "finish_reason": reply.finish_reason,
        }  # fmt: skip


def _readable(part: Part, what: str) -> ImagePart:
    if isinstance(part, UnreadableImage):
        raise NotAnswered(f"{what} cannot be read: {part.message}")
    return part


def names_of(datasets: Sequence[Mapping[str, Any]], ctx: StepContext) -> tuple[dict[str, list[str]], dict[str, Row]]:
    """Class names as shown by dataset, and the way back to the dataset's own. Raises ``StepError``; see ``class_names``."""
    try:
        shown = {d["dataset"]: class_names(d["classes"], d["dataset"]) for d in datasets}
    except ValueError as error:
        hint = "give each class one name of its own, or classify with an encoder (classify.clip_zero_shot)"
        raise StepError(str(error), step=ctx.step, hint=hint) from None
    back = {d["dataset"]: {one_line(name, LABEL_CHARACTERS): name for name in d["classes"]} for d in datasets}
    return shown, back
