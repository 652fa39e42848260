"""The teacher: a frozen model whose hidden states and next-token distributions the student is drawn to."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ModelRefused
from runner.models.base import VisionLanguageModel
from runner.models.lvlm.anatomy import Anatomy, anatomy
from runner.models.lvlm.loading import LoadedLvlm
from runner.nodes.finetuning.examples import Inputs, Kept, Live
from runner.nodes.finetuning.losses import coarse_teacher
from runner.nodes.finetuning.objective import Taught, kd_mask, logits_of, recorded, rows_at_once
from runner.nodes.finetuning.specs import LAST, HiddenLoss, Loss

BATCH, FILE = 8, 256
"""Records the teacher sees together, and records in a file, when its outputs are kept."""


@dataclass(frozen=True)
class Pairing:
    """Blocks of the student and the teacher's blocks they are compared with; LAST on both sides is the state after the final norm."""

    student: list[int]
    teacher: list[int]


@dataclass(frozen=True)
class Sight:
    """What the teacher is shown: ``own`` pictures through its own projector (``features`` gives those its tower makes, None where the
    student's serve), or the student's embeddings."""

    inputs: str
    features: Callable[[Sequence[int]], Tensor | None] | None = None


class Teacher:
    """Gives ``Taught`` for batches. All of it without gradient."""

    def __init__(self, loaded: LoadedLvlm, parts: Anatomy, loss: Loss, pairing: Pairing, sight: Sight) -> None:
        self.loaded, self.parts, self.loss, self.pairing, self.sight = loaded, parts, loss, pairing, sight
        self.kept: Outputs | None = None
        loaded.network.requires_grad_(False).eval()

    def __call__(self, batch: Inputs, embedded: Mapping[str, Any] | None = None) -> Taught:
        """``embedded``: what the student's decoder was called with, where the teacher is shown that."""
        if self.kept is not None:
            return self._taught(*self.kept.read(batch.rows, batch.labels.device))
        return self._taught(*self.states(batch, embedded))

    @torch.no_grad()
    def states(self, batch: Inputs, embedded: Mapping[str, Any] | None = None) -> tuple[Tensor, list[Tensor]]:
        """At the positions where the teacher counts: the last state (N, D) and those of the paired layers [(N, D)]."""
        where = kd_mask(batch, self.loss.kd_mask)
        with recorded(self.parts, self.pairing.teacher) as found:
            if self.sight.inputs == "student":
                assert embedded is not None
                last = self.parts.decoder(**_detached(embedded), use_cache=False, return_dict=True).last_hidden_state
            else:
                last = self._forward(batch)
        layers = [last if n == LAST else found[n] for n in self.pairing.teacher]
        return last[where], [state[where] for state in layers]

    def _forward(self, batch: Inputs) -> Tensor:
        from runner.nodes.finetuning.objective import arguments

        if batch.features is not None and self.sight.features is not None:
            own = self.sight.features(batch.rows)
            batch = dataclasses.replace(batch, features=own if own is None else own.to(batch.features))
        network = self.loaded.network
        found: Tensor = network.base_model(
            **arguments(self.parts, batch), use_cache=False, return_dict=True
        ).last_hidden_state
        return found

    @torch.no_grad()
    def _taught(self, last: Tensor, layers: Sequence[Tensor]) -> Taught:
        logits = self.loss.logits
        if logits is None or not logits.weight:
            return Taught(None, layers, None)
        if logits.top_k is None:
            return Taught(last, layers, self.head)
        k, rows = logits.top_k, rows_at_once(self.parts)
        pieces = [
            coarse_teacher(self.head(some), k, logits.temperature)
            for some in _cut(last, [rows] * (len(last) // rows) + [len(last) % rows])
        ]
        index, log_p = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return Taught(None, layers, None, index, log_p)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) of hidden states (N, D)."""
        return logits_of(self.parts.lm_head, self.parts.config, hidden)


def _detached(embedded: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in embedded.items() if k not in ("use_cache", "return_dict", "past_key_values")}
    return {k: v.detach() if isinstance(v, Tensor) else v for k, v in kept.items()}


# --- which belongs to which ------------------------------------------------------------------------------------------


def kept_layers(folder: Path, layers: int) -> list[int] | None:
    """Original indices of a folder's blocks, by its manifest or record of pruning; None where it has none."""
    from runner.models.lvlm.pruned import kept_plan

    plan = kept_plan(folder)
    found = [] if plan is None else list(plan.layers)
    return found if len(found) == layers else None


def pair_layers(
    spec: HiddenLoss | None, student: Sequence[int] | None, teacher: Sequence[int] | None, counts: tuple[int, int]
) -> Pairing:
    """Blocks to compare. ``student``, ``teacher``: original indices of their blocks, None where nothing says; ``counts``: how many each
    has. A student's block is compared with the block it was in the original, never with the one of the same number.
    Raises ``ModelRefused``: a block the student lacks, no telling which was which, a block the teacher lost."""
    if spec is None or not spec.weight:
        return Pairing([], [])
    mine, theirs = counts
    wanted = [LAST] if spec.layers == "last" else list(range(mine)) if spec.layers == "kept" else list(spec.layers)
    if beyond := [n for n in wanted if n >= mine]:
        raise ModelRefused(
            f"loss.hidden.layers: block {beyond[0]} is beyond the student's {mine} blocks (0 to {mine - 1})"
        )
    if wanted == [LAST]:
        return Pairing([LAST], [LAST])
    origin = spec.teacher_layers or student or (range(mine) if mine == theirs else None)
    if origin is None or len(origin) != mine:
        raise ModelRefused(
            f"the student has {mine} blocks and the teacher {theirs}, and nothing says which were kept",
            hint="Cut with format: manifest or uniform, give loss.hidden.teacher_layers, or take loss.hidden.layers: last.",
        )
    places = {original: place for place, original in enumerate(teacher or range(theirs))}
    lost = [origin[n] for n in wanted if n != LAST and origin[n] not in places]
    if lost:
        raise ModelRefused(f"the teacher has no block {lost[0]} (original index) to compare with")
    return Pairing(wanted, [LAST if n == LAST else places[origin[n]] for n in wanted])


def check_pair(
    student: LoadedLvlm, teacher: LoadedLvlm, mine: Anatomy, theirs: Anatomy, loss: Loss, inputs: str
) -> None:
    """Refuse a teacher whose tokens, words or widths are not the student's. Raises ``ModelRefused``."""
    if (
        student.tokenizer is not None
        and teacher.tokenizer is not None
        and student.tokenizer.get_vocab() != teacher.tokenizer.get_vocab()
    ):
        raise ModelRefused(
            f"{teacher.name} and {student.name} have different vocabularies: positions and words do not correspond"
        )
    words = [int(parts.lm_head.weight.shape[0]) for parts in (mine, theirs)]
    if loss.logits_weight and words[0] != words[1]:
        raise ModelRefused(
            f"the student has logits of {words[0]} words, the teacher of {words[1]}: they cannot be compared"
        )
    widths = [int(parts.config.hidden_size) for parts in (mine, theirs)]
    if (loss.hidden_weight or inputs == "student") and widths[0] != widths[1]:
        raise ModelRefused(
            f"hidden states of width {widths[0]} and {widths[1]} cannot be compared",
            hint="Take loss.logits and teacher_inputs: own.",
        )


def same_sight(student: LoadedLvlm, teacher: LoadedLvlm) -> bool:
    """Whether both towers hand the same features to their projectors: same weights, same choice of layer."""
    one, two = anatomy(student.network).vision, anatomy(teacher.network).vision
    configs = [m.network.config for m in (student, teacher)]
    chosen = [
        (getattr(c, "vision_feature_layer", None), getattr(c, "vision_feature_select_strategy", None)) for c in configs
    ]
    return chosen[0] == chosen[1] and _same_weights(one, two)


def _same_weights(one: nn.Module | None, two: nn.Module | None) -> bool:
    if one is None or two is None:
        return one is two
    mine, theirs = one.state_dict(), two.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())


def make_teacher(
    handle: VisionLanguageModel,
    loaded: LoadedLvlm,
    student: VisionLanguageModel,
    learner_loaded: LoadedLvlm,
    loss: Loss,
    sight: Sight,
) -> Teacher:
    """A teacher whose layers are paired with the student's."""
    mine, theirs = anatomy(learner_loaded.network, student.decoder), anatomy(loaded.network, handle.decoder)
    check_pair(learner_loaded, loaded, mine, theirs, loss, sight.inputs)
    counts = len(mine.layers), len(theirs.layers)
    origins = [kept_layers(h.folder, n) for h, n in zip((student, handle), counts, strict=True)]
    return Teacher(loaded, theirs, loss, pair_layers(loss.hidden, origins[0], origins[1], counts), sight)


# --- outputs kept on disk --------------------------------------------------------------------------------------------


def bytes_of_outputs(feed: Kept, rows: Sequence[int], teacher: Teacher) -> int:
    """An upper bound of what the outputs for these rows take."""
    width = int(teacher.parts.config.hidden_size) * teacher.loaded.dtype.itemsize
    return int(feed.lengths[list(rows)].sum()) * width * (1 + len(teacher.pairing.teacher))


class Outputs:
    """The teacher's states at the positions where it counts, computed once a record in batches that never change.

    The last state stands for the logits: the head turns it into all of them again, so nothing is lost.
    """

    def __init__(self, folder: Path, rows: Sequence[int]) -> None:
        self._folder = folder
        self._files: dict[int, Any] = {}
        ordered = sorted(set(rows))
        self._file_of = {row: place // FILE for place, row in enumerate(ordered)}
        self._chunks = [ordered[at : at + FILE] for at in range(0, len(ordered), FILE)]

    def fill(self, teacher: Teacher, feed: Kept, note: Callable[[int], None]) -> None:
        """Compute what is not there yet. ``note(n)`` is told of n finished records and may raise to stop."""
        from safetensors.torch import save_file

        self._folder.mkdir(parents=True, exist_ok=True)
        for number, rows in enumerate(self._chunks):
            path = self._path(number)
            if not path.is_file():
                content = dict(item for some in _pieces(rows) for item in _outputs(teacher, feed, some))
                part = path.with_suffix(".part")
                save_file(content, part)
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(path)
            note(len(rows))

    def read(self, rows: Sequence[int], device: Any) -> tuple[Tensor, list[Tensor]]:
        """As ``Teacher.states`` gives them for a batch of these rows."""
        each = [self._file(self._file_of[row]).get_tensor(str(row)) for row in rows]
        states = torch.cat(each, 1).to(device)
        return states[0], list(states[1:])

    def _file(self, number: int) -> Any:
        from safetensors import safe_open

        if number not in self._files:
            self._files[number] = safe_open(self._path(number), framework="pt")
        return self._files[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.safetensors"


def _pieces(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    return (rows[at : at + BATCH] for at in range(0, len(rows), BATCH))


def _outputs(teacher: Teacher, feed: Kept | Live, rows: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """States (1 + layers, n, D) of each record, by its row."""
    batch = feed.batch(rows)
    assert batch is not None
    batch = batch.to(teacher.loaded.device, teacher.loaded.dtype)
    last, layers = teacher.states(batch)
    counts = kd_mask(batch, teacher.loss.kd_mask).sum(1).tolist()
    for row, states in zip(rows, _cut(torch.stack([last, *layers]).cpu(), counts, 1), strict=True):
        yield str(row), states.contiguous()


def _cut(states: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    return list(torch.split(states, list(sizes), dim))
