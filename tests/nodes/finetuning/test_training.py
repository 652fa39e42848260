"""Trainings of a tiny random LLaVA: the loss is the network's own, only what may move moves, a killed one ends in the same bits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.artifacts import Conversations, FinetunedLvlm
from runner.context import StepContext, local_context
from runner.errors import DataError, Interrupted, ModelRefused, StepError
from runner.models.lvlm.batches import encode, records_of
from runner.models.lvlm.loading import Lvlm, read
from runner.nodes.finetuning.examples import Kept, Live
from runner.nodes.finetuning.learner import prepare
from runner.nodes.finetuning.objective import Objective, counts
from runner.nodes.finetuning.running import chosen_rows
from runner.nodes.finetuning.specs import Lora, Loss, Optim, Recipe
from runner.nodes.finetuning.steps import finetune

FAST = Optim(lr=3e-3, steps=6, batch_size=4, precision="fp32", warmup_ratio=0.0)


def tuned(folder: Path, model: Lvlm, data: Conversations, **given: Any) -> FinetunedLvlm:
    settings: dict[str, Any] = {"train": "lora", "label": "x", "optim": FAST, "lora": Lora(r=2, alpha=4)} | given
    return finetune(local_context(folder), model=model, data=data, **settings)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    network = read(folder, dtype="float32").network
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def before(tiny_folder: Path) -> dict[str, torch.Tensor]:
    return weights_of(tiny_folder)


def objective_on(tiny: Lvlm, squares: Conversations, folder: Path | None, rows: list[int]) -> tuple[Any, Any, Any]:
    loaded, all_rows = tiny.load(), chosen_rows(squares, 1.0, 0)
    feed = (
        Kept(loaded, squares, all_rows, 512, folder, lambda n: None) if folder else Live(loaded, squares, all_rows, 512)
    )
    learner = prepare(loaded, Recipe(train="projector"))
    batch = feed.batch(rows)
    assert batch is not None
    loss = Loss()
    return Objective(learner.network, learner.parts, loss)(batch, counts([batch], loss)), learner, batch


@pytest.mark.parametrize("kept", [True, False])
def test_the_loss_is_what_the_network_says_itself(
    tiny: Lvlm, squares: Conversations, tmp_path: Path, kept: bool
) -> None:
    rows = [0, 3, 9, 10]
    found, _, _ = objective_on(tiny, squares, tmp_path if kept else None, rows)
    loaded = tiny.load()
    plain = encode(loaded, list(records_of(squares, [chosen_rows(squares, 1.0, 0)[i] for i in rows])))
    with torch.no_grad():
        expected = float(loaded.network(**plain).loss)
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert found.ce == pytest.approx(expected, rel=1e-5)


def test_pictures_are_kept_once_and_read_back(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    rows = chosen_rows(squares, 1.0, 0)
    seen: list[int] = []
    first = Kept(tiny.load(), squares, rows, 512, tmp_path, seen.append)
    assert sum(seen) == len(rows) == 12
    sizes = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    again = Kept(tiny.load(), squares, rows, 512, tmp_path, seen.append)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == sizes
    one, two = first.batch([0, 1, 8]), again.batch([0, 1, 8])
    assert one.features is not None and two.features is not None
    assert torch.equal(one.features, two.features) and torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])
    assert torch.equal(one.features[0], one.features[1])  # two questions about one picture
    store, _ = first._stores[0]
    assert len(store.get_tensor("features")) == 4


@pytest.mark.parametrize(
    ("train", "projector", "moved"),
    [
        ("projector", True, {"multi_modal_projector"}),
        (
            "lora",
            True,
            {"multi_modal_projector", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        ),
        ("lora", False, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_a_mode_moves_only_what_it_says(
    tiny: Lvlm,
    squares: Conversations,
    tmp_path: Path,
    before: dict[str, torch.Tensor],
    train: str,
    projector: bool,
    moved: set[str],
) -> None:
    found = tuned(tmp_path, tiny, squares, train=train, projector=projector, merge=True)
    after = weights_of(found.checkpoint)
    touched = changed(before, after)
    assert touched == {n for n in before if "vision_tower" not in n and any(m in n for m in moved)}
    peft = read(tiny.folder, adapter=found.adapter, dtype="float32").network.state_dict()
    for name, value in peft.items():  # stock peft reads what was written, to the last rounding of the sum
        torch.testing.assert_close(value, after[name], rtol=1e-5, atol=1e-6)
    rows = found.log.to_pylist()
    assert [row["train_step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert found.timing.to_pylist()[0]["peak_bytes"] > 0


def test_all_of_the_language_model_moves_and_the_loss_falls(
    tiny: Lvlm, squares: Conversations, tmp_path: Path, before: dict[str, torch.Tensor]
) -> None:
    optim = Optim(lr=3e-3, steps=15, batch_size=12, accumulation=2)
    found = tuned(tmp_path, tiny, squares, train="full", optim=optim)
    touched = changed(
        {n: v.bfloat16() for n, v in before.items()}, {n: v.bfloat16() for n, v in weights_of(found.checkpoint).items()}
    )
    assert {n for n in before if "layers" in n and "vision" not in n and "norm" not in n} <= touched
    assert not [n for n in touched if "vision_tower" in n]
    rows = found.log.to_pylist()
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert not list(found.adapter.iterdir())


def test_frozen_weights_stay_half_precision_and_trained_ones_are_whole(tiny_folder: Path) -> None:
    learner = prepare(Lvlm(tiny_folder, dtype="bfloat16").load(), Recipe(train="lora"))
    dtypes = {name: p.dtype for name, p in learner.network.named_parameters()}
    assert {dtypes[name] for name in learner.trained} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if name not in learner.trained} == {torch.bfloat16}


def stopping(folder: Path, after: int) -> StepContext:
    ctx = local_context(folder)
    calls = [0]

    class Stop:
        def check(self) -> None:
            calls[0] += 1
            if calls[0] == after:
                raise Interrupted("stopped")

    ctx.stop = Stop()
    return ctx


def test_a_stopped_training_ends_in_the_same_bits(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model": tiny, "data": squares, "train": "lora", "label": "x", "lora": Lora(r=2, dropout=0.2), "optim": FAST,
    }  # fmt: skip
    whole = finetune(local_context(tmp_path / "whole"), **given)
    for after in (1, 4, 2):  # while records are read, and twice between steps
        with pytest.raises(Interrupted):
            finetune(stopping(tmp_path / "cut", after), **given)
    resumed = finetune(local_context(tmp_path / "cut"), **given)
    assert sha(whole.adapter) == sha(resumed.adapter)
    losses = [[row["loss"] for row in found.log.to_pylist()] for found in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_parts_of_a_step_add_up_to_the_whole(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    """Answers of 1 to 12 tokens: a mean of the parts' means would be another number."""
    logs = []
    for parts in (1, 3):
        optim = FAST.model_copy(update={"accumulation": parts, "batch_size": 6, "steps": 4, "group_by_length": False})
        logs.append(tuned(tmp_path / str(parts), tiny, squares, optim=optim).log.to_pylist())
    for name in ("loss", "grad_norm", "tokens"):
        assert [row[name] for row in logs[0]] == pytest.approx([row[name] for row in logs[1]], rel=2e-4)


def test_recomputed_activations_give_the_same_gradients(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    norms = []
    for on in (False, True):
        optim = FAST.model_copy(update={"checkpointing": on, "steps": 2})
        norms.append(
            [row["grad_norm"] for row in tuned(tmp_path / str(on), tiny, squares, optim=optim).log.to_pylist()]
        )
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_shares_of_domains_are_drawn_exactly(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    found = tuned(tmp_path, tiny, squares, weights={"colour": 0.25, "words": 0.75})
    assert found.summary["drawn"] == {"colour": 6, "words": 18}
    with pytest.raises(DataError, match="no such domain; there are colour, words"):
        tuned(tmp_path, tiny, squares, weights={"color": 1.0})
    with pytest.raises(DataError, match=r"sum to 1, not to 0\.9"):
        tuned(tmp_path, tiny, squares, weights={"colour": 0.9})


# --- bad input -------------------------------------------------------------------------------------------------------


def test_records_too_long_are_left_out_and_told(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    optim = FAST.model_copy(update={"max_length": 40, "steps": 1})
    found = finetune(ctx, model=tiny, data=squares, train="lora", label="x", optim=optim)
    told = " ".join(row["text"] for row in ctx.journal.messages)  # type: ignore[attr-defined]
    assert 0 < found.summary["dropped"] < 12 and f"{found.summary['dropped']} of 12 records" in told
    with pytest.raises(DataError, match="12 of 12 records"):
        tuned(tmp_path / "none", tiny, squares, optim=FAST.model_copy(update={"max_length": 8}))


def test_a_loss_that_is_no_number_names_its_records(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    class Broken(Lvlm):
        def load(self, *, dtype: str | None = None) -> Any:
            loaded = super().load(dtype=dtype)
            with torch.no_grad():  # a word that only one question holds
                loaded.network.get_input_embeddings().weight[loaded.tokenizer.encode("3", add_special_tokens=False)] = (
                    torch.nan
                )
            return loaded

    with pytest.raises(StepError, match="not a finite number") as caught:
        tuned(tmp_path, Broken(tiny.folder, dtype="float32"), squares)
    assert "word-3" in str(caught.value) and "red" not in str(caught.value)


def test_what_cannot_be_trained_is_refused(tiny: Lvlm, squares: Conversations, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no linear layer fc9") as caught:
        tuned(tmp_path, tiny, squares, lora=Lora(targets=["fc9"]))
    assert "q_proj" in str(caught.value)
    with pytest.raises(DataError, match="leaves none of 12"):
        tuned(tmp_path, tiny, squares, fraction=0.01)
    with pytest.raises(StepError, match="no teacher"):
        tuned(tmp_path, tiny, squares, loss=Loss.model_validate({"ce": 0.5, "hidden": {"weight": 0.5}}))
    with pytest.raises(StepError, match="no weight of the loss"):
        tuned(tmp_path, tiny, squares, teacher=tiny)


def test_running_out_of_memory_says_where_and_what_to_lower(
    tiny: Lvlm, squares: Conversations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Objective, "__call__", full)
    with pytest.raises(StepError, match="out of memory while training") as caught:
        tuned(tmp_path, tiny, squares)
    assert "Raise optim.accumulation (now 1; at most batch_size, 4)" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Loss, {"ce": 0}, "all weights of the loss are 0"),
        (Loss, {"ce": 0, "logits": {"weight": 0}}, "all weights of the loss are 0"),
        (Lora, {"r": 0}, "greater than or equal to 1"),
        (Optim, {"accumulation": 4, "batch_size": 2}, "empty parts"),
        (Loss, {"hidden": {"layers": [1, 1]}}, "named twice"),
        (Loss, {"hidden": {"layers": [-3]}}, "blocks count from 0"),
    ],
)
def test_settings_that_say_nothing_are_refused(kind: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind.model_validate(given)
