"""Merged models on tasks: every result is kept item by item, so that nothing is computed twice and one failure costs one mixture."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from runner.context import item_key
from runner.errors import BudgetExceeded, DataError, Interrupted, RunnerError
from runner.models.lvlm.batches import Batch
from runner.nodes.merging.execution import shared_pictures
from runner.nodes.merging.pictures import Kept, remembered_pictures
from runner.nodes.merging.sessions import Costs, Merges, Mixture, Ready, Sessions
from runner.nodes.merging.tasks import Task

if TYPE_CHECKING:
    from runner.context import StepContext

Row = Mapping[str, Any]
KEPT_BYTES = 2e9
"""Of encoded batches and picture features that are held for later mixtures."""


class UnusableData(Exception):
    """Items cannot be read at all: no mixture's fault, so the step ends with ``error``."""

    def __init__(self, error: RunnerError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Outcome:
    """Results by mixture, task and item; costs of merges; why mixtures failed."""

    results: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    unusable: set[tuple[str, str]] = field(default_factory=set)


class Evaluator:
    """Scores mixtures on tasks. ``about``: what besides the weights makes a result what it is (base, experts, method, execution).

    ``batch_size``: samples of one forward, over all mixtures that share it. ``evaluate`` may be called again with further mixtures or
    other items, as an adaptive search does; what is known is not computed again.
    """

    def __init__(
        self, ctx: StepContext, sessions: Merges, tasks: Sequence[Task], about: Mapping[str, Any], batch_size: int
    ) -> None:
        self.ctx, self.sessions, self.batch_size = ctx, sessions, batch_size
        self.tasks, self.about = list(tasks), dict(about)
        self.outcome = Outcome()
        self._encoded = Kept(KEPT_BYTES)
        self._pictures = Kept(KEPT_BYTES)

    def evaluate(self, mixtures: Sequence[Mixture], chosen: Mapping[str, Sequence[Row]] | None = None) -> Outcome:
        """Run what is missing; ``chosen``: rows of each task (default: all). Failures of single mixtures are kept, not raised."""
        rows = {task.name: list((chosen or {}).get(task.name, task.rows)) for task in self.tasks}
        self.ctx.advance("items", 0, len(mixtures) * sum(map(len, rows.values())))
        open_ones = [mixture for mixture in mixtures if self._recall(mixture, rows)]
        for group in self.sessions.groups(open_ones, self.batch_size):
            try:
                self._run_group(group, rows)
            except (Interrupted, BudgetExceeded):
                raise
            except UnusableData as error:
                raise error.error from None
            except (RunnerError, ArithmeticError, torch.OutOfMemoryError) as error:
                self._give_up(group, error)
        return self.outcome

    def _give_up(self, group: Sequence[Mixture], error: Exception) -> None:
        reason = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError):
            reason = f"out of memory with batch_size {self.batch_size}; take a smaller one"
        for mixture in group:
            self._fail(mixture, reason)

    def _fail(self, mixture: Mixture, reason: str) -> None:
        if mixture.mixture_id not in self.outcome.failures:
            self.outcome.failures[mixture.mixture_id] = reason
            self.ctx.failed(mixture.mixture_id, reason)

    # --- what is known already ---------------------------------------------------------------------------------------

    def _key(self, mixture: Mixture, task: Task, row: Row) -> str:
        return item_key("dmo.score", self.about, list(mixture.weights), task.key, task.item_id(row), task.content(row))

    def _recall(self, mixture: Mixture, rows: Mapping[str, Sequence[Row]]) -> bool:
        """Take what is kept of a mixture; whether something is missing."""
        missing = 0
        for task in self.tasks:
            for row in rows[task.name]:
                stored = self.ctx.items.get(self._key(mixture, task, row))
                if stored is None:
                    missing += not self._is_unusable(task, row)
                else:
                    self._take(mixture, task, row, json.loads(stored))
        stored = self.ctx.items.get(self._cost_key(mixture))
        if stored is not None:
            self.outcome.costs[mixture.mixture_id] = Costs(**json.loads(stored))
        return missing > 0

    def _take(self, mixture: Mixture, task: Task, row: Row, stored: Mapping[str, Any]) -> None:
        place = (mixture.mixture_id, task.name, task.item_id(row))
        if place in self.outcome.results:
            return
        self.outcome.results[place] = stored["result"]
        spent = place[:2]
        self.outcome.seconds[spent] = self.outcome.seconds.get(spent, 0.0) + stored["seconds"]
        self.ctx.advance("items")

    def _cost_key(self, mixture: Mixture) -> str:
        return item_key("dmo.merge", self.about, list(mixture.weights))

    def _keep_costs(self, group: Sequence[Mixture]) -> None:
        for mixture in group:
            cost = self.sessions.costs[mixture.mixture_id]
            self.outcome.costs[mixture.mixture_id] = cost
            self.ctx.items.put(self._cost_key(mixture), json.dumps(vars(cost)).encode())

    def _is_unusable(self, task: Task, row: Row) -> bool:
        return (task.name, task.item_id(row)) in self.outcome.unusable

    # --- running -----------------------------------------------------------------------------------------------------

    def _run_group(self, group: Sequence[Mixture], rows: Mapping[str, Sequence[Row]]) -> None:
        assert isinstance(self.sessions, Sessions)
        with self.sessions.session(group) as ready:
            self._keep_costs(group)
            self._run(ready, group, rows)

    def _run(self, ready: Ready, group: Sequence[Mixture], rows: Mapping[str, Sequence[Row]]) -> None:
        for task in self.tasks:
            for number, chunk in enumerate(chunks(rows[task.name], max(1, self.batch_size // len(group)))):
                self.ctx.check()
                live = [mixture for mixture in group if self._wants(mixture, task, chunk)]
                if live:
                    self._run_chunk(ready, live, task, number, chunk)

    def _wants(self, mixture: Mixture, task: Task, chunk: Sequence[Row]) -> bool:
        if mixture.mixture_id in self.outcome.failures:
            return False
        return any(
            (mixture.mixture_id, task.name, task.item_id(row)) not in self.outcome.results and not self._is_unusable(task, row)
            for row in chunk
        )  # fmt: skip

    def _run_chunk(self, ready: Ready, live: list[Mixture], task: Task, number: int, chunk: Sequence[Row]) -> None:
        batch = self._batch(ready, task, chunk)
        if not batch.record_ids:
            return
        start, count = time.perf_counter(), len(batch.record_ids)
        ready.assign(live, count)
        # Features of single mixtures come back with the next mixture; those of several are shared within the batch.
        pictures = remembered_pictures(ready.vision, self._pictures) if len(live) == 1 else nullcontext()
        with pictures, shared_pictures(ready.vision, len(live)):
            results = task.run(ready.loaded, repeated(batch, len(live)))
        seconds = (time.perf_counter() - start) / len(results)
        by_id = {task.item_id(row): row for row in chunk}
        for place, mixture in enumerate(live):
            own = results[place * count : (place + 1) * count]
            self._keep(mixture, task, [by_id[name] for name in batch.record_ids], own, seconds)

    def _keep(self, mixture: Mixture, task: Task, rows: Sequence[Row], results: Sequence[Any], seconds: float) -> None:
        values = [task.item_value(row, result) for row, result in zip(rows, results, strict=True)]
        if not all(map(math.isfinite, values)):
            self._fail(mixture, f"{task.name}: the merged model gives values that are not finite")
            return
        stored = [{"result": result, "seconds": seconds} for result in results]
        self.ctx.items.put_many({
            self._key(mixture, task, row): json.dumps(one).encode() for row, one in zip(rows, stored, strict=True)
        })  # fmt: skip
        for row, one in zip(rows, stored, strict=True):
            self._take(mixture, task, row, one)

    def _batch(self, ready: Ready, task: Task, chunk: Sequence[Row]) -> Batch:
        key = (task.name, *(task.item_id(row) for row in chunk))
        found: Batch | None = self._encoded.get(key)
        if found is None:
            try:
                found = task.encode(ready.loaded, chunk, lambda item, reason: self._unusable(task, item, reason))
            except RunnerError as error:
                raise UnusableData(error) from error
            self._encoded.put(key, found)
        return found

    def _unusable(self, task: Task, item: str, reason: str) -> None:
        if (task.name, item) not in self.outcome.unusable:
            self.outcome.unusable.add((task.name, item))
            self.ctx.failed(f"{task.name}/{item}", reason)


def repeated(batch: Batch, copies: int) -> Batch:
    """The batch ``copies`` times, one after another."""
    if copies == 1:
        return batch
    tensors = {
        name: value.repeat(copies, *[1] * (value.dim() - 1)) if isinstance(value, torch.Tensor) else list(value) * copies
        for name, value in batch.items()
    }  # fmt: skip
    return Batch(tensors, batch.record_ids * copies)


def chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Rows by ``size`` at once."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


# --- rows of the results ---------------------------------------------------------------------------------------------


def score_rows(tasks: Sequence[Task], mixtures: Sequence[Mixture], outcome: Outcome, kind: str) -> list[dict[str, Any]]:
    """Rows of ``dmo_score``, mixture by mixture; a mixture that failed, or lacks an item that others have, has no value."""
    return [_score_row(task, mixture, outcome, kind) for mixture in mixtures for task in tasks]


def _score_row(task: Task, mixture: Mixture, outcome: Outcome, kind: str) -> dict[str, Any]:
    rows = [row for row in task.rows if (task.name, task.item_id(row)) not in outcome.unusable]
    places = [(mixture.mixture_id, task.name, task.item_id(row)) for row in rows]
    done = bool(rows) and all(place in outcome.results for place in places)
    value = task.value(rows, [outcome.results[place] for place in places]) if done else None
    return {
        "mixture_id": mixture.mixture_id, "kind": kind, "task": task.name, "key": task.key, "value": value,
        "n": sum(place in outcome.results for place in places), "seconds": outcome.seconds.get((mixture.mixture_id, task.name)),
        "status": "done" if done else "failed",
    }  # fmt: skip


def item_rows(tasks: Sequence[Task], mixtures: Sequence[Mixture], outcome: Outcome) -> list[dict[str, Any]]:
    """Rows of ``MixtureScores.items``."""
    return [
        {
            "mixture_id": mixture.mixture_id, "task": task.name, "item_id": task.item_id(row), "group": task.drawn_with(row),
            "value": task.item_value(row, outcome.results[place]),
        }
        for mixture in mixtures for task in tasks for row in task.rows
        if (place := (mixture.mixture_id, task.name, task.item_id(row))) in outcome.results
    ]  # fmt: skip


def merge_rows(mixtures: Sequence[Mixture], outcome: Outcome, method: str, execution: str) -> list[dict[str, Any]]:
    """Rows of ``dmo_merge``: of the mixtures that were merged."""
    return [
        {"mixture_id": mixture.mixture_id, "method": method, "execution": execution, **vars(outcome.costs[mixture.mixture_id])}
        for mixture in mixtures if mixture.mixture_id in outcome.costs
    ]  # fmt: skip


def need_some(tasks: Sequence[Task], outcome: Outcome) -> None:
    """Raise ``DataError`` where no item of a task could be used."""
    for task in tasks:
        if all((task.name, task.item_id(row)) in outcome.unusable for row in task.rows):
            raise DataError(f"{task.name}: none of its {len(task.rows)} items can be given to the model")
