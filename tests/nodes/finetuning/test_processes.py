"""Trainings shared by two processes: the same numbers as in one, whatever stops them; one that dies is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from runner.artifacts import Conversations, FinetunedLvlm
from runner.context import StepContext, local_context
from runner.errors import Interrupted, StepError
from runner.models.lvlm.loading import Lvlm, read
from runner.nodes.finetuning.group import Group, Processes
from runner.nodes.finetuning.running import Job, chosen_rows, train
from runner.nodes.finetuning.specs import Lora, Loss, Optim, Recipe
from runner.nodes.finetuning.steps import finetune
from runner.nodes.finetuning.workers import check_devices

# Parts of 5 records in two processes are 3 and 2, with answers of 1 to 12 tokens: a mean of means would be another number.
OPTIM = Optim(lr=3e-3, projector_lr=1e-3, steps=4, batch_size=10, accumulation=2, precision="fp32", weight_decay=0.1)
TWO = OPTIM.model_copy(update={"processes": 2})


def tuned(ctx: StepContext, model: Lvlm, data: Conversations, **given: Any) -> FinetunedLvlm:
    settings: dict[str, Any] = {"train": "lora", "label": "x", "lora": Lora(r=2, alpha=4)} | given
    return finetune(ctx, model=model, data=data, **settings)


def numbers(found: FinetunedLvlm, name: str) -> list[float]:
    return [row[name] for row in found.log.to_pylist()]


def weights(folder: Path, adapter: Path | None = None) -> dict[str, torch.Tensor]:
    network = read(folder, adapter=adapter, dtype="float32").network
    return dict(network.state_dict())


def assert_same(one: FinetunedLvlm, two: FinetunedLvlm, folder: Path) -> None:
    for name in ("loss", "ce", "grad_norm", "tokens", "lr"):
        assert numbers(one, name) == pytest.approx(numbers(two, name), rel=1e-5)
    first, second = (weights(f.checkpoint) for f in (one, two))
    moved = 0
    for name, value in first.items():
        # Adam divides a gradient by its own size: one that is nothing but rounding moves a whole step either way.
        close = torch.isclose(value, second[name], rtol=1e-5, atol=1e-5)
        assert (~close).float().mean() < 5e-4
        assert (value - second[name]).abs().max() < 2e-3
        moved += not torch.equal(value, weights(folder)[name]) if name.endswith("q_proj.weight") else 0
    assert moved


class When:
    """Calls ``act`` once, as soon as a training has saved its first step."""

    def __init__(self, scratch: Path, act: Callable[[], None]) -> None:
        self.state, self.act, self.acted = scratch / "training.pt", act, False

    def check(self) -> None:
        if self.state.is_file() and not self.acted:
            self.acted = True
            self.act()


def stopping() -> None:
    raise Interrupted("stopped")


def children() -> list[int]:
    """Processes of trainings that this one has started."""
    lists = [(task / "children").read_text().split() for task in Path(f"/proc/{os.getpid()}/task").iterdir()]
    found = [int(pid) for some in lists for pid in some]
    return [pid for pid in found if b"finetuning.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def shared(ctxs: list[StepContext], job: Job) -> list[int | None]:
    """Exit codes of processes that share the training: 0, or 130 where they stopped. What they import is imported once for all."""
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(["runner.nodes.finetuning.running", "peft", "transformers.models.llava.modeling_llava"])
    rendezvous = ctxs[0].scratch / f"rendezvous-{len(list(ctxs[0].scratch.iterdir()))}"
    processes = [
        fork.Process(target=take_part, args=(ctx, job, n, len(ctxs), rendezvous)) for n, ctx in enumerate(ctxs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def take_part(ctx: StepContext, job: Job, rank: int, size: int, rendezvous: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    try:
        train(ctx, job, Processes("cpu"), job.teacher)
    except Interrupted:
        sys.exit(130)


class After:
    """Asks to stop when it has been asked ``count`` times."""

    def __init__(self, count: int) -> None:
        self.left = count

    def check(self) -> None:
        self.left -= 1
        if not self.left:
            stopping()


@pytest.mark.parametrize("mode", [pytest.param("lora", marks=pytest.mark.large), "full"])
def test_two_processes_end_where_one_does_also_when_stopped_between(
    mode: Literal["lora", "full"], tiny: Lvlm, squares: Conversations, tmp_path: Path
) -> None:
    loss = Loss.model_validate({"ce": 0.5, "hidden": {}, "logits": {"top_k": 8}}) if mode == "lora" else Loss()
    teacher = tiny if mode == "lora" else None
    given: dict[str, Any] = {"train": mode, "loss": loss, "teacher": teacher, "merge": True}
    given["optim"] = optim = OPTIM if teacher else OPTIM.model_copy(update={"lr": 1e-4})
    one = tuned(local_context(tmp_path / "one"), tiny, squares, **given)
    ctxs = [local_context(tmp_path / "two"), local_context(tmp_path / "other")]
    recipe = Recipe(train=mode, optim=optim, loss=loss, lora=Lora(r=2, alpha=4))
    job = Job(tiny, squares, chosen_rows(squares, 1.0, 0), recipe, 0, ctxs[0].scratch, teacher=teacher)
    ctxs[1].stop = After(5 if teacher else 3)  # within the training; the other process has not been asked
    assert shared(ctxs, job) == [130, 130]
    state = torch.load(ctxs[0].scratch / "training.pt", weights_only=True)
    assert 0 < state["done"] < OPTIM.steps
    ctxs[1].stop = local_context(tmp_path / "other").stop
    assert shared(ctxs, job) == [0, 0]
    two = tuned(ctxs[0], tiny, squares, **given)  # only writes: all steps are done
    assert_same(one, two, tiny.folder)
    if teacher:
        assert numbers(one, "kd_hidden") == pytest.approx(numbers(two, "kd_hidden"), rel=1e-4, abs=1e-9)


def test_the_step_starts_its_processes(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    one = tuned(local_context(tmp_path / "one"), tiny, squares, optim=OPTIM, merge=True)
    two = tuned(local_context(tmp_path / "two"), tiny, squares, optim=TWO, merge=True)
    assert_same(one, two, tiny.folder)
    assert two.timing.to_pylist()[0]["peak_bytes"] > 0
    assert not (tmp_path / "two" / "scratch" / "workers").exists() and not children()


@pytest.mark.large
def test_stopping_lets_the_processes_save(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    ctx.stop = When(ctx.scratch, stopping)
    with pytest.raises(Interrupted):
        tuned(ctx, tiny, squares, train="full", optim=TWO.model_copy(update={"steps": 400}))
    assert not children()
    assert 0 < torch.load(ctx.scratch / "training.pt", weights_only=True)["done"] < 400


@pytest.mark.large
def test_a_process_that_is_killed_ends_the_step_and_the_others(
    tiny: Lvlm, squares: Conversations, tmp_path: Path
) -> None:
    ctx = local_context(tmp_path)
    ctx.stop = When(ctx.scratch, lambda: os.kill(max(children()), signal.SIGKILL))
    with pytest.raises(StepError, match="process 2 of the training's 2 was killed by SIGKILL") as caught:
        tuned(ctx, tiny, squares, optim=TWO.model_copy(update={"steps": 400}))
    assert "goes on from the last saved step" in str(caught.value)
    assert not children()


# --- without starting any --------------------------------------------------------------------------------------------


def test_shares_are_all_of_a_batch() -> None:
    groups = [Group(), Group(), Group()]
    for rank, group in enumerate(groups):
        group.rank, group.size = rank, 3
    shares = [group.share(range(10)) for group in groups]
    assert sorted(row for share in shares for row in share) == list(range(10))
    assert [len(share) for share in shares] == [4, 3, 3]


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:1", "device is cuda:1"), ("mps", "not on mps"), ("cuda", "this machine has 0 GPUs")],
)
def test_devices_that_are_not_there_are_told_first(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(StepError, match=message):
        check_devices(device, 2)


def test_no_process_without_records() -> None:
    with pytest.raises(ValueError, match="parts of 2 records"):
        Optim(batch_size=8, accumulation=4, processes=3)
