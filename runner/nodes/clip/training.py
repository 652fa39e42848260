"""The training loop: every step is a function of (seed, step), so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.nodes.clip.augment import random_view
from runner.nodes.clip.losses import Losses, student_losses
from runner.nodes.clip.network import build, encode_texts
from runner.nodes.clip.specs import ClipSize, Training

MAX_SCALE = 60.0
STATE = "training.pt"


@dataclass(frozen=True)
class Corpus:
    """Everything the loop reads.

    ``pixels`` uint8 [n, 4, s, s]; ``flippable`` [n]; ``caption`` [n] numbers; ``image_target`` [n, d] and ``feature_target``
    [n, p] unit rows; ``tokens`` [m, context] and ``text_target`` [m, d] of all texts; ``variants`` [c, k] texts that say
    caption c; ``extra`` texts that belong to no picture.
    """

    pixels: Tensor
    flippable: Tensor
    caption: Tensor
    image_target: Tensor
    feature_target: Tensor
    tokens: Tensor
    text_target: Tensor
    variants: Tensor
    extra: Tensor


def learning_rate(step: int, plan: Training) -> float:
    """Linear from 0 over ``warmup`` steps, then half a cosine to 0 at the last step."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def shuffled(n: int, seed: int, epoch: int) -> Tensor:
    """The order of ``n`` things in an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(_mixed(seed, 2 * epoch + 1)))


def draw(n: int, batch: int, seed: int, step: int) -> Tensor:
    """The things [batch] of a step, epochs one after another without a gap."""
    first = step * batch
    epochs = range(first // n, (first + batch - 1) // n + 1)
    order = torch.cat([shuffled(n, seed, epoch) for epoch in epochs])
    return order[first - epochs[0] * n :][:batch]


def _mixed(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % (1 << 62)


class Student(nn.Module):
    """The network, and the linear map from its picture vectors to the backbone's features that only training needs."""

    def __init__(self, size: ClipSize, features: int, patch_dropout: float) -> None:
        super().__init__()
        self.clip = build(size, patch_dropout=patch_dropout)
        self.features = nn.Linear(size.embed_dim, features)

    def forward(self, views: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [n, d], texts [m, d] (neither of unit length) and predicted features [n, p]."""
        images = self.clip.visual(views)
        return images, encode_texts(self.clip, tokens), self.features(functional.normalize(images.float(), dim=1))

    def scale(self) -> Tensor:
        """The factor on cosines."""
        found: Tensor = self.clip.logit_scale.exp().clamp(max=MAX_SCALE)
        return found

    def leave_patches(self, share: float) -> None:
        """From now on, leave out this share of the patches."""
        if hasattr(self.clip.visual.patch_dropout, "prob"):
            self.clip.visual.patch_dropout.prob = share


class Trainer:
    """One training. ``state`` is where it is saved, and taken up again if it is there."""

    def __init__(self, corpus: Corpus, size: ClipSize, plan: Training, *, seed: int, device: str, state: Path) -> None:
        self.corpus, self.size, self.plan = corpus, size, plan
        self.seed, self.device, self.state = seed, device, state
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mixed(seed, 0))
            self.student = Student(size, corpus.feature_target.shape[1], plan.patch_dropout).to(device).train()
        self.optimiser = torch.optim.AdamW(
            _decaying(self.student, plan.weight_decay), lr=plan.lr, betas=(0.9, 0.98), eps=1e-6, fused=True
        )
        self.done, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        if state.is_file():
            self._resume()

    def run(self, on_step: Callable[[], None]) -> list[dict[str, Any]]:
        """Train to the end; the rows of ``clip_train_log``. ``on_step()`` may raise to stop: the state is saved first."""
        since, started = self.done, time.monotonic()
        with torch.random.fork_rng():
            while self.done < self.plan.steps:
                losses = self._step(self.done)
                self.done += 1
                if self.done % self.plan.log_every == 0 or self.done == self.plan.steps:
                    now = time.monotonic()
                    self.seconds += now - started
                    self._note(losses, (self.done - since) * self.plan.batch / max(now - started, 1e-9))
                    since, started = self.done, now
                self._save_and_report(on_step)
        return self.log

    def summary(self) -> dict[str, Any]:
        """Size, plan and cost of the training."""
        return {
            "parameters": sum(parameter.numel() for parameter in self.student.clip.parameters()),
            "seed": self.seed,
            "model": self.size.model_dump(),
            "training": self.plan.model_dump(),
            "seconds": self.seconds,
        }

    def _save_and_report(self, on_step: Callable[[], None]) -> None:
        if self.done % self.plan.save_every == 0 or self.done == self.plan.steps:
            self._save()
        try:
            on_step()
        except BaseException:
            self._save()
            raise

    def _step(self, step: int) -> Losses:
        plan, corpus = self.plan, self.corpus
        torch.manual_seed(_mixed(self.seed, 2 * step + 2))
        self.student.leave_patches(plan.patch_dropout if step < plan.steps * (1 - plan.whole_share) else 0.0)
        rows = draw(len(corpus.caption), plan.batch, self.seed, step)
        caption = corpus.caption[rows]
        texts = corpus.variants[caption, torch.randint(corpus.variants.shape[1], (len(rows),))]
        if plan.text_batch and len(corpus.extra):
            extra = corpus.extra[draw(len(corpus.extra), plan.text_batch, self.seed + 1, step)]
            texts = torch.cat((texts, extra))
        view = random_view(
            corpus.pixels[rows].to(self.device), corpus.flippable[rows], self.size.image_size, plan.paste
        )
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=plan.bf16):
            images, said, features = self.student(view, corpus.tokens[texts].to(self.device))
        losses = student_losses(
            images, said, caption.to(self.device), self.student.scale(),
            image_target=corpus.image_target[rows].to(self.device),
            text_target=corpus.text_target[texts].to(self.device),
            features=features, feature_target=corpus.feature_target[rows].to(self.device),
        )  # fmt: skip
        self._descend(weighted(losses, plan), learning_rate(step, plan))
        return losses

    def _descend(self, loss: Tensor, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.student.parameters(), self.plan.clip_norm)
        self.optimiser.step()

    def _note(self, losses: Losses, images_per_s: float) -> None:
        step = self.done - 1
        row = {f"loss_{name}": float(value.detach()) for name, value in losses._asdict().items()}
        self.log.append(
            {
                "train_step": self.done,
                "epoch": self.done * self.plan.batch / len(self.corpus.caption),
                "lr": learning_rate(step, self.plan),
                "loss": float(weighted(losses, self.plan).detach()),
                **row,
                "logit_scale": float(self.student.scale().detach()),
                "images_per_s": images_per_s,
                "seconds": self.seconds,
            }
        )

    def _save(self) -> None:
        """Write beside and rename: what is there is always whole."""
        part = self.state.with_suffix(".part")
        content = {
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "seconds": self.seconds,
            "log": self.log,
        }
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.state)

    def _resume(self) -> None:
        content = torch.load(self.state, map_location=self.device, weights_only=True)
        self.student.load_state_dict(content["student"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.done, self.seconds, self.log = content["done"], content["seconds"], content["log"]


def weighted(losses: Losses, plan: Training) -> Tensor:
    """The sum that is minimised."""
    return (
        plan.contrastive_weight * losses.contrastive
        + plan.text_weight * losses.text
        + plan.image_weight * losses.image
        + plan.feature_weight * losses.features
    )


def _decaying(student: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; gains, biases, embeddings and the logit scale do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        matrix = parameter.ndim >= 2 and "embedding" not in name
        (decayed if matrix else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
