"""What a language model is asked to write for debiasing: one job a list of texts, with the checks its texts must pass.

A job asks for items, each with one text a slot; an item is kept or refused as a whole. Prompts are in words of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.debias_given_rows import augmented_rows
from agents.debias_ready import insight_rows, scene_words
from agents.debias_shipped import diverse_topics, shipped
from agents.debias_subject import Kind, PromptText, Row, Sizes, Subject, Templates, numbered
from agents.debias_texts import (
    bare,
    concept_words,
    filled,
    forbidden_in,
    name_of,
    slots_missing,
    thing_of,
    why_no_caption,
    why_no_pair,
    why_not_augmented,
)
from agents.prompting import one_line

NAME_CHARACTERS = 200
TEXT_LENGTH = 120
_SHOWN_QUERIES = 8

Item = dict[str, str]
Check = Callable[[Item], str | None]


@dataclass(frozen=True)
class Job:
    """Items to be written.

    ``slots``: names of the texts of an item; ``wanted``: how many items, of which ``least`` must be there; ``batch``: most
    in one question; ``data``: what the prompt is about; ``topics``: one of them goes with each question in turn;
    ``check``: why an item is unfit; ``rows``: the rows of the kept items.
    """

    kind: str
    about: str
    prompt: str
    data: Row
    slots: tuple[str, ...]
    wanted: int
    batch: int
    check: Check
    rows: Callable[[list[Item]], list[PromptText]]
    least: int | None = None
    settings: Row = field(default_factory=dict)
    topics: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()

    @property
    def needed(self) -> int:
        """Items without which the job has failed."""
        return self.wanted if self.least is None else self.least

    def refusals(self, items: Sequence[Item], kept: Sequence[Item]) -> list[str | None]:
        """For each item why it is unfit, or None; a text may stand in one item only, and once in it."""
        seen = {name_of(text) for texts in (*(item.values() for item in kept), self.taken) for text in texts}
        reasons: list[str | None] = []
        for item in items:
            names = [name_of(text) for text in item.values()]
            reason = self.check(item)
            if reason is None and (len(set(names)) < len(names) or seen & set(names)):
                reason = "repeats another text"
            reasons.append(reason)
            seen |= set(names) if reason is None else set()
        return reasons


def jobs_for(kind: Kind, subject: Subject, sizes: Sizes, templates: Templates) -> list[Job]:
    """The jobs behind a kind. Raises ``KeyError`` for kinds that no model writes."""
    makers: dict[str, Callable[[], list[Job]]] = {
        "diverse": lambda: [_diverse(subject, sizes)],
        "bias": lambda: [_bias(subject, sizes)],
        "paraphrase": lambda: [_paraphrase(subject, sizes, query) for query in subject.queries],
        "augmented": lambda: [_augmented(subject, query) for query in subject.queries],
        "insights": lambda: _insights(subject, sizes, templates),
        "scene": lambda: [_scenes(subject, sizes)],
    }
    return makers[kind]()


WRITTEN: frozenset[Kind] = frozenset({"diverse", "bias", "paraphrase", "augmented", "insights", "scene"})
"""Kinds that a model can write."""


def said(text: str) -> str:
    """What a user wrote, as data of a prompt."""
    return one_line(text, NAME_CHARACTERS)


def _attribute_data(subject: Subject) -> Row:
    return {"attribute": said(subject.attribute), "values": [said(name) for name in subject.classes]}


def _captions(forbidden: Sequence[str]) -> Check:
    return lambda item: next((r for text in item.values() if (r := why_no_caption(text, forbidden))), None)


def _diverse(subject: Subject, sizes: Sizes) -> Job:
    topics = tuple(diverse_topics())
    return Job(
        "diverse", "neutral captions", "debias_diverse", {"words to avoid": [said(w) for w in subject.forbidden]},
        ("text",), sizes.diverse, min(10, -(-sizes.diverse // len(topics))), _captions(subject.forbidden),
        lambda items: numbered("diverse", [item["text"] for item in items]), topics=topics, taken=subject.queries,
    )  # fmt: skip


def _bias(subject: Subject, sizes: Sizes) -> Job:
    """Parallel captions: an item holds one text for each value, so that what is kept stays parallel."""
    keys = {f"v{n}": name for n, name in enumerate(subject.classes)}
    banned = concept_words(subject.queries, [subject.attribute, *subject.classes])
    data = {"attribute": said(subject.attribute), "values": {key: said(name) for key, name in keys.items()}}

    def rows(items: list[Item]) -> list[PromptText]:
        return [r for key, c in keys.items() for r in numbered("bias", [i[key] for i in items], class_name=c)]

    return Job(
        "bias", f"the values of {said(subject.attribute)}", "debias_bias",
        data | {"words to avoid": banned[:20]}, tuple(keys), sizes.per_class, max(1, min(5, 20 // len(keys))),
        _captions(banned), rows,
    )  # fmt: skip


def _paraphrase(subject: Subject, sizes: Sizes, query: str) -> Job:
    """Other wordings; words that the query itself uses are not forbidden in them."""
    forbidden = [word for word in subject.forbidden if forbidden_in(query, [word]) is None]

    def rows(items: list[Item]) -> list[PromptText]:
        return numbered("paraphrase", [query, *(item["text"] for item in items)], query=query)

    return Job(
        "paraphrase", said(query), "debias_paraphrase",
        {"caption": said(query), "words to avoid": [said(word) for word in forbidden]}, ("text",),
        sizes.paraphrases - 1, min(10, max(1, sizes.paraphrases - 1)), _captions(forbidden), rows, taken=(query,),
    )  # fmt: skip


def _augmented(subject: Subject, query: str) -> Job:
    return Job(
        "augmented", said(query), "debias_augmented", {"caption": said(query)} | _attribute_data(subject), ("text",), 1, 1,
        lambda item: why_not_augmented(item["text"], query),
        lambda items: [row for item in items for row in augmented_rows(query, item["text"], subject)],
    )  # fmt: skip


def _insights(subject: Subject, sizes: Sizes, templates: Templates) -> list[Job]:
    """Two queries are compared with each other, once; of one or many, each is taken by itself."""
    template = templates.insight or shipped().templates["insight"]
    pair = len(subject.queries) == 2
    jobs = []
    for query in [None] if pair else subject.queries:
        data: Row = {"captions": [said(q) for q in subject.queries]} if pair else {"caption": said(str(query))}
        about = " and ".join(data.get("captions", [data.get("caption")]))
        for which in ("harmful", "helpful"):
            jobs.append(Job(
                which, about, "debias_insights", data | _attribute_data(subject), ("first", "second"), sizes.insights,
                min(5, sizes.insights), lambda item: why_no_pair(item["first"], item["second"]),
                _insight_rows(which, template, query), least=1, settings={"which": which, "pair": pair},
            ))  # fmt: skip
    return jobs


def _insight_rows(which: str, template: str, query: str | None) -> Callable[[list[Item]], list[PromptText]]:
    def rows(items: list[Item]) -> list[PromptText]:
        pairs = [(_valued(template, item["first"]), _valued(template, item["second"])) for item in items]
        return insight_rows(which, pairs, query)

    return rows


def _valued(template: str, value: str) -> str:
    return filled(template, {"value": value})


def _scenes(subject: Subject, sizes: Sizes) -> Job:
    things = [said(bare(thing_of(query))) for query in subject.queries[:_SHOWN_QUERIES]]
    return Job(
        "scene", f"scenes for {said(subject.attribute)}", "debias_scenes", {"things": things} | _attribute_data(subject),
        ("text",), sizes.scenes, min(6, sizes.scenes), lambda item: slots_missing(item["text"], ["target", "bias"]),
        lambda items: numbered("scene", [item["text"] for item in items]) + scene_words(subject),
    )  # fmt: skip


def items_schema(slots: Sequence[str], count: int) -> dict[str, Any]:
    """``{"items": [{slot: str, ...}, ...]}`` with exactly ``count`` items."""
    text = {"type": "string", "minLength": 1, "maxLength": TEXT_LENGTH}
    item = {
        "type": "object", "properties": dict.fromkeys(slots, text), "required": list(slots), "additionalProperties": False,
    }  # fmt: skip
    items = {"type": "array", "items": item, "minItems": 1, "maxItems": count}
    return {"type": "object", "properties": {"items": items}, "required": ["items"], "additionalProperties": False}
