"""Training of part discovery, resumable after every epoch. torch; any device.

Every step is a function of (seed, epoch, step): a resumed training ends with the same numbers as an uninterrupted one on the
same machine, threads and versions. Learning rates, decay and clipping follow the public code of iFAM (arXiv 2506.08915).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from runner.errors import DataError
from runner.models.base import VisionBackbone
from runner.nodes.leakage import discovery_model as model
from runner.nodes.leakage import shaping
from runner.nodes.leakage.discovery import annealed, bce_attributes, gumbel, part_maps, part_vectors
from runner.nodes.leakage.discovery_specs import HeadPlan, TrainPlan

CLIP_NORM = 2.0
BASE_BATCH = 16
DECAY = 0.05
FACTORS = {"heads": 1e4, "modulation": 1e4, "prototypes": 1e3, "backbone": 1.0}
"""Learning rates of the groups, as multiples of the base rate."""
JITTER = 0.2
"""Most by which light augmentation scales brightness and contrast."""
_PRIME = 1_000_003


class Material(NamedTuple):
    """What is trained on. ``pixels(rows)`` float32 [B, 3, H, W] in 0..1; ``tokens(rows)`` stage-1 patch tokens kept from before, or
    None: they are computed each time. ``targets``, ``valid`` [n, A]; ``classes`` int64 [n]; ``flippable``: no part has a side."""

    pixels: Callable[[Tensor], Tensor]
    tokens: Callable[[Tensor], Tensor] | None
    targets: Tensor
    valid: Tensor
    classes: Tensor
    flippable: bool = True


class Batch(NamedTuple):
    """One batch on the device. ``normalised`` [B, 3, H, W]; ``tokens`` [B, N, D]; ``targets`` [B, A]; ``valid`` bool [B, A]; ``classes`` [B]."""

    normalised: Tensor
    tokens: Tensor
    targets: Tensor
    valid: Tensor
    classes: Tensor


def learning_rates(lr: float, batch: int) -> dict[str, float]:
    """Rates of the groups: the base rate times sqrt(batch / 16) times the group's factor."""
    return {name: lr * math.sqrt(batch / BASE_BATCH) * factor for name, factor in FACTORS.items()}


def weight_decay(steps: int) -> float:
    """0.05 sqrt(1 / steps of the whole training); for matrices only."""
    return DECAY * math.sqrt(1 / max(steps, 1))


def cosine(done: int, steps: int) -> float:
    """Share of the learning rate at step ``done`` of ``steps``: from 1 to 0, no warm-up."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done / max(steps, 1))))


def balanced_weights(targets: Tensor, valid: Tensor) -> Tensor:
    """Weight of positives [A]: negatives over positives among valid labels, within 1/20 .. 20; 1 where one kind is missing."""
    known = valid.double()
    positives = (targets.double() * known).sum(0)
    negatives = known.sum(0) - positives
    both = (positives > 0) & (negatives > 0)
    return torch.where(both, negatives / positives.clamp_min(1), 1.0).clamp(1 / 20, 20).float()


def seeded(seed: int, *numbers: int) -> torch.Generator:
    """A generator that is a function of its arguments."""
    mixed = seed
    for number in numbers:
        mixed = (mixed * _PRIME + number + 1) % (1 << 62)
    return torch.Generator().manual_seed(mixed)


class Trainer:
    """One training of ``head`` and, where the plan says so, of ``second`` (a copy) and the token embeddings of ``first`` (a copy).

    ``log``: a dict of mean loss terms an epoch (before their weights; ``total`` with them).
    """

    def __init__(
        self,
        first: VisionBackbone,
        second: VisionBackbone | None,
        head: HeadPlan,
        routes: model.Routes,
        plan: TrainPlan,
        material: Material,
        *,
        seed: int,
    ) -> None:
        self.first, self.second, self.plan, self.material, self.seed = first, second, plan, material, seed
        self.device, self.n = torch.device(first.device), len(material.targets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = model.DiscoveryHead(head, routes, two_stage=second is not None)
        self.head = self.head.to(self.device)
        if plan.balance:
            self.positive: Tensor | None = balanced_weights(material.targets, material.valid).to(self.device)
        else:
            self.positive = None
        self._start_bias()
        self.steps_an_epoch = math.ceil(self.n / plan.batch)
        self.steps = self.steps_an_epoch * plan.epochs
        self.optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.999))
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.log: list[dict[str, float]] = []

    @property
    def temperature(self) -> float:
        """Temperature of learned routing in the epoch at hand; 0 (hard) once trained."""
        return annealed(len(self.log) / self.plan.epochs)

    def run(
        self, after_epoch: Callable[[], None] = lambda: None, after_step: Callable[[], None] = lambda: None
    ) -> None:
        """Train until all epochs are done. Both calls may raise to stop; ``state`` may be taken in ``after_epoch``."""
        while len(self.log) < self.plan.epochs:
            self.log.append(self._epoch(after_step))
            after_epoch()

    def _epoch(self, after_step: Callable[[], None]) -> dict[str, float]:
        epoch, sums = len(self.log), dict[str, Tensor]()
        for number, rows in enumerate(self._batches(epoch)):
            for name, value in self._step(rows, epoch, number).items():
                sums[name] = sums.get(name, value.new_zeros(())) + value.detach() * len(rows)
            after_step()
        means = {name: float(value) / self.n for name, value in sums.items()}
        if not all(math.isfinite(value) for value in means.values()):
            raise DataError(
                f"part discovery diverged in epoch {epoch + 1} (losses {means})", hint="Lower lr or the weights."
            )
        return means

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        order = torch.randperm(self.n, generator=seeded(self.seed, epoch))
        return iter(model.chunks(order, self.plan.batch))

    def _step(self, rows: Tensor, epoch: int, number: int) -> dict[str, Tensor]:
        done = epoch * self.steps_an_epoch + number
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * cosine(done, self.steps)
        generator = seeded(self.seed, epoch, number)
        losses = self.losses(self._batch(rows, generator), generator)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses["total"])
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        self.optimiser.step()
        return losses

    def _batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        pixels = self.material.pixels(rows).to(self.device)
        if self.plan.augment == "light":
            pixels = lightly_changed(pixels, generator, flip=self.material.flippable)
        normalised = self.first.normalise(pixels)
        kept = self.material.tokens
        if kept is not None and self.plan.augment == "none" and not self.plan.train_tokens:
            tokens = kept(rows).to(self.device)
        else:
            tokens = self._first_stage(normalised)
        labels = (self.material.targets, self.material.valid.bool(), self.material.classes)
        return Batch(normalised, tokens, *(x[rows].to(self.device) for x in labels))

    def _first_stage(self, normalised: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.plan.train_tokens):
            return model.patch_tokens(self.first, normalised)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """All loss terms of a batch, and ``total``. Draws noise, dropout and movement, in this order."""
        plan, parts = self.plan, len(self.head.prototypes)
        noise = gumbel((len(batch.tokens), parts, batch.tokens.shape[1]), generator, self.device)
        kept = torch.rand(len(batch.tokens), parts - 1, generator=generator) >= plan.part_dropout
        kept = kept.to(self.device)
        maps = part_maps(batch.tokens, self.head.prototypes, plan.tau, noise)
        losses = self._supervised(batch, maps, kept)
        losses |= shaping_terms(as_planes(maps), plan)
        if plan.weights.orth:
            losses["orth"] = shaping.orthogonality(part_vectors(batch.tokens, maps))
        if plan.weights.equiv:
            losses["equiv"] = self._equivariance(batch, generator)
        weights = plan.weights.model_dump() | {"attributes": 1.0, "class": plan.class_weight}
        losses["total"] = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return losses

    def _supervised(self, batch: Batch, maps: Tensor, kept: Tensor) -> dict[str, Tensor]:
        shares, told = model.kept_shares(self.head.shares(self.temperature), kept)
        valid = batch.valid & told
        if self.second is None:
            vectors = self.head.single_vectors(batch.tokens, maps)
            of_class, class_kept = vectors, kept
        else:
            vectors, of_class = self._second_vectors(batch, maps, kept, shares, valid)
            class_kept = kept.new_ones(of_class.shape[:2])
        logits = self.head.attribute_logits(vectors, shares)
        losses = {"attributes": bce_attributes(logits, batch.targets, valid, self.positive)}
        if self.plan.class_weight:
            told_class = self.head.class_logits(of_class, class_kept)
            losses["class"] = nn.functional.cross_entropy(told_class, batch.classes)
        return losses

    def _second_vectors(
        self, batch: Batch, maps: Tensor, kept: Tensor, shares: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stage-2 vectors [B, K, D] of the slots and [B, 1, D] of the foreground; only slots that the loss asks for are run."""
        assert self.second is not None
        foreground = bool(self.plan.class_weight)
        gates = model.slot_and_foreground_gates(maps, kept, self.plan.part_dropout, foreground=foreground)
        asked = ((shares.detach() * valid[..., None]).amax(1) > 1e-3) & kept
        if foreground:
            asked = torch.cat([asked, asked.new_ones(len(asked), 1)], 1)
        pictures, slots = asked.nonzero(as_tuple=True)
        found = model.second_stage(
            self.second, batch.normalised, gates[pictures, slots], pictures, self.head.plan.second_pool
        )
        vectors = found.new_zeros((*asked.shape, found.shape[1]))
        vectors = vectors.index_put((pictures, slots), self.head.modulation(found))
        k = maps.shape[1] - 1
        return vectors[:, :k], vectors[:, k:]

    def _equivariance(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Of noise-free maps: with noise the two could not agree."""
        drawn = shaping.random_affine(len(batch.tokens), generator)
        affine = shaping.Affine(*(x.to(self.device) for x in drawn))
        moved = self._first_stage(shaping.warp(batch.normalised, affine))
        first, second = (
            as_planes(part_maps(tokens, self.head.prototypes, self.plan.tau)) for tokens in (batch.tokens, moved)
        )
        return shaping.equivariance(first, second, affine)

    def _start_bias(self) -> None:
        """Biases start at the log-odds of the attributes, so that slots need not learn base rates."""
        if self.plan.balance:
            return
        valid = self.material.valid.double()
        rate = ((self.material.targets * valid).sum(0) + 1) / (valid.sum(0) + 2)
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(rate).float())

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups: rates by kind, decay on matrices only."""
        rates, decay = learning_rates(self.plan.lr, self.plan.batch), weight_decay(self.steps)
        kinds: dict[str, list[nn.Parameter]] = {name: [] for name in FACTORS}
        for name, parameter in self.head.named_parameters():
            kind = name.split(".")[0]
            kinds[kind if kind in FACTORS else "heads"].append(parameter)
        if self.second is not None and self.plan.train_stage2:
            kinds["backbone"] += model.network_of(self.second).parameters()
        if self.plan.train_tokens:
            embeddings = list(model.token_parameters(self.first).values())
            for embedding in embeddings:
                embedding.requires_grad_(True)
            kinds["backbone"] += embeddings
        groups = []
        for kind, parameters in kinds.items():
            decays = [p.ndim >= 2 and kind != "modulation" for p in parameters]
            for rule in (decay, 0.0):
                chosen = [p for p, does in zip(parameters, decays, strict=True) if does == (rule > 0)]
                if chosen:
                    groups.append({"params": chosen, "lr": rates[kind], "weight_decay": rule})
        return groups

    def on(self, pixels: Callable[[Tensor], Tensor], tokens: Callable[[Tensor], Tensor] | None) -> Trainer:
        """The same trained parts over other pictures, to look at them; not to be trained further."""
        other = copy.copy(self)
        other.material = self.material._replace(pixels=pixels, tokens=tokens)
        return other

    def state(self) -> dict[str, Any]:
        """Everything that the next epochs hang on, for ``torch.save``."""
        trained = {"head": self.head.state_dict(), "optimiser": self.optimiser.state_dict(), "log": self.log}
        if self.second is not None and self.plan.train_stage2:
            trained["second"] = model.network_of(self.second).state_dict()
        if self.plan.train_tokens:
            trained["tokens"] = {n: p.detach() for n, p in model.token_parameters(self.first).items()}
        return trained

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state`` of a trainer that was made alike."""
        self.head.load_state_dict(state["head"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.log = [dict(row) for row in state["log"]]
        if self.second is not None and "second" in state:
            model.network_of(self.second).load_state_dict(state["second"])
        if "tokens" in state:
            with torch.no_grad():
                for name, parameter in model.token_parameters(self.first).items():
                    parameter.copy_(state["tokens"][name])


def as_planes(maps: Tensor) -> Tensor:
    """Maps [B, K + 1, N] as planes [B, K + 1, h, w] of a square grid."""
    side = math.isqrt(maps.shape[2])
    return maps.view(*maps.shape[:2], side, side)


def shaping_terms(maps: Tensor, plan: TrainPlan) -> dict[str, Tensor]:
    """The terms on the maps alone [B, K + 1, h, w] whose weight is not 0."""
    terms: dict[str, Callable[[], Tensor]] = {
        "tv": lambda: shaping.total_variation(maps),
        "presence": lambda: shaping.presence(maps, plan.presence_kind),
        "background": lambda: shaping.background_presence(maps, plan.background_kind),
        "entropy": lambda: shaping.entropy(maps),
        "conc": lambda: shaping.concentration(maps),
    }
    weights = plan.weights.model_dump()
    return {name: term() for name, term in terms.items() if weights[name]}


def lightly_changed(pixels: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Pictures [B, 3, H, W] in 0..1 with brightness and contrast scaled by up to 20 %, and mirrored by chance where ``flip``."""
    draw = torch.rand(len(pixels), 3, generator=generator).to(pixels.device)[..., None, None]
    mean = pixels.mean((1, 2, 3), keepdim=True)
    contrast, brightness = (1 + JITTER * (2 * draw[:, i : i + 1] - 1) for i in (0, 1))
    changed = (((pixels - mean) * contrast + mean) * brightness).clamp(0, 1)
    if not flip:
        return changed
    return torch.where(draw[:, 2:] < 0.5, changed.flip(3), changed)
