"""The training loop: every step is a function of (seed, step), so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import gc
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runner.errors import StepError
from runner.nodes.finetuning.drawing import Numbers
from runner.nodes.finetuning.examples import Inputs, Kept, Live
from runner.nodes.finetuning.learner import Learner
from runner.nodes.finetuning.objective import Counts, Objective, Teach, Terms, counts
from runner.nodes.finetuning.specs import Optim, Recipe

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
    """One training. ``state`` is where it is saved, and taken up again if it is there."""

    def __init__(
        self, learner: Learner, feed: Kept | Live, course: Course, recipe: Recipe, *, seed: int, state: Path,
        teach: Teach | None = None, layers: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.learner, self.feed, self.course, self.recipe = learner, feed, course, recipe
        self.seed, self.state = seed, state
        self.objective = Objective(learner.network, learner.parts, recipe.loss, teach, layers)
        self.optimiser = torch.optim.AdamW(_groups(learner, recipe.optim))
        self.done, self.log = 0, TrainLog()
        if state.is_file():
            self._resume()

    def run(self, on_step: Callable[[], None]) -> TrainLog:
        """Train to the end. ``on_step()`` may raise to stop: the state is saved first."""
        self.learner.training()
        saved, cost = time.monotonic(), 0.0
        training = enough_memory("training (forward and backward)", _lower(self.recipe.optim))
        with torch.random.fork_rng(devices=_generators(self.learner.loaded.device)), training:
            for parts in self._ahead():
                started = time.monotonic()
                self._step(parts, started)
                now = time.monotonic()
                if (now - saved) * SAVING >= cost:
                    self._save()
                    saved = time.monotonic()
                    cost = saved - now
                self._report(on_step)
        if self.done and not self.log.peak_bytes:
            self.log.peak_bytes = peak_bytes(self.learner.loaded.device)
        self._save()
        return self.log

    def _report(self, on_step: Callable[[], None]) -> None:
        try:
            on_step()
        except BaseException:
            self._save()
            raise

    def _ahead(self) -> Iterator[list[Inputs]]:
        """The parts of each step that is left; the next one is made while one is computed."""
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._parts, self.done) if self.done < len(self.course.steps) else None
            for step in range(self.done, len(self.course.steps)):
                assert following is not None
                parts = following.result()
                following = pool.submit(self._parts, step + 1) if step + 1 < len(self.course.steps) else None
                yield parts

    def _parts(self, step: int) -> list[Inputs]:
        cut = np.array_split(self.course.steps[step], self.recipe.optim.accumulation)
        return [found for rows in cut if (found := self.feed.batch(rows.tolist())) is not None]

    def _step(self, parts: list[Inputs], started: float) -> None:
        optim, step = self.recipe.optim, self.done
        rate = learning_rate(step, len(self.course.steps), optim, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["peak"]
        self.done += 1
        if not parts:
            self.log.skipped += 1
            return
        self.optimiser.zero_grad(set_to_none=True)
        loaded = self.learner.loaded
        over = counts(parts, self.recipe.loss)
        found = [self._backward(p.to(loaded.device, self.learner.dtype), over, n) for n, p in enumerate(parts)]
        norm = nn.utils.clip_grad_norm_(self.learner.trained.values(), optim.clip or math.inf)
        if not bool(torch.isfinite(norm)):
            raise _not_finite("gradient", step, [i for p in parts for i in p.record_ids])
        self.optimiser.step()
        self._note(found, over, float(norm), time.monotonic() - started, rate * optim.lr)

    def _backward(self, batch: Inputs, over: Counts, part: int) -> Terms:
        torch.manual_seed((self.seed * 1_000_003 + self.done * 65_537 + part) % (1 << 62))
        with torch.autocast(
            torch.device(self.learner.loaded.device).type, torch.bfloat16, enabled=_mixed(self.learner, self.recipe)
        ):
            found = self.objective(batch, over)
        if not bool(torch.isfinite(found.total.detach())):
            raise _not_finite(
                "loss", self.done - 1, [batch.record_ids[row] for row in found.bad_rows] or batch.record_ids
            )
        if found.total.requires_grad:  # a batch without pictures says nothing to a projector
            torch.autograd.backward(found.total)
        return found

    def _note(self, found: list[Terms], over: Counts, norm: float, seconds: float, rate: float) -> None:
        self.log.seconds += seconds
        size = self.recipe.optim.batch_size
        self.log.rows.append({
            "train_step": self.done, "epoch": self.done * size / max(1, self.course.records),
            "loss": sum(float(t.total.detach()) for t in found),
            **{name: _summed([getattr(t, name) for t in found]) for name in ("ce", "kd_logits", "kd_hidden")},
            "lr": rate, "grad_norm": norm, "tokens": over.tokens, "seconds": seconds,
        })  # fmt: skip

    def _save(self) -> None:
        """Write beside and rename: what is there is always whole."""
        part = self.state.with_suffix(".part")
        content = {
            "trained": self.learner.state(), "optimiser": self.optimiser.state_dict(), "done": self.done, "log": self.log.rows,
            "seconds": self.log.seconds, "skipped": self.log.skipped,
        }  # fmt: skip
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.state)

    def _resume(self) -> None:
        content = torch.load(self.state, map_location=self.learner.loaded.device, weights_only=True)
        self.learner.set_state(content["trained"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.done = content["done"]
        self.log = TrainLog(content["log"], content["seconds"], 0, content["skipped"])


def peak_bytes(device: str) -> int:
    """Peak memory: of the accelerator where there is one, else the resident set of this process."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def _groups(learner: Learner, optim: Optim) -> list[dict[str, Any]]:
    """Parameters by learning rate and whether they decay (matrices do)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learner.trained.items():
        peak = (optim.projector_lr or optim.lr) if name in learner.in_projector else optim.lr
        groups.setdefault((peak, optim.weight_decay if parameter.ndim >= 2 else 0.0), []).append(parameter)
    return [{"params": p, "peak": peak, "lr": peak, "weight_decay": decay} for (peak, decay), p in groups.items()]


def _mixed(learner: Learner, recipe: Recipe) -> bool:
    """Weights that train are float32; where they are the whole network, bf16 is in the arithmetic alone."""
    return recipe.train == "full" and recipe.optim.precision == "bf16"


def _summed(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else float(sum(v for v in values if v is not None))


def _generators(device: str) -> list[str]:
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
