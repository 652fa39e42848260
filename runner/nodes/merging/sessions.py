"""Ways to have merged models at hand, one after another or side by side: each gives the same logits, at another price.

| execution | what happens for a mixture | when ``auto`` takes it |
|---|---|---|
| batched_lora | K scalars a sample; many mixtures in one batch | linear merge of LoRA experts |
| resident | one pass over memory, experts held beside the network | they fit |
| stream | tensors read from disk into the live network, one at a time | they do not |
| checkpoint | a whole checkpoint is written, loaded and removed | never: for what must pass through a file |
| served_lora | an adapter is written and asked for by name at a server (``served``) | never: it needs the server |
"""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from runner.errors import ModelRefused
from runner.models.lvlm.anatomy import anatomy
from runner.nodes.merging.checkpoints import FLOATING, Checkpoint
from runner.nodes.merging.execution import BatchedMixtures, LowRank, ResidentDeltas
from runner.nodes.merging.experts import Expert, LoraExpert, Merger
from runner.nodes.merging.names import match
from runner.nodes.merging.stream import write_merged
from runner.nodes.merging.writing import linear_coefficients

if TYPE_CHECKING:
    from torch import nn

    from runner.models.base import VisionLanguageModel
    from runner.models.lvlm.loading import LoadedLvlm
    from runner.nodes.merging.specs import MergeSpec

ROOM = 0.7
"""Share of the free memory that resident experts may take."""


@dataclass(frozen=True)
class Mixture:
    """A merged model to be: weights in the order of the experts."""

    mixture_id: str
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Ready:
    """A network that is the mixtures of a session. ``assign(live, rows)``: the next batch is ``len(live)`` times the same ``rows``
    samples, mixture by mixture. ``vision``: the tower where no expert changes it."""

    loaded: LoadedLvlm
    assign: Callable[[Sequence[Mixture], int], None]
    vision: nn.Module | None


@dataclass(frozen=True)
class Costs:
    """Of one merge: as rows of ``dmo_merge`` tell it."""

    n_merged: int
    n_copied: int
    seconds: float
    bytes_written: int = 0
    sha256: str | None = None


class Merges(ABC):
    """One way of executing merges. ``costs``: of each mixture that was merged."""

    execution: str

    def __init__(self) -> None:
        self.costs: dict[str, Costs] = {}

    def groups(self, mixtures: Sequence[Mixture], at_once: int) -> list[list[Mixture]]:
        """Which mixtures are at hand together; ``at_once``: samples that a batch may hold."""
        return [[mixture] for mixture in mixtures]

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""


class Sessions(Merges):
    """Merges of ``experts`` on ``base`` in this process; the network is loaded when the first session opens."""

    def __init__(self, base: VisionLanguageModel, own: Checkpoint, experts: Sequence[Expert], spec: MergeSpec) -> None:
        super().__init__()
        self.base, self.own, self.experts, self.spec = base, own, list(experts), spec
        self.merger = Merger(own, experts, spec)

    @abstractmethod
    @contextmanager
    def session(self, mixtures: Sequence[Mixture]) -> Iterator[Ready]:
        """Have these mixtures at hand. Raises ``ModelRefused`` or ``DataError`` where they cannot be merged."""

    @cached_property
    def loaded(self) -> LoadedLvlm:
        """The base's network, this step's own; what is not merged in the merge's dtype, as a written merge has it."""
        loaded = self.base.load()
        if self.spec.rounds:
            self._round_rest(loaded.network)
        return loaded

    def _round_rest(self, network: nn.Module) -> None:
        state, dtype = network.state_dict(), getattr(torch, self.spec.dtype)
        found = match(state, self.own.entries).found
        merged = {state[found[name]].data_ptr() for name in self.merger.names if name in found}
        for name, entry in self.own.entries.items():
            if entry.dtype not in FLOATING or name in self.merger.names:
                continue
            if name not in found:
                raise ModelRefused(
                    f"{name} has no place in the loaded network to be {self.spec.dtype} there",
                    hint="take execution: checkpoint",
                )
            live = state[found[name]]
            if live.data_ptr() not in merged:
                live.copy_(self.own.tensor(name).to(dtype))

    @cached_property
    def places(self) -> dict[str, str]:
        """Tensor of the checkpoint that takes part -> parameter of the network. Raises ``ModelRefused`` where one has none."""
        own = dict(self.loaded.network.named_parameters()).keys()
        found = match(own, self.own.entries).found
        lost = [name for name in self.merger.names if name not in found]
        if lost:
            raise ModelRefused(
                f"{lost[0]} is merged, but has no place in the loaded network", hint="take execution: checkpoint"
            )
        return {name: found[name] for name in self.merger.names}

    @cached_property
    def vision(self) -> nn.Module | None:
        """The vision tower where no expert changes a part of it."""
        return self._unchanged_tower(self.loaded.network)

    def _unchanged_tower(self, network: nn.Module) -> nn.Module | None:
        parts = anatomy(network, self.base.decoder)
        found = match(dict(network.named_parameters()), self.own.entries).found
        inside = f"{parts.vision_path}."
        changed = parts.vision_path is not None and any(
            found.get(name, "").startswith(inside) for name in self.merger.names
        )
        tower: nn.Module | None = parts.vision
        return None if changed else tower

    def close(self) -> None:
        """Let go of the network."""
        if "loaded" in self.__dict__:
            self.loaded.close()

    def _cost(self, mixtures: Sequence[Mixture], start: float) -> None:
        """What was made together is shared by all of it; loading the network is no part of a merge."""
        count, seconds = len(self.merger.names), (time.perf_counter() - start) / len(mixtures)
        for mixture in mixtures:
            self.costs[mixture.mixture_id] = Costs(count, len(self.own.entries) - count, seconds)


def _alone(live: Sequence[Mixture], rows: int) -> None:
    """The network is that one mixture already."""


class BatchedSessions(Sessions):
    """Linear mixtures of LoRA experts, rows of one batch."""

    execution = "batched_lora"

    def groups(self, mixtures: Sequence[Mixture], at_once: int) -> list[list[Mixture]]:
        """As many as fit in a batch with one sample each."""
        return [list(mixtures[at : at + at_once]) for at in range(0, len(mixtures), at_once)]

    @contextmanager
    def session(self, mixtures: Sequence[Mixture]) -> Iterator[Ready]:
        """Swap the adapted modules; experts without weight in any of these mixtures are left out."""
        network, _, start = self.loaded.network, self.places, time.perf_counter()
        rows = [linear_coefficients(self.spec, mixture.weights) for mixture in mixtures]
        table = torch.tensor([row or [] for row in rows], dtype=torch.float32)
        if not bool(torch.isfinite(table).all()):
            raise ModelRefused("weights that are not finite in float32")
        used = [k for k in range(len(self.experts)) if bool((table[:, k] != 0).any())] or [0]
        row_of = {mixture.mixture_id: row for row, mixture in enumerate(mixtures)}
        with BatchedMixtures(network, [self._low(k) for k in used], [self._whole(k) for k in used]) as batched:
            self._cost(mixtures, start)

            def assign(live: Sequence[Mixture], count: int) -> None:
                chosen = table[[row_of[mixture.mixture_id] for mixture in live]][:, used]
                batched.assign(chosen.repeat_interleave(count, dim=0), copies=len(live))

            yield Ready(self.loaded, assign, self.vision)

    def _low(self, k: int) -> dict[str, LowRank]:
        expert = self._lora(k)
        return {p.removesuffix(".weight"): expert.low[name] for name, p in self.places.items() if name in expert.low}

    def _whole(self, k: int) -> dict[str, torch.Tensor]:
        expert = self._lora(k)
        return {p: expert.whole[name] for name, p in self.places.items() if name in expert.whole}

    def _lora(self, k: int) -> LoraExpert:
        expert = self.experts[k]
        if not isinstance(expert, LoraExpert):
            raise ModelRefused(
                f"expert {expert.name} is a whole checkpoint; batched_lora wants LoRA folders",
                hint="take execution: auto",
            )
        return expert


class ResidentSessions(Sessions):
    """Experts held in memory; the live parameters are written anew for each mixture."""

    execution = "resident"

    @cached_property
    def resident(self) -> ResidentDeltas:
        """Base and experts in flat buffers: (K + 2) times the merged parameters."""
        states: list[dict[str, torch.Tensor]] = [{} for _ in self.experts]
        for name, place in self.places.items():
            base = self.own.tensor(name)
            for state, expert in zip(states, self.experts, strict=True):
                if expert.touches(name):
                    state[place] = expert.weight(name, base)
        return ResidentDeltas(self.loaded.network, states)

    @contextmanager
    def session(self, mixtures: Sequence[Mixture]) -> Iterator[Ready]:
        """One fused pass where the merge is linear in the network's own dtype, else the method tensor by tensor."""
        (mixture,) = mixtures
        resident, start = self.resident, time.perf_counter()
        coefficients = linear_coefficients(self.spec, mixture.weights)
        if coefficients is not None and not self.spec.rounds:
            resident.set(coefficients)
        else:
            self._merge(resident, mixture)
        self._cost(mixtures, start)
        if not resident.is_finite():
            raise ModelRefused("the merge holds values that are not finite")
        yield Ready(self.loaded, _alone, self.vision)

    def _merge(self, resident: ResidentDeltas, mixture: Mixture) -> None:
        names = {place: name for name, place in self.places.items()}
        for place, live, base, experts in resident.tensors():
            live.copy_(self.merger.merged(names[place], base, experts, mixture.weights))


class StreamSessions(Sessions):
    """Tensors of base and experts read from disk into the live network."""

    execution = "stream"

    @contextmanager
    def session(self, mixtures: Sequence[Mixture]) -> Iterator[Ready]:
        """Memory for K + 2 tensors besides the network."""
        (mixture,) = mixtures
        parameters, places, start = dict(self.loaded.network.named_parameters()), self.places, time.perf_counter()
        with torch.no_grad():
            for name, place in places.items():
                base, live = self.own.tensor(name), parameters[place]
                # In the wider of the two, so that only the live dtype rounds, as in the other executions.
                wide = base.to(torch.promote_types(base.dtype, live.dtype))
                live.copy_(self.merger.tensor(name, wide, mixture.weights))
        self._cost(mixtures, start)
        yield Ready(self.loaded, _alone, self.vision)


class CheckpointSessions(Sessions):
    """A checkpoint on disk for each mixture, loaded like any other and removed afterwards."""

    execution = "checkpoint"
    scratch: Path = Path()

    @contextmanager
    def session(self, mixtures: Sequence[Mixture]) -> Iterator[Ready]:
        """Write, load, remove."""
        from runner.models.lvlm.loading import read

        (mixture,) = mixtures
        folder = self.scratch / "merged"
        shutil.rmtree(folder, ignore_errors=True)
        written = write_merged(self.merger, mixture.weights, folder)
        self.costs[mixture.mixture_id] = Costs(**vars(written))
        loaded = read(folder, dtype=self.base.dtype, device=self.base.device, name=self.base.name)
        try:
            yield Ready(loaded, _alone, self._unchanged_tower(loaded.network))
        finally:
            loaded.close()
            shutil.rmtree(folder, ignore_errors=True)


KINDS: dict[str, type[Sessions]] = {
    kind.execution: kind for kind in (BatchedSessions, ResidentSessions, StreamSessions, CheckpointSessions)
}


def open_sessions(
    execution: str,
    base: VisionLanguageModel,
    own: Checkpoint,
    experts: Sequence[Expert],
    spec: MergeSpec,
    scratch: Path,
) -> Sessions:
    """The asked execution, or the cheapest that can do it. Raises ``ModelRefused`` where the asked one cannot."""
    kind = KINDS[_automatic(base, own, experts, spec) if execution == "auto" else execution]
    if kind is BatchedSessions and spec.rounds:
        raise ModelRefused(
            f"batched_lora cannot keep merge.dtype {spec.dtype}: no merged tensor is made that could be rounded",
            hint="leave dtype out, or take execution: auto",
        )
    if kind is BatchedSessions and not _can_batch(experts, spec):
        raise ModelRefused(
            f"batched_lora is for linear merges of LoRA experts with one weight an expert; this is {spec.method}",
            hint="take execution: auto",
        )
    sessions = kind(base, own, experts, spec)
    if isinstance(sessions, CheckpointSessions):
        sessions.scratch = scratch
    return sessions


def _automatic(base: VisionLanguageModel, own: Checkpoint, experts: Sequence[Expert], spec: MergeSpec) -> str:
    if _can_batch(experts, spec) and all(isinstance(e, LoraExpert) and not e.whole_outside_projector for e in experts):
        return "batched_lora"
    wide = 4 if base.dtype == "float32" or any(isinstance(expert, LoraExpert) for expert in experts) else 2
    elements = sum(own.entries[name].numel for name in Merger(own, experts, spec).names)
    return "resident" if elements * wide * (len(experts) + 2) <= ROOM * _free_bytes(base.device) else "stream"


def _can_batch(experts: Sequence[Expert], spec: MergeSpec) -> bool:
    is_linear = linear_coefficients(spec, [1.0] * len(experts)) is not None
    return is_linear and not spec.rounds and all(isinstance(e, LoraExpert) for e in experts)


def _free_bytes(device: str) -> float:
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 8e9
