"""Mixtures asked of a server by the name of their adapter: the linear merge of LoRA experts is one adapter of the ranks' sum.

The server (vLLM, or one that speaks its protocol) holds the base; per mixture it is given a folder of peft, at run time through its
endpoints for adapters, or the user has started it with all of them. Replies come through the chat client, with its cache and retries.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.data.images import UnreadableImage
from runner.data.places import Place, read_pictures
from runner.errors import DataError, EndpointError, ModelRefused
from runner.models.base import ChatModel, ChatRequest, ImagePart, Message
from runner.models.chat.keys import content_sha256
from runner.models.lvlm.batches import places_of
from runner.models.pictures import picture_part
from runner.nodes.merging.lora import LoraAdapter, padded, read_adapter, write_adapter
from runner.nodes.merging.scoring import Evaluator, Row, UnusableData, chunks
from runner.nodes.merging.sessions import Costs, Merges, Mixture
from runner.nodes.merging.tasks import QuestionTask, Task
from runner.nodes.merging.writing import linear_coefficients, mixture_adapter

if TYPE_CHECKING:
    from runner.context import StepContext
    from runner.nodes.merging.specs import MergeSpec

LEAST_RANK = 8
"""The smallest highest rank that vLLM is started with."""
START = "vllm serve BASE --enable-lora --max-lora-rank {rank}"


@dataclass(frozen=True)
class Written:
    """An adapter on disk. ``name``: what the server calls it, told by its content; ``modules``: how many it adapts."""

    name: str
    folder: Path
    sha256: str
    rank: int
    modules: int
    size: int
    seconds: float


class ServedMerges(Merges):
    """Adapters of mixtures, written below ``folder`` and known to ``server`` while they are asked.

    ``load``: the server is told to load and forget each (one at a time); otherwise it must have them already, or ``groups`` says how
    to start it. ``tensors``: of the base's checkpoint. Raises ``ModelRefused`` where the merge is not linear or an expert carries
    whole tensors.
    """

    execution = "served_lora"

    def __init__(
        self, server: ChatModel, experts: Mapping[str, Path], spec: MergeSpec, folder: Path, *, load: bool, tensors: int,
        base_name: str,
    ) -> None:  # fmt: skip
        super().__init__()
        if linear_coefficients(spec, [1.0] * len(experts)) is None:
            raise ModelRefused(
                f"served_lora is for linear merges with one weight an expert; this is {spec.method}",
                hint="take execution: auto",
            )
        if spec.rounds:
            raise ModelRefused(
                f"served_lora cannot keep merge.dtype {spec.dtype}: the server computes in a dtype of its own",
                hint="leave dtype out, or take execution: auto",
            )
        self.server, self.paths, self.spec, self.folder = server, dict(experts), spec, folder
        self.load, self.tensors, self.base_name = load, tensors, base_name
        self._written: dict[str, Written] = {}
        self._loop = asyncio.Runner()
        _need_factors(self.adapters)

    @cached_property
    def adapters(self) -> dict[str, LoraAdapter]:
        """The experts' factors."""
        whole = [name for name, path in self.paths.items() if not (path / "adapter_config.json").is_file()]
        if whole:
            raise ModelRefused(
                f"expert {whole[0]} is a whole checkpoint; served_lora wants LoRA folders",
                hint="take execution: auto",
            )
        return {name: read_adapter(path) for name, path in self.paths.items()}

    def wait(self, coroutine: Any) -> Any:
        """The result of a coroutine, on the loop that keeps the connections."""
        return self._loop.run(coroutine)

    def groups(self, mixtures: Sequence[Mixture], at_once: int) -> list[list[Mixture]]:
        """One at a time. Without ``load`` all are written now; raises ``ModelRefused`` where the server lacks one."""
        if not self.load and mixtures:
            written = [self.written(mixture) for mixture in mixtures]
            known = set(self.wait(self.server.served_models()))
            lacking = [one for one in written if one.name not in known]
            if lacking:
                raise ModelRefused(
                    f"the server of {self.server.name} lacks {len(lacking)} of {len(written)} adapters, now written below "
                    f"{self.folder}", hint=_how_to_start(written),
                )  # fmt: skip
        return super().groups(mixtures, at_once)

    def written(self, mixture: Mixture) -> Written:
        """Its adapter on disk. Raises ``ModelRefused`` where the merge is none."""
        if mixture.mixture_id not in self._written:
            self._written[mixture.mixture_id] = self._write(mixture)
        return self._written[mixture.mixture_id]

    def _write(self, mixture: Mixture) -> Written:
        start, adapter = time.perf_counter(), self._adapter(mixture)
        part = self.folder / "part"
        shutil.rmtree(part, ignore_errors=True)
        write_adapter(adapter, part, self.base_name)
        sha256 = content_sha256(part)
        folder = self.folder / f"mixture-{sha256[:16]}"
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        rank = max(len(a) for a, _ in adapter.factors.values())
        size = sum(file.stat().st_size for file in folder.iterdir())
        return Written(
            folder.name, folder.resolve(), sha256, rank, len(adapter.factors), size, time.perf_counter() - start
        )

    def _adapter(self, mixture: Mixture) -> LoraAdapter:
        """At one rank everywhere; experts without weight take no room."""
        weights = dict(zip(self.paths, mixture.weights, strict=True))
        used = [name for name, weight in weights.items() if weight != 0] or [next(iter(weights))]
        adapter = mixture_adapter(
            {name: self.paths[name] for name in used}, [weights[name] for name in used], self.spec,
            {name: self.adapters[name] for name in used},
        )  # fmt: skip
        if adapter is None or not adapter.factors:
            raise ModelRefused(
                f"a merge by {self.spec.method} of these experts is no adapter", hint="take execution: auto"
            )
        return padded(adapter)

    @contextmanager
    def asked(self, mixture: Mixture) -> Iterator[ChatModel]:
        """The mixture as a model to ask. Raises ``EndpointError`` of scope ``run`` where the server does not take the adapter."""
        written, start = self.written(mixture), time.perf_counter()
        if self.load:
            self._load(written)
        seconds = written.seconds + time.perf_counter() - start
        self.costs[mixture.mixture_id] = Costs(
            written.modules, self.tensors - written.modules, seconds, written.size, written.sha256
        )
        try:
            yield self.server.with_adapter(written.name, written.sha256)
        finally:
            if self.load:
                self._forget(mixture, written)

    def _load(self, written: Written) -> None:
        try:
            # A run that was killed may have left it there; equal names mean equal content.
            if written.name not in self.wait(self.server.served_models()):
                self.wait(self.server.load_adapter(written.name, written.folder))
        except EndpointError as error:
            start = f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True {START.format(rank=_room(written.rank))}"
            raise EndpointError(
                f"the server did not load the adapter {written.folder}: {error.message}", scope="run", status=error.status,
                hint=f"it must see that folder and be started like this: {start}; or set load: false",
            ) from error  # fmt: skip

    def _forget(self, mixture: Mixture, written: Written) -> None:
        del self._written[mixture.mixture_id]
        try:
            self.wait(self.server.unload_adapter(written.name))
        except EndpointError:
            # It was asked all it should be: one adapter too many on the server is no reason to lose that.
            return
        shutil.rmtree(written.folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of the connections and of the loop that kept them."""
        try:
            self.wait(self.server.disconnect())
        finally:
            self._loop.close()


def _need_factors(adapters: Mapping[str, LoraAdapter]) -> None:
    for name, adapter in adapters.items():
        if adapter.full:
            raise ModelRefused(
                f"expert {name} carries whole tensors, such as {next(iter(adapter.full))}: a server applies low-rank factors only",
                hint="take execution: auto, or train experts with LoRA alone",
            )


def _room(rank: int) -> int:
    room = LEAST_RANK
    while room < rank:
        room *= 2
    return room


def _how_to_start(written: Sequence[Written]) -> str:
    modules = " ".join(f"{one.name}={one.folder}" for one in written)
    start = START.format(rank=_room(max(one.rank for one in written)))
    return f"start it like this and run again: {start} --lora-modules {modules}"


class ServedEvaluator(Evaluator):
    """Scores mixtures by their replies from a server; ``batch_size``: questions handed to the client at once.

    Raises ``DataError`` for a loss: a server tells its own replies, not the likelihood of given ones.
    """

    def __init__(
        self, ctx: StepContext, merges: ServedMerges, tasks: Sequence[Task], about: Mapping[str, Any], batch_size: int
    ) -> None:
        losses = [task.name for task in tasks if not isinstance(task, QuestionTask)]
        if losses:
            raise DataError(
                f"{losses[0]}: a loss cannot be asked of a server, which gives replies and not the likelihood of given ones",
                hint="give items without data, or take execution: auto",
            )
        super().__init__(ctx, merges, tasks, {**about, "server": merges.server.name}, batch_size)
        self.merges = merges
        self._checked = False

    def _run_group(self, group: Sequence[Mixture], rows: Mapping[str, Sequence[Row]]) -> None:
        (mixture,) = group
        try:
            self._check_pictures()
            with self.merges.asked(mixture) as model:
                self._keep_costs(group)
                for task in self.tasks:
                    assert isinstance(task, QuestionTask)
                    for chunk in chunks(rows[task.name], self.batch_size):
                        self.ctx.check()
                        self._ask_chunk(
                            model, mixture, task, [row for row in chunk if self._wants(mixture, task, [row])]
                        )
        except EndpointError as error:
            # Of scope run: no further mixture would fare better.
            raise UnusableData(error) from error

    def _check_pictures(self) -> None:
        most = max((len(row["uris"]) for task in self.tasks for row in task.rows), default=0)
        if most and not self._checked:
            try:
                self.merges.wait(self.merges.server.check_images(most, self.ctx))
            except ModelRefused as error:
                raise UnusableData(error) from error
        self._checked = True

    def _ask_chunk(self, model: ChatModel, mixture: Mixture, task: QuestionTask, rows: Sequence[Row]) -> None:
        start = time.perf_counter()
        try:
            parts = self._parts(task, rows)
        except DataError as error:
            raise UnusableData(error) from error
        readable = [row for row in rows if not self._is_unusable(task, row)]
        if not readable:
            return
        requests = [self._request(task, row, parts) for row in readable]
        replies = self.merges.wait(_all(model, requests, self.ctx))
        seconds = (time.perf_counter() - start) / len(readable)
        told = [(row, reply) for row, reply in zip(readable, replies, strict=True) if isinstance(reply, str)]
        for row, reply in zip(readable, replies, strict=True):
            if not isinstance(reply, str):
                self.ctx.failed(f"{mixture.mixture_id}/{task.name}/{task.item_id(row)}", reply.message)
        if told:
            self._keep(mixture, task, [row for row, _ in told], [reply for _, reply in told], seconds)

    def _request(self, task: QuestionTask, row: Row, parts: Mapping[Place, ImagePart]) -> ChatRequest:
        """Pictures, then the question, as ``evaluate.vqa`` asks a chat model."""
        content: tuple[str | ImagePart, ...] = (*(parts[place] for place in places_of(row)), task.text(row))
        item = " ".join(f"{task.name}/{task.item_id(row)}".split())[:120]
        return ChatRequest(
            (Message("user", content),), "dmo.score", item=item, max_tokens=task.max_new_tokens, seed=self.ctx.seed, max_repairs=0,
            allow_cut=True, allow_empty=True,
        )  # fmt: skip

    def _parts(self, task: QuestionTask, rows: Sequence[Row]) -> dict[Place, ImagePart]:
        """Pictures of the rows; rows that lack one are marked unusable. Encoded ones are kept for the mixtures that come after."""
        from runner.data.sources import open_sources

        wanted = {place for row in rows for place in places_of(row)}
        found = {place: kept for place in wanted if (kept := self._pictures.get(place)) is not None}
        lost = {}
        for place, data in read_pictures(open_sources(task.corpus), wanted - found.keys()):
            try:
                part = picture_part(data, transport="png")
            except UnreadableImage as error:
                lost[place] = f"its picture {place.uri} cannot be read: {error.message}"
            else:
                found[place] = (part.data, part.media_type)
                self._pictures.put(place, found[place])
        for row in rows:
            missing = next((place for place in places_of(row) if place not in found), None)
            if missing is not None:
                self._unusable(task, task.item_id(row), lost.get(missing, f"its picture {missing.uri} is not there"))
        return {place: ImagePart(*kept) for place, kept in found.items()}


async def _all(model: ChatModel, requests: Sequence[ChatRequest], ctx: StepContext) -> list[str | EndpointError]:
    """Replies in order; what only one question suffers stands in its place. The first graver error ends all."""
    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_one(model, request, ctx)) for request in requests]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in asked]


async def _one(model: ChatModel, request: ChatRequest, ctx: StepContext) -> str | EndpointError:
    try:
        return (await model.complete(request, ctx)).text.strip()
    except EndpointError as error:
        if error.scope == "run":
            raise
        return error
