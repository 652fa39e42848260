"""``prune.score`` and ``prune.cut`` together on a tiny model with pictures; scores taken anew inside the cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from runner.artifacts.lvlm import Conversations, PrunedLvlm
from runner.context import local_context
from runner.data.benchmarks.building import conversations
from runner.errors import DataError, ModelRefused
from runner.models.lvlm import pruned
from runner.models.lvlm.loading import Lvlm
from runner.nodes.pruning.cut_steps import cut
from runner.nodes.pruning.score_steps import score
from runner.nodes.pruning.specs import Stage
from tests.chat.tiny_vlm import make_tiny_vlm

STAGES: TypeAdapter[Any] = TypeAdapter(list[Stage])
TAYLOR: dict[str, Any] = {"kind": "width", "criterion": "taylor/param_first", "mlp": {"ratio": 0.5}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lvlm]:
    yield Lvlm(make_tiny_vlm(tmp_path_factory.mktemp("lvlm") / "llava", "llava"), dtype="float32", name="tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Conversations:
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for number in range(4):
        Image.new("RGB", (56, 56), (60 * number, 90, 250 - 60 * number)).save(folder / f"{number}.png")
        turns = [["user", "<image>\nWhich animal is it?"], ["assistant", f"label {number}"]]
        rows.append(
            {"record_id": f"r{number}", "domain": "animals", "split": "train", "source_id": "squares", "uris": [f"{number}.png"],
             "turns": turns}
        )  # fmt: skip
    return conversations("squares", ["animals"], rows, [{"folder": str(folder), "name": "squares"}])


def run(place: Path, model: Lvlm, *stages: dict[str, Any], **more: Any) -> PrunedLvlm:
    return cut(local_context(place), model=model, stages=STAGES.validate_python(list(stages)), **more)


def test_scores_taken_in_the_cut_are_those_of_the_step(model: Lvlm, data: Conversations, tmp_path: Path) -> None:
    scores = score(
        local_context(tmp_path / "s"),
        model=model,
        data=data,
        criteria=["taylor/param_first", "block_influence", "angular"],
    )
    for number, stage in enumerate(
        [TAYLOR, {"kind": "layer", "n_layers": 1}, {"kind": "layer", "n_layers": 1, "criterion": "angular"}]
    ):
        given = run(tmp_path / f"g{number}", model, stage, scores=scores)
        taken = run(tmp_path / f"t{number}", model, stage, calibration=data)
        assert given.plan == taken.plan


def test_iterative_steps_score_the_smaller_model_and_end_at_the_same_width(
    model: Lvlm, data: Conversations, tmp_path: Path
) -> None:
    once = run(tmp_path / "a", model, TAYLOR, calibration=data)
    steps = run(tmp_path / "b", model, TAYLOR | {"iterative_steps": 4}, calibration=data)
    assert [len(n) for n in once.plan["neurons"]] == [len(n) for n in steps.plan["neurons"]] == [96, 96]
    sizes = [r for r in steps.unit_scores.to_pylist() if r["kind"] == "neuron" and r["layer"] == 0]
    assert len(sizes) == 192 + 168 + 144 + 120
    with pytest.raises(DataError, match="wants `calibration`"):
        run(tmp_path / "c", model, TAYLOR | {"iterative_steps": 4})


def test_a_bias_makes_up_for_the_mean_of_what_went(model: Lvlm, data: Conversations, tmp_path: Path) -> None:
    scores = score(local_context(tmp_path / "s"), model=model, data=data, criteria=["flap"])
    stage = {"kind": "width", "criterion": "flap", "mlp": {"ratio": 0.5}}
    made = {
        flag: run(tmp_path / f"c{flag}", model, stage | {"compensate": flag}, scores=scores) for flag in (False, True)
    }
    networks = {flag: pruned.load(m.checkpoint, "float32") for flag, m in made.items()}
    down = [networks[flag].model.language_model.layers[1].mlp.down_proj for flag in (False, True)]
    assert down[0].bias is None
    weight = model.load().network.model.language_model.layers[1].mlp.down_proj.weight
    gone = sorted(set(range(192)) - set(made[True].plan["neurons"][1]))
    expected = weight.detach()[:, gone] @ torch.as_tensor(scores.means["1.mlp"])[gone]
    torch.testing.assert_close(down[1].bias.detach(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelRefused, match="cannot hold this model"):
        run(tmp_path / "u", model, stage | {"compensate": True}, scores=scores, format="uniform")
    with pytest.raises(ModelRefused, match="no place for the biases"):
        run(tmp_path / "m", model, stage | {"compensate": True}, scores=scores, format="masked")
