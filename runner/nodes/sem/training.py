"""Training of sparse autoencoders, as in MSAE (arXiv 2502.20578), resumable after every epoch. torch; any device.

A resumed training ends with the same bits as an uninterrupted one on the same machine, threads and versions.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from runner.nodes.sem.checks import check_rows
from runner.nodes.sem.losses import Losses, Objective, training_losses
from runner.nodes.sem.quality import Quality, measure
from runner.nodes.sem.sae import SparseAutoencoder

RARE_SHARE = 10**-5.5
"""Share of rows below which a latent counts as rarely active."""
ADAM_EPSILON = 6.25e-10


class Schedule(NamedTuple):
    """How to descend. ``constant_share``: of the epochs at ``lr``, after which it falls linearly to 0, epoch by epoch.

    ``patience``: epochs without a lower FVU on the held-out rows after which training stops, with the best weights (None:
    never, with the last ones). ``check_every``: steps between counts of rarely active latents.
    """

    lr: float = 1e-4
    batch: int = 4096
    epochs: int = 30
    constant_share: float = 0.8
    clip_norm: float = 1.0
    unit_norm_decoder: bool = True
    patience: int | None = None
    check_every: int = 1000


def learning_rate(epoch: int, schedule: Schedule) -> float:
    """The rate of ``epoch``, counted from 0: constant, then linear, reaching 0 after the last epoch."""
    start = int(schedule.constant_share * schedule.epochs)
    if epoch < start:
        return schedule.lr
    return schedule.lr * (schedule.epochs - epoch) / (schedule.epochs - start)


@torch.no_grad()
def remove_parallel_gradient(decoder: nn.Linear) -> None:
    """Take from the gradient of W_d [d, L] each column's component along that column of W_d, which need not be of unit norm."""
    gradient, weight = decoder.weight.grad, decoder.weight
    if gradient is None:
        return
    squared = weight.square().sum(0)
    along = (gradient * weight).sum(0) / torch.where(squared > 0, squared, torch.ones_like(squared))
    gradient.sub_(weight * along)


class LogRow(NamedTuple):
    """One epoch, counted from 1. ``quality``: on the held-out rows; ``rare``: see ``RARE_SHARE``, None between checks."""

    epoch: int
    lr: float
    loss: float
    level_losses: list[float]
    quality: Quality
    rare: int | None
    seconds: float


class SaeTrainer:
    """Trains ``sae`` in place on raw embeddings ``rows`` [n, d], with ``held_out`` [m, d] to measure on.

    ``rows`` may lie in memory-mapped storage; batches are moved to the autoencoder's device. ``log`` grows by a ``LogRow`` an epoch.
    Raises ValueError for NaN, rows of another width, and where there is nothing to train or to measure on.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        rows: Tensor,
        held_out: Tensor,
        objective: Objective,
        schedule: Schedule,
        *,
        seed: int = 0,
    ) -> None:
        check_rows("embeddings to train on", rows, sae.d)
        check_rows("embeddings held out", held_out, sae.d)
        if schedule.epochs < 1:
            raise ValueError(f"{schedule.epochs} epochs: nothing to train")
        self.sae, self.rows, self.held_out = sae, rows, held_out
        self.objective, self.schedule = objective, schedule
        self.optimiser = torch.optim.Adam(sae.parameters(), lr=schedule.lr, eps=ADAM_EPSILON)
        self.draw = torch.Generator().manual_seed(seed)
        self.log: list[LogRow] = []
        self.best: dict[str, Tensor] = {}
        self.counts = torch.zeros(sae.latents, dtype=torch.int64, device=sae.b_pre.device)
        self.counted, self.steps, self.rare = 0, 0, None  # type: tuple[int, int, int | None]

    @property
    def best_epoch(self) -> int:
        """The epoch of least FVU on the held-out rows, from 1; 0 before the first. A NaN is worse than any number."""
        fvus = [math.inf if math.isnan(row.quality.fvu) else row.quality.fvu for row in self.log]
        return 1 + min(range(len(fvus)), key=fvus.__getitem__) if fvus else 0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        done, patience = len(self.log), self.schedule.patience
        return done >= self.schedule.epochs or (patience is not None and done - self.best_epoch >= patience)

    def run(
        self, after_epoch: Callable[[], None] = lambda: None, after_step: Callable[[], None] = lambda: None
    ) -> SparseAutoencoder:
        """Train until finished. ``state`` may be taken in ``after_epoch``, not in ``after_step``; both may raise to stop."""
        while not self.finished:
            self._epoch(after_step)
            after_epoch()
        if self.schedule.patience is not None:
            self.sae.load_state_dict(self.best)
        if self.schedule.unit_norm_decoder:
            self.sae.scale_decoder_to_unit()
        return self.sae.eval()

    def _epoch(self, after_step: Callable[[], None]) -> None:
        began = time.monotonic()
        self.rare = None
        lr = learning_rate(len(self.log), self.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        device = self.counts.device
        total, levels = torch.zeros((), device=device), torch.zeros(max(1, len(self.objective.levels)), device=device)
        for part in self._batches():
            losses = self._step(part.to(device))
            total += losses.total.detach() * len(part)
            levels += losses.levels * len(part)
            after_step()
        loss = float(total) / len(self.rows)
        if not math.isfinite(loss):
            raise ValueError(
                f"the training diverged in epoch {len(self.log) + 1} (loss {loss}): lower the learning rate"
            )
        quality = measure(self.sae, self.held_out, self.schedule.batch)
        means = (levels / len(self.rows)).tolist()
        self.log.append(LogRow(len(self.log) + 1, lr, loss, means, quality, self.rare, time.monotonic() - began))
        if self.schedule.patience is not None and self.best_epoch == len(self.log):
            self.best = copy.deepcopy(self.sae.state_dict())

    def _batches(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self.rows), generator=self.draw)
        for start in range(0, len(order), self.schedule.batch):
            yield self.rows[order[start : start + self.schedule.batch]]

    def _step(self, z: Tensor) -> Losses:
        """One step, in the order of MSAE's trainer: gradients, unit norms, parallel parts off, clipping, descent."""
        losses = training_losses(self.sae, self.sae.standardised(z), self.objective)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total)
        if self.schedule.unit_norm_decoder:
            self.sae.scale_decoder_to_unit()
            remove_parallel_gradient(self.sae.decoder)
        nn.utils.clip_grad_norm_(self.sae.parameters(), self.schedule.clip_norm)
        self.optimiser.step()
        self._count(losses.active)
        return losses

    def _count(self, active: Tensor) -> None:
        self.counts += active.sum(0)
        self.counted += len(active)
        self.steps += 1
        if self.steps % self.schedule.check_every == 0:
            self.rare = int((self.counts < RARE_SHARE * self.counted).sum())
            self.counts.zero_()
            self.counted = 0

    def state(self) -> dict[str, Any]:
        """Everything that the next epochs hang on, of plain values and tensors, for ``torch.save``."""
        return {
            "sae": self.sae.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "draw": self.draw.get_state(),
            "log": [tuple(row._replace(quality=tuple(row.quality))) for row in self.log],  # type: ignore[arg-type]
            "best": self.best,
            "counts": self.counts,
            "counted": self.counted,
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state`` of a trainer that was made alike."""
        self.sae.load_state_dict(state["sae"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.draw.set_state(state["draw"].cpu())
        rows = (LogRow._make(row) for row in state["log"])
        self.log = [row._replace(quality=Quality._make(row.quality)) for row in rows]
        self.best = state["best"]
        self.counts.copy_(state["counts"])
        self.counted, self.steps = state["counted"], state["steps"]
