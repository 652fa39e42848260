"""The training loop: every step is a function of (seed, step), so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runner.errors import Interrupted, StepError
from runner.nodes.finetuning.drawing import Numbers
from runner.nodes.finetuning.examples import Inputs, Kept, Live
from runner.nodes.finetuning.group import Group
from runner.nodes.finetuning.learner import Learner
from runner.nodes.finetuning.objective import Counts, Objective, Teach, Terms, counts
from runner.nodes.finetuning.sharding import clip, is_sharded, placed, whole
from runner.nodes.finetuning.specs import Optim, Recipe
from runner.nodes.peak_memory import peak_bytes

STATE = "training.pt"
SAVING = 0.05
"""Share of the time that may go into saving."""


@dataclass
class TrainLog:
    """What a training did. ``rows``: of ``recovery_step`` without the model; ``skipped``: steps whose records all lost their labels."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Course:
    """Which records each step trains on, and how many there are in all."""

    steps: Sequence[Numbers]
    records: int


def learning_rate(step: int, steps: int, optim: Optim, peak: float) -> float:
    """Of step 0, 1, ...: linear up to ``peak`` over the warm-up, then by the schedule down to 0 after the last step."""
    warmup = math.ceil(optim.warmup_ratio * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if optim.schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 - done if optim.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """One training. ``state`` is where it is saved, and taken up again if it is there; ``group``: the processes that share it."""

    def __init__(
        self, learner: Learner, feed: Kept | Live, course: Course, recipe: Recipe, *, seed: int, state: Path,
        teach: Teach | None = None, layers: Sequence[int] = (), group: Group | None = None,
    ) -> None:  # fmt: skip
        self.learner, self.feed, self.course, self.recipe = learner, feed, course, recipe
        self.seed, self.state, self.group = seed, state, group or Group()
        self.objective = Objective(learner.network, learner.parts, recipe.loss, teach, layers)
        self.optimiser = torch.optim.AdamW(parameter_groups(learner, recipe.optim))
        self.done, self.log = 0, TrainLog()
        if state.is_file():
            self._resume()

    def run(self, on_step: Callable[[], None]) -> TrainLog:
        """Train to the end. ``on_step()`` may raise to stop: the state is saved first."""
        if self.done == len(self.course.steps):
            return self.log
        self.learner.training()
        saved, cost = time.monotonic(), 0.0
        training = enough_memory("training (forward and backward)", _lower(self.recipe.optim))
        with torch.random.fork_rng(devices=generators(self.learner.loaded.device)), training:
            for parts in self._ahead():
                started = time.monotonic()
                self._step(parts, started)
                now = time.monotonic()
                if self.group.any((now - saved) * SAVING >= cost):
                    self._save()
                    saved = time.monotonic()
                    cost = saved - now
                self._report(on_step)
        self._save()
        return self.log

    def _report(self, on_step: Callable[[], None]) -> None:
        stopped: BaseException | None = None
        try:
            on_step()
        except BaseException as error:  # noqa: BLE001 - raised below
            stopped = error
        if self.group.any(stopped is not None):  # all of them stop after the same step
            self._save()
            raise stopped or Interrupted("stopped on request")

    def _ahead(self) -> Iterator[list[Inputs | None]]:
        """The parts of each step that is left; the next one is made while one is computed."""
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._parts, self.done) if self.done < len(self.course.steps) else None
            for step in range(self.done, len(self.course.steps)):
                assert following is not None
                parts = following.result()
                following = pool.submit(self._parts, step + 1) if step + 1 < len(self.course.steps) else None
                yield parts

    def _parts(self, step: int) -> list[Inputs | None]:
        """This process' share of each part; None where truncation left nothing of it."""
        cut = np.array_split(self.course.steps[step], self.recipe.optim.accumulation)
        return [self.feed.batch(self.group.share(rows.tolist())) for rows in cut]

    def _step(self, parts: list[Inputs | None], started: float) -> None:
        optim, step = self.recipe.optim, self.done
        rate = learning_rate(step, len(self.course.steps), optim, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["peak"]
        self.done += 1
        over = self._counts(parts)
        if not over.records:
            self.log.skipped += 1
            return
        self.optimiser.zero_grad(set_to_none=True)
        found = [terms for n, p in enumerate(parts) if (terms := self._backward(p, over, n)) is not None]
        values = list(self.learner.trained.values())
        self.group.sum_gradients([p for p in values if not is_sharded(p)])
        norm = clip(values, optim.clip or math.inf)
        if not math.isfinite(norm):
            raise _not_finite("gradient", step, [i for p in parts if p is not None for i in p.record_ids])
        self.optimiser.step()
        self._note(found, over, norm, time.monotonic() - started, rate * optim.lr)

    def _counts(self, parts: list[Inputs | None]) -> Counts:
        """Of the whole step, over all processes."""
        mine = counts([p for p in parts if p is not None], self.recipe.loss)
        return Counts(*(int(n) for n in self.group.sums([mine.tokens, mine.kd, mine.records])))

    def _backward(self, batch: Inputs | None, over: Counts, part: int) -> Terms | None:
        loaded, place = self.learner.loaded, part * self.group.size + self.group.rank
        torch.manual_seed((self.seed * 1_000_003 + self.done * 65_537 + place) % (1 << 62))
        mixed = torch.autocast(
            torch.device(loaded.device).type, torch.bfloat16, enabled=_mixed(self.learner, self.recipe)
        )
        with mixed:
            found = None if batch is None else self.objective(batch.to(loaded.device, self.learner.dtype), over)
            total = self._idle() if found is None else found.total
        if found is not None and batch is not None and not bool(torch.isfinite(found.total.detach())):
            some = [batch.record_ids[row] for row in found.bad_rows] or batch.record_ids
            raise _not_finite("loss", self.done - 1, some)
        if total is not None and total.requires_grad:  # a batch without pictures says nothing to a projector
            torch.autograd.backward(total)
        return found

    def _idle(self) -> Tensor | None:
        """A loss of zero through all blocks: where weights are spread, the others wait for this process to go along."""
        if not any(is_sharded(p) for p in self.learner.trained.values()):
            return None
        ids = torch.zeros(1, 2, dtype=torch.int64, device=self.learner.loaded.device)
        states: Tensor = self.learner.network.base_model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, return_dict=True
        ).last_hidden_state
        return states.float().sum() * 0

    def _note(self, found: list[Terms], over: Counts, norm: float, seconds: float, rate: float) -> None:
        self.log.seconds += seconds
        size = self.recipe.optim.batch_size
        self.log.rows.append({
            "train_step": self.done, "epoch": self.done * size / max(1, self.course.records), **_summed(found, self.group),
            "lr": rate, "grad_norm": norm, "tokens": over.tokens, "seconds": seconds,
        })  # fmt: skip

    def _save(self) -> None:
        """Write beside and rename: what is there is always whole. Every process gives its part, the first one writes."""
        dropped = self.group.union(self.feed.dropped)
        self.log.peak_bytes = max(self.log.peak_bytes, peak_bytes(self.learner.loaded.device))
        content = {
            "trained": self._gathered(self.learner.trained),
            "moments": {
                name: self._gathered(self.optimiser.state[p]) for name, p in self.learner.trained.items() if p in self.optimiser.state
            },
            "done": self.done, "log": self.log.rows, "seconds": self.log.seconds, "skipped": self.log.skipped,
            "peak_bytes": self.log.peak_bytes, "dropped": sorted(dropped),
        }  # fmt: skip
        if self.group.leads:
            write_state(content, self.state)

    def _gathered(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors, in the process that writes them; spread ones are put together one after another."""
        found: dict[str, Tensor] = {}
        for name, value in values.items():
            full = whole(value)
            if self.group.leads:
                found[name] = full.cpu() if is_sharded(value) else full
        return found

    def _resume(self) -> None:
        content = torch.load(self.state, map_location="cpu", weights_only=True)
        self.learner.set_state({n: placed(v, self.learner.trained[n]) for n, v in content["trained"].items()})
        for name, moments in content["moments"].items():
            parameter = self.learner.trained[name]
            self.optimiser.state[parameter] = {
                kind: value if kind == "step" else placed(value, parameter) for kind, value in moments.items()
            }
        self.done = content["done"]
        self.log = TrainLog(content["log"], content["seconds"], content["peak_bytes"], content["skipped"])
        self.feed.dropped |= set(content["dropped"])


def write_state(content: dict[str, Any], path: Path) -> None:
    """Tensors and plain values, written beside and renamed."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def parameter_groups(learner: Learner, optim: Optim) -> list[dict[str, Any]]:
    """Parameters by learning rate, whether they decay (matrices do) and whether they are spread: kinds of tensors cannot be mixed."""
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in learner.trained.items():
        peak = (optim.projector_lr or optim.lr) if name in learner.in_projector else optim.lr
        decay = optim.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((peak, decay, is_sharded(parameter)), []).append(parameter)
    return [{"params": p, "peak": peak, "lr": peak, "weight_decay": decay} for (peak, decay, _), p in groups.items()]


def _mixed(learner: Learner, recipe: Recipe) -> bool:
    """Weights that train are float32; where they are the whole network, bf16 is in the arithmetic alone."""
    return recipe.train == "full" and recipe.optim.precision == "bf16"


def _summed(found: Sequence[Terms], group: Group) -> dict[str, float | None]:
    """Parts of the loss over all parts of the step and all processes; None for what is not computed."""
    names = ("ce", "kd_logits", "kd_hidden")
    known = [[v for t in found if (v := getattr(t, name)) is not None] for name in names]
    told = group.sums(
        [sum(float(t.total.detach()) for t in found), *map(sum, known), *(float(len(some)) for some in known)]
    )
    each = {n: value if count else None for n, value, count in zip(names, told[1:4], told[4:], strict=True)}
    return {"loss": told[0], **each}


def generators(device: str) -> list[str]:
    """Devices with a random state of their own."""
    return [device] if device.startswith("cuda") else []


def _not_finite(what: str, step: int, record_ids: Sequence[str]) -> StepError:
    some = ", ".join(record_ids[:5]) + (f" and {len(record_ids) - 5} more" if len(record_ids) > 5 else "")
    return StepError(
        f"the {what} is not a finite number at training step {step + 1}", item=some,
        hint=f"Records of the batch: {some}. Lower optim.lr, or take optim.precision: fp32; look at the records if one is odd.",
    )  # fmt: skip


@contextmanager
def enough_memory(stage: str, advice: str) -> Iterator[None]:
    """Turn running out of memory into the stage and what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
            raise
        gc.collect()
        raise StepError(f"out of memory while {stage}", hint=advice) from error


def _lower(optim: Optim) -> str:
    return (
        f"Raise optim.accumulation (now {optim.accumulation}; at most batch_size, {optim.batch_size}), set "
        f"optim.checkpointing: true, or lower optim.max_length (now {optim.max_length})."
    )
