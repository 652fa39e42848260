"""Step ``prune.cut``: what is removed is what the scores say, the checkpoint is what was evaluated, bad input is refused early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from results.tables import arrow_table
from runner.artifacts.lvlm import PrunedLvlm, PruneScores
from runner.context import local_context
from runner.errors import DataError, ModelRefused
from runner.models.lvlm.loading import Lvlm, read
from runner.nodes.pruning.apply import Plan, count, layer_groups
from runner.nodes.pruning.cut_run import Cut
from runner.nodes.pruning.cut_scores import Scorer
from runner.nodes.pruning.cut_steps import cut
from runner.nodes.pruning.scoring import Settings
from runner.nodes.pruning.specs import Stage
from tests.nodes.pruning.tiny_lvlms import HIDDEN, LAYERS, MLP, folder, inputs, network

STAGE: TypeAdapter[Any] = TypeAdapter(Stage)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    return Lvlm(folder("llama_gqa", tmp_path_factory.mktemp("model") / "tiny"), dtype="float32")


def stages(*given: dict[str, Any]) -> list[Any]:
    return [STAGE.validate_python(stage) for stage in given]


def run(tmp_path: Path, model: Lvlm, *given: dict[str, Any], **more: Any) -> PrunedLvlm:
    return cut(local_context(tmp_path), model=model, stages=stages(*given), **more)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**inputs("llama_gqa")).logits
    return found


def scores_of(model: Lvlm, block: list[int], kv: list[float], neurons: list[float]) -> PruneScores:
    """Given ranks of blocks and scores of units, the same in every layer."""
    layers = [
        {"model": "m", "stage": 0, "criterion": "block_influence", "layer": i, "score_mean": float(r), "rank": r}
        for i, r in enumerate(block)
    ]
    units = [
        {"model": "m", "stage": 0, "criterion": "taylor/param_first", "layer": i, "kind": kind, "unit": u, "score": s, "rank": 0}
        for i in range(LAYERS) for kind, values in (("kv_group", kv), ("neuron", neurons)) for u, s in enumerate(values)
    ]  # fmt: skip
    about = {"name": model.name, "identity": model.identity}
    criteria = ["block_influence", "taylor/param_first"]
    return PruneScores(
        about, {}, criteria, arrow_table("prune_layer_score", layers), arrow_table("prune_unit_score", units),
        arrow_table("prune_timing", []), arrow_table("prune_timing", []),
    )  # fmt: skip


def test_stages_follow_the_scores_of_the_original(model: Lvlm, tmp_path: Path) -> None:
    scores = scores_of(model, [3, 0, 2, 1], [2.0, 1.0], [float(MLP - i) for i in range(MLP)])
    width = {
        "kind": "width", "attention": {"ratio": 0.5, "layers": [1, 2]}, "mlp": {"ratio": 0.3, "round_to": 4},
    }  # fmt: skip
    made = run(tmp_path, model, {"kind": "layer", "n_layers": 1}, width, scores=scores)
    assert made.plan["layers"] == [0, 2, 3]
    assert made.plan["kv_heads"] == [[0, 1], [0], [0, 1]]
    assert made.plan["heads"][1] == [0, 1]
    assert made.plan["neurons"] == [list(range(28))] * 3
    rows = made.models.to_pylist()
    assert [row["stage"] for row in rows] == [-1, 0, 1]
    assert rows[2]["heads_kept"] == [4, 2, 4]
    size = HIDDEN // 4
    layer = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * 2 * size + 3 * HIDDEN * MLP + 2 * HIDDEN
    assert rows[0]["params_llm"] - rows[1]["params_llm"] == layer
    group = 2 * HIDDEN * size * 2 + 2 * HIDDEN * size
    assert rows[1]["params_llm"] - rows[2]["params_llm"] == group + 3 * (MLP - 28) * 3 * HIDDEN
    loaded = read(made.checkpoint, dtype="float32")
    assert sum(p.numel() for p in loaded.network.parameters()) == rows[2]["params_total"]
    removed = [r["layer"] for r in made.layer_scores.to_pylist() if r["removed"]]
    assert removed == [1]
    gone = [r for r in made.unit_scores.to_pylist() if r["kind"] == "kv_group" and not r["kept"]]
    assert [(r["layer"], r["unit"], r["stage"]) for r in gone] == [(2, 1, 1)]
    assert "`tiny`" in (made.checkpoint / "README.md").read_text()


def test_every_format_gives_the_same_model(model: Lvlm, tmp_path: Path) -> None:
    given = ({"kind": "layer", "criterion": "explicit", "layers": [2]},
             {"kind": "width", "criterion": "l2", "attention": {"ratio": 0.5}, "mlp": {"ratio": 0.5}})  # fmt: skip
    made = {f: run(tmp_path / f, model, *given, format=f, label=f) for f in ("uniform", "manifest", "masked")}
    found = {f: logits(read(m.checkpoint, dtype="float32").network) for f, m in made.items()}
    assert torch.equal(found["uniform"], found["manifest"])
    torch.testing.assert_close(found["masked"], found["manifest"], rtol=1e-5, atol=1e-5)
    assert made["uniform"].plan == made["masked"].plan
    rows = {f: m.models.to_pylist()[-1] for f, m in made.items()}
    assert rows["masked"]["bytes"] > rows["uniform"]["bytes"]
    assert rows["masked"]["params_llm"] == rows["uniform"]["params_llm"]


def test_l2_keeps_what_an_independent_sum_of_squares_ranks_first(model: Lvlm, tmp_path: Path) -> None:
    made = run(tmp_path, model, {"kind": "width", "criterion": "l2", "mlp": {"ratio": 0.25}})
    mlp = network("llama_gqa").model.layers[3].mlp
    each = [mlp.gate_proj.weight.pow(2).sum(1), mlp.up_proj.weight.pow(2).sum(1), mlp.down_proj.weight.pow(2).sum(0)]
    best = (sum(each) / 3).argsort(descending=True)[:30]
    assert made.plan["neurons"][3] == sorted(best.tolist())


@pytest.mark.parametrize("scope", ["local", "global"])
def test_targets_are_met(model: Lvlm, tmp_path: Path, scope: str) -> None:
    made = run(
        tmp_path, model,
        {"kind": "width", "criterion": "random", "attention": {}, "mlp": {}, "target_fraction": 0.3, "scope": scope},
    )  # fmt: skip
    row = made.models.to_pylist()[-1]
    assert row["removed_fraction"] >= 0.3
    grain = 2 * LAYERS * 6 * HIDDEN * (HIDDEN // 4)  # one group more in each layer
    assert row["removed_fraction"] <= 0.3 + grain / made.models.to_pylist()[0]["params_llm"]


class Aside(Scorer):
    """Heads far above neurons, so that the first steps take neurons alone."""

    def units(self, criterion: str, plan: Plan, *, untouched: bool) -> dict[tuple[int, str], torch.Tensor]:
        generator = torch.Generator().manual_seed(len(plan.widths[0].neurons))
        found = {}
        for position, group in enumerate(layer_groups(self.network, self.decoder)):
            found[position, "kv_group"] = 1e4 + torch.arange(group.attention.n_kv, dtype=torch.float64)
            found[position, "neuron"] = torch.rand(group.mlp.width, generator=generator, dtype=torch.float64)
        return found


@pytest.mark.parametrize("normalize", ["per_parameter", "zscore"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_steps_towards_a_target_meet_it_however_kinds_share_it(normalize: str, steps: int) -> None:
    made = network("llama_gqa")
    stage = {
        "kind": "width", "attention": {}, "mlp": {}, "target_fraction": 0.2, "scope": "global", "normalize": normalize,
        "iterative_steps": steps,
    }  # fmt: skip
    original, whole = count(made), Plan.whole(layer_groups(made))
    Cut(None, made, "auto", Aside(made, "auto", None, None, Settings()), "m", 0, original, whole).run(stages(stage))
    gone = original.llm - count(made).llm
    unit = max(6 * HIDDEN * (HIDDEN // 4), 3 * HIDDEN)  # of one group: the largest that a step can go too far by
    assert 0.2 * original.llm <= gone < 0.2 * original.llm + unit


def test_layers_by_target_and_iterative_steps_reach_the_same_counts(model: Lvlm, tmp_path: Path) -> None:
    made = run(tmp_path / "a", model, {"kind": "layer", "criterion": "last", "target_fraction": 0.4})
    params = made.models.to_pylist()[0]["params_llm"]
    layer = sum(p.numel() for p in network("llama_gqa").model.layers[0].parameters())
    assert len(made.plan["layers"]) == LAYERS - round(0.4 * params / layer)
    assert made.plan["layers"][-1] == LAYERS - 1
    once, twice = (
        run(
            tmp_path / f"k{k}", model, {"kind": "width", "criterion": "l1", "mlp": {"ratio": 0.5}, "iterative_steps": k}
        )
        for k in (1, 2)
    )
    assert [len(n) for n in once.plan["neurons"]] == [len(n) for n in twice.plan["neurons"]] == [MLP // 2] * LAYERS


def test_single_query_heads(model: Lvlm, tmp_path: Path) -> None:
    part = {"ratio": 0.5, "unit": "query_per_group"}
    made = run(tmp_path, model, {"kind": "width", "criterion": "l2", "attention": part}, format="uniform")
    assert all(len(h) == 2 and h[0] < 2 <= h[1] for h in made.plan["heads"])
    assert made.plan["kv_heads"] == [[0, 1]] * LAYERS
    assert layer_groups(read(made.checkpoint).network)[0].attention.kind == "mha"


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"kind": "width", "mlp": {"ratio": 1.0}}, "less than 1"),
        ({"kind": "width", "mlp": {"ratio": -0.1}}, "greater than or equal to 0"),
        ({"kind": "width", "mlp": {"ratio": 0.1, "layers": [3, 3]}}, "must be"),
        ({"kind": "width", "mlp": {"ratio": 0.1}, "target_fraction": 0.2}, "only one of them"),
        ({"kind": "width", "mlp": {}}, "give each part a ratio"),
        ({"kind": "width"}, "attention, mlp or both"),
        ({"kind": "width", "criterion": "taylr", "mlp": {"ratio": 0.1}}, "taylor/param_first"),
        ({"kind": "layer", "n_layers": 1, "target_fraction": 0.1}, "one of them"),
        ({"kind": "layer", "criterion": "explicit"}, "wants layers"),
        ({"kind": "layer", "criterion": "last", "n_layers": 2, "iterative_steps": 2}, "scores nothing"),
        ({"kind": "layer", "criterion": "explicit", "layers": [1, 2, 1]}, "layer 1 more than once"),
        ({"kind": "layer", "criterion": "explicit", "layers": [0], "protect": {"first": 1}}, "protect has no part"),
        ({"kind": "layer", "criterion": "every_kth", "k": 2, "protect": {"last": 1}}, "protect has no part"),
        ({"kind": "width", "criterion": "l1", "mlp": {"ratio": 0.1}, "compensate": True}, "wants criterion flap"),
    ],
)
def test_specs_that_contradict_themselves(stage: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        STAGE.validate_python(stage)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"kind": "layer", "criterion": "random", "n_layers": LAYERS}, r"stages\[0\] .*at least one has to stay"),
        ({"kind": "layer", "criterion": "random", "n_layers": 3, "protect": {"first": 1, "last": 1}}, "protect leaves 2 of 4"),
        ({"kind": "layer", "criterion": "explicit", "layers": [9]}, "layer 9 is not there"),
        ({"kind": "layer", "criterion": "explicit", "layers": [0, 1, 2, 9]}, "layer 9 is not there"),
        ({"kind": "width", "criterion": "l1", "mlp": {"ratio": 0.1, "layers": [0, 9]}}, "beyond the model's 4 layers"),
        ({"kind": "width", "criterion": "activation", "mlp": {"ratio": 0.1}}, "no scores by activation"),
        ({"kind": "width", "criterion": "l1", "mlp": {}, "target_params": 10}, "cannot be reached"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do_is_refused(model: Lvlm, tmp_path: Path, stage: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        run(tmp_path, model, stage)
    assert not (tmp_path / "staging" / "checkpoint").exists() or not any(
        (tmp_path / "staging" / "checkpoint").iterdir()
    )


def test_unequal_layers_cannot_be_uniform(model: Lvlm, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="layers 1, 2, 3 keep other numbers"):
        run(
            tmp_path,
            model,
            {"kind": "width", "criterion": "l1", "mlp": {"ratio": 0.5, "layers": [0, 1]}},
            format="uniform",
        )


def test_scores_of_another_model_are_refused(model: Lvlm, tmp_path: Path) -> None:
    scores = scores_of(model, [0, 1, 2, 3], [1.0, 2.0], [1.0] * MLP)
    scores.model["identity"] = "other"
    with pytest.raises(DataError, match="of another model"):
        run(tmp_path, model, {"kind": "layer", "n_layers": 1}, scores=scores)


def test_a_cut_model_is_cut_again_but_not_masked(model: Lvlm, tmp_path: Path) -> None:
    part = {"kind": "width", "criterion": "l1", "mlp": {"ratio": 0.5, "layers": [0, 1]}}
    first = run(tmp_path / "a", model, part)
    second = Lvlm(first.checkpoint, dtype="float32")
    made = run(tmp_path / "b", second, {"kind": "layer", "criterion": "last", "n_layers": 1})
    assert [len(n) for n in made.plan["neurons"]] == [MLP // 2, MLP, MLP]
    assert read(made.checkpoint, dtype="float32").network.model.layers[0].mlp.down_proj.in_features == MLP // 2
    with pytest.raises(ModelRefused, match="cut already"):
        run(tmp_path / "c", second, part, format="masked")
