"""The texts of a ``DebiasPrompts`` by what they are for, and their raw embeddings, each distinct string encoded once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from runner.artifacts import DebiasPrompts
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel

Row = dict[str, Any]
SHOWN = 80
"""Characters of a stranger's text in an error."""


class Candidates(NamedTuple):
    """Texts that name a query and a value: ``texts``, and pairs (i, j), i < j, of one query and two values."""

    texts: list[str]
    pairs: list[tuple[int, int]]


class InsightPairs(NamedTuple):
    """RoboShot's insights: two texts each; ``query`` None where they hold for all queries."""

    first: list[str]
    second: list[str]
    query: list[str | None]


def shown(text: str) -> str:
    """A stranger's text for an error: one line, bounded."""
    return repr(" ".join(text.split())[:SHOWN])


class Prompts:
    """Texts by kind. Every getter raises ``DataError`` naming what is missing and for which method it is needed."""

    def __init__(self, prompts: DebiasPrompts) -> None:
        self.attribute, self.classes, self.queries = prompts.attribute, prompts.classes, prompts.queries
        self._rows: dict[str, list[Row]] = {}
        for row in sorted(prompts.prompts.to_pylist(), key=lambda row: int(row["idx"])):
            self._rows.setdefault(row["kind"], []).append(row)
        self._check()

    def _check(self) -> None:
        if not self.queries:
            raise DataError("the prompts name no query", hint="Give sem.prompts at least one query.")
        _no_twins(self.queries, "queries")
        _no_twins(self.classes, f"values of {self.attribute}")
        for kind in ("diverse", "bias", "paraphrase", "spurious"):
            owner = "query" if kind == "paraphrase" else "kind"
            seen = Counter((row[owner], row["text"]) for row in self._rows.get(kind, []))
            twice = next((text for (_, text), count in seen.items() if count > 1), None)
            if twice is not None:
                raise DataError(f"the {kind} prompt {shown(twice)} stands twice", hint="Every prompt counts once.")

    def has(self, kind: str) -> bool:
        """Whether there is any prompt of the kind."""
        return bool(self._rows.get(kind))

    def diverse(self, need: str) -> list[str]:
        """Neutral captions."""
        return self._some("diverse", need)

    def bias(self, need: str) -> list[list[str]]:
        """Bias prompts by value, in the order of the values."""
        if len(self.classes) < 2:
            raise DataError(
                f"{need} compares the values of {self.attribute}, and there is only {shown(', '.join(self.classes))}",
                hint="Name at least two values in the classes of sem.prompts.",
            )
        return self._grouped("bias", "class_name", self.classes, need)

    def paraphrases(self, need: str) -> list[list[str]]:
        """Paraphrases by query, the query itself first."""
        return self._grouped("paraphrase", "query", self.queries, need)

    def spurious(self, need: str) -> list[str]:
        """Texts of the attribute alone."""
        return self._some("spurious", need)

    def augmented(self, need: str) -> list[list[str]]:
        """The query with each value named, by query."""
        return self._grouped("augmented", "query", self.queries, need)

    def content(self, need: str) -> list[str]:
        """One text a query whose content counts."""
        return [texts[0] for texts in self._grouped("content", "query", self.queries, need)]

    def scenes(self, need: str) -> list[str]:
        """Sentences with ``{target}`` and ``{bias}``."""
        scenes = self._some("scene", need)
        wrong = next((s for s in scenes if s.count("{target}") != 1 or s.count("{bias}") != 1), None)
        if wrong is not None:
            raise DataError(f"the scene {shown(wrong)} needs {{target}} and {{bias}}, once each")
        return scenes

    def target_words(self) -> list[list[str]]:
        """What stands for ``{target}``, by query; the query itself where there are no words."""
        return self._words("target_word", "query", self.queries)

    def bias_words(self) -> list[list[str]]:
        """What stands for ``{bias}``, by value; the value itself where there are no words."""
        return self._words("bias_word", "class_name", self.classes)

    def _words(self, kind: str, column: str, names: Sequence[str]) -> list[list[str]]:
        if not self.has(kind):
            return [[name] for name in names]
        return self._grouped(kind, column, names, "scenes")

    def candidates(self, need: str) -> Candidates:
        """Candidate texts and the pairs that differ in the value only."""
        rows = self._rows.get("candidate", [])
        self._some("candidate", need)
        of_query: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            of_query.setdefault(row["query"], []).append(i)
        pairs = [
            (i, j)
            for places in of_query.values()
            for i, j in itertools.combinations(places, 2)
            if rows[i]["class_name"] != rows[j]["class_name"]
        ]
        if not pairs:
            raise DataError(f"{need} needs candidates of one query with different values, and no two differ so")
        return Candidates([row["text"] for row in rows], pairs)

    def insights(self, kind: str, need: str) -> InsightPairs:
        """Pairs of kind ``harmful`` or ``helpful``."""
        self._some(kind, need)
        sides: dict[tuple[str | None, int], dict[str, str]] = {}
        for row in self._rows[kind]:
            sides.setdefault((row["query"], row["idx"]), {})[row["class_name"]] = row["text"]
        halves = next((key for key, pair in sides.items() if {*pair} != {"a", "b"}), None)
        if halves is not None:
            raise DataError(f"the {kind} pair {halves[1]} has not the two sides a and b")
        pairs = list(sides.values())
        return InsightPairs([p["a"] for p in pairs], [p["b"] for p in pairs], [query for query, _ in sides])

    def _some(self, kind: str, need: str) -> list[str]:
        texts = [row["text"] for row in self._rows.get(kind, [])]
        if not texts:
            raise DataError(f"{need} needs prompts of kind {kind}, and there is none", hint=_ASK.format(kind=kind))
        return texts

    def _grouped(self, kind: str, column: str, names: Sequence[str], need: str) -> list[list[str]]:
        self._some(kind, need)
        found: dict[str, list[str]] = {name: [] for name in names}
        for row in self._rows[kind]:
            if row[column] not in found:
                raise DataError(
                    f"the {kind} prompt {shown(row['text'])} is of {shown(str(row[column]))}, which is unknown"
                )
            found[row[column]].append(row["text"])
        empty = next((name for name, texts in found.items() if not texts), None)
        if empty is not None:
            raise DataError(f"{need}: {shown(empty)} has no prompt of kind {kind}", hint=_ASK.format(kind=kind))
        return list(found.values())


_ASK = "Add {kind} to the kinds that sem.prompts makes, or give the texts in the spec."


def _no_twins(names: Sequence[str], what: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two {what} are the same, {shown(twice)}, and could not be told apart in the results")


def imagenet_templates() -> list[str]:
    """The 80 templates for ImageNet of CLIP's authors, as open_clip carries them."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES]


class Encoded:
    """Raw embeddings by text, float32, on demand: what was asked for once is not encoded again.

    With ``templates``, a query stands wherever it occurs for the mean of the raw embeddings of its filled templates
    (ensembling; ours at raw scale).
    """

    def __init__(self, clip: ClipModel, queries: Iterable[str], templates: Sequence[str] | None = None) -> None:
        self.clip = clip
        self._filled = {query: [t.replace("{}", query) for t in templates] for query in queries} if templates else {}
        self._known: dict[str, Tensor] = {}

    def load(self, ctx: StepContext, texts: Iterable[str]) -> None:
        """Encode those that are new, in one go. Raises ``DataError`` for zero or non-finite embeddings."""
        wanted = {part for text in texts for part in self._parts(text)}
        new = sorted(wanted - self._known.keys())
        if not new:
            return
        self._warn_long(ctx, new)
        raw = np.asarray(self.clip.raw_texts(new), np.float32)
        bad = ~np.isfinite(raw).all(1) | (np.linalg.norm(raw, axis=1) == 0)
        if bad.any():
            raise DataError(f"{self.clip.name} gives {shown(new[int(bad.argmax())])} a zero or non-finite embedding")
        self._known |= dict(zip(new, torch.from_numpy(raw), strict=True))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Raw embeddings float32 [n, dim] of texts that were loaded."""
        return torch.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Tensor:
        parts = self._parts(text)
        return self._known[parts[0]] if len(parts) == 1 else torch.stack([self._known[p] for p in parts]).mean(0)

    def _parts(self, text: str) -> list[str]:
        return self._filled.get(text, [text])

    def _warn_long(self, ctx: StepContext, texts: list[str]) -> None:
        limit = self.clip.context_length
        long = [text for text, n in zip(texts, self.clip.token_counts(texts), strict=True) if n > limit]
        if long:
            ctx.warn(f"{len(long)} texts have more than {limit} tokens and are cut, the first: {shown(long[0])}")
