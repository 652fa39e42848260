"""What merged models are scored on: questions of benchmarks, and the loss on conversations of each domain."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runner.errors import DataError

if TYPE_CHECKING:
    from runner.artifacts import Conversations, VqaItems
    from runner.models.lvlm.batches import Batch
    from runner.models.lvlm.loading import LoadedLvlm

Row = Mapping[str, Any]
Failed = Callable[[str, str], None]


class Task(ABC):
    """Items that give one score. ``rows`` in a fixed order; ``group``: what its score may be averaged with."""

    name: str
    key: str
    higher_is_better: bool
    group: str
    rows: list[dict[str, Any]]
    corpus: list[dict[str, Any]]

    @property
    def about(self) -> dict[str, Any]:
        """As ``MixtureScores.tasks`` lists it; values are shares of the full scale, or nats."""
        return {
            "task": self.name, "key": self.key, "higher_is_better": self.higher_is_better, "group": self.group, "scale": 1.0,
        }  # fmt: skip

    def pictures(self, row: Row) -> list[str | None]:
        """SHA-256 (hex) of the row's pictures, None where one is missing: a place alone does not say what stands there."""
        from runner.models.lvlm.batches import places_of

        return [self._digests.get(place) for place in places_of(row)]

    @cached_property
    def _digests(self) -> dict[Any, str]:
        from runner.data.places import read_pictures
        from runner.data.sources import open_sources
        from runner.models.lvlm.batches import places_of

        wanted = {place for row in self.rows for place in places_of(row)}
        found = read_pictures(open_sources(self.corpus), wanted) if wanted else ()
        return {place: hashlib.sha256(data).hexdigest() for place, data in found}

    @abstractmethod
    def item_id(self, row: Row) -> str:
        """Unique in the task."""

    @abstractmethod
    def drawn_with(self, row: Row) -> str | None:
        """What the item is resampled together with; None: it stands alone."""

    @abstractmethod
    def content(self, row: Row) -> Any:
        """What the model is given and asked, as JSON: part of the key under which its result is kept."""

    @abstractmethod
    def encode(self, loaded: LoadedLvlm, rows: Sequence[Row], failed: Failed) -> Batch:
        """A batch on the CPU; ``record_ids`` are the items in it. ``failed`` is told of those that are not."""

    @abstractmethod
    def run(self, loaded: LoadedLvlm, batch: Batch) -> list[Any]:
        """What the network does with each row of the batch, as JSON."""

    @abstractmethod
    def item_value(self, row: Row, result: Any) -> float:
        """Of one item; not finite where the model broke down."""

    @abstractmethod
    def value(self, rows: Sequence[Row], results: Sequence[Any]) -> float:
        """Of all items."""


class QuestionTask(Task):
    """One benchmark: greedy replies, scored by its metric and aggregated as it asks, as a share of its full scale."""

    higher_is_better = True

    def __init__(self, items: VqaItems, benchmark: Mapping[str, Any], max_new_tokens: int) -> None:
        self.benchmark, self.max_new_tokens = benchmark, max_new_tokens
        self.name, self.key, self.group = benchmark["benchmark"], benchmark["metric"], benchmark["benchmark"]
        self.corpus = items.corpus
        self.rows = [row for row in items.items.to_pylist() if row["benchmark"] == self.name]

    def item_id(self, row: Row) -> str:
        """Its identifier."""
        return str(row["item_id"])

    def drawn_with(self, row: Row) -> str | None:
        """Its pair or group."""
        return None if row["pair_id"] is None else str(row["pair_id"])

    def text(self, row: Row) -> str:
        """What the model is asked."""
        from runner.nodes.vqa.prompts import prompt

        return prompt(self.benchmark, row)

    def content(self, row: Row) -> Any:
        """Pictures by their bytes, text, and what bounds the result."""
        return ["vqa", self.pictures(row), self.text(row), self.max_new_tokens]

    def encode(self, loaded: LoadedLvlm, rows: Sequence[Row], failed: Failed) -> Batch:
        """See ``Task``."""
        from runner.models.lvlm.batches import Batch, Writer, records_of
        from runner.models.lvlm.generating import Question, prompts

        asked = [{**row, "record_id": row["item_id"], "turns": json.dumps([["user", self.text(row)]])} for row in rows]
        records = list(records_of(_with_corpus(self.corpus), asked, failed=failed))
        if not records:
            return Batch({}, [])
        questions = [Question(record.images, record.turns[0][1]) for record in records]
        batch = prompts(Writer(loaded), loaded, questions).to("cpu")
        batch.record_ids = [record.record_id for record in records]
        return batch

    def run(self, loaded: LoadedLvlm, batch: Batch) -> list[Any]:
        """See ``Task``."""
        from runner.models.lvlm.batches import Writer
        from runner.models.lvlm.generating import replies_to

        placed = batch.to(loaded.device, loaded.dtype)
        return list(replies_to(loaded, Writer(loaded), placed, self.max_new_tokens))

    def item_value(self, row: Row, result: Any) -> float:
        """See ``Task``."""
        from runner.nodes.vqa.scoring import score

        return score(self.key, result, row).score

    def value(self, rows: Sequence[Row], results: Sequence[Any]) -> float:
        """See ``Task``."""
        from runner.nodes.vqa.aggregates import estimate, full_scale
        from runner.nodes.vqa.scoring import score

        scored = [{**row, **score(self.key, x, row)._asdict()} for row, x in zip(rows, results, strict=True)]
        return estimate(self.benchmark, scored, draws=1).value / full_scale(self.benchmark, scored)


class LossTask(Task):
    """Mean over a domain's records of the mean negative log-likelihood of their replies' tokens: every record counts the same, so
    that the score is the mean of its items, and mixtures are shares of records.
    Results keep sums and counts of tokens."""

    key, group, higher_is_better = "nll", "loss", False

    def __init__(self, data: Conversations, domain: str, split: str, max_length: int | None) -> None:
        self.name, self.domain, self.data, self.max_length = f"loss/{domain}", domain, data, max_length
        self.corpus = data.corpus
        self.rows = [row for row in data.records.to_pylist() if row["domain"] == domain and row["split"] == split]

    def item_id(self, row: Row) -> str:
        """Its identifier."""
        return str(row["record_id"])

    def drawn_with(self, row: Row) -> str | None:
        """Its pair or group."""
        return None if row["group"] is None else str(row["group"])

    def content(self, row: Row) -> Any:
        """Pictures by their bytes, text, and what bounds the result."""
        return ["nll", self.pictures(row), row["turns"], self.max_length]

    def encode(self, loaded: LoadedLvlm, rows: Sequence[Row], failed: Failed) -> Batch:
        """See ``Task``."""
        from runner.models.lvlm.batches import Batch, encode, records_of

        records = list(records_of(self.data, rows, failed=failed))
        batch = encode(loaded, records, max_length=self.max_length) if records else Batch({}, [])
        for record_id in batch.dropped:
            failed(record_id, f"no reply is left of it within {self.max_length} tokens")
        return batch

    def run(self, loaded: LoadedLvlm, batch: Batch) -> list[Any]:
        """See ``Task``."""
        from runner.models.lvlm.generating import token_nll

        sums, counts = token_nll(loaded, batch)
        return [[float(total), int(count)] for total, count in zip(sums, counts, strict=True)]

    def item_value(self, row: Row, result: Any) -> float:
        """See ``Task``."""
        return float(result[0] / result[1])

    def value(self, rows: Sequence[Row], results: Sequence[Any]) -> float:
        """See ``Task``."""
        return math.fsum(self.item_value(row, x) for row, x in zip(rows, results, strict=True)) / len(results)


def tasks_of(
    items: VqaItems | None, data: Conversations | None, *, split: str = "eval", max_new_tokens: int = 16,
    max_length: int | None = None,
) -> list[Task]:  # fmt: skip
    """All benchmarks, then the loss of each domain. Raises ``DataError`` where there is nothing to score."""
    found: list[Task] = []
    if items is not None:
        found += [QuestionTask(items, benchmark, max_new_tokens) for benchmark in items.benchmarks]
    if data is not None:
        found += [LossTask(data, domain, split, max_length) for domain in data.about["domains"]]
    empty = [task.name for task in found if not task.rows]
    if not found or empty:
        raise DataError(
            f"there is no item to score {empty[0]} on (split {split!r})" if empty else "there is nothing to score on",
            hint="give items (questions), data (conversations with the split) or both",
        )
    return found


def _with_corpus(corpus: list[dict[str, Any]]) -> Conversations:
    import pyarrow as pa

    from runner.artifacts import Conversations

    return Conversations({}, corpus, pa.table({}))
