"""Counts foreseen from configs alone: closed forms of published models, and what a real cut then leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from runner.context import local_context
from runner.errors import DataError
from runner.models.lvlm.loading import Lvlm
from runner.models.lvlm.stock import on_meta
from runner.nodes.pruning.apply import count
from runner.nodes.pruning.cut_steps import cut, plan
from runner.nodes.pruning.specs import Stage
from tests.nodes.pruning.tiny_lvlms import folder

STAGES: TypeAdapter[Any] = TypeAdapter(list[Stage])
PUBLISHED = {
    # config, parameters, of one layer, share of 5, 10, 15, 21 layers in percent
    "vicuna": ("LlamaConfig", {"intermediate_size": 11008}, 6_738_415_616, 202_383_360, (15.0, 30.0, 45.1, 63.1)),
    "phi3": ("Phi3Config", {}, 3_821_079_552, 113_252_352, (14.8, 29.6, 44.5, 62.2)),
    "phi2": (
        "PhiConfig",
        {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 51200},
        2_779_683_840, 78_671_360, (14.2, 28.3, 42.5, 59.4),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    import transformers

    kind, changes, *expected = PUBLISHED[request.param]
    return on_meta(getattr(transformers, kind)(**changes)), expected


def test_published_models_count_as_published(published: tuple[Any, Any]) -> None:
    network, (total, layer, shares) = published
    assert count(network).llm == total
    assert sum(p.numel() for p in network.model.layers[7].parameters()) == layer
    assert tuple(round(100 * n * layer / total, 1) for n in (5, 10, 15, 21)) == shares


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Its config in a folder: planning reads nothing else."""
    from transformers import LlamaConfig

    place = tmp_path_factory.mktemp("vicuna")
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(place)

    class Handle:
        folder, decoder, dtype, name, identity = place, "auto", "bfloat16", "vicuna", "x"

    return Handle()


def planned(tmp_path: Path, model: Any, *stages: dict[str, Any]) -> Any:
    return plan(local_context(tmp_path), model=model, stages=STAGES.validate_python(list(stages)))


@pytest.mark.parametrize(
    ("ratio", "heads", "neurons", "percent"), [(0.3, 23, 7705, 15.3), (0.6, 13, 4403, 31.1), (0.9, 4, 1100, 46.4)]
)
def test_widths_of_the_published_ranges(
    vicuna: Any, tmp_path: Path, ratio: float, heads: int, neurons: int, percent: float
) -> None:
    """Heads and neurons left in layers 3..20 and 3..19 of Vicuna, and the share that goes."""
    parts = {"attention": {"ratio": ratio, "layers": [3, 21]}, "mlp": {"ratio": ratio, "layers": [3, 20]}}
    row = planned(tmp_path, vicuna, {"kind": "width", **parts}).models.to_pylist()[-1]
    assert set(row["heads_kept"][3:21]) == {heads}
    assert abs(row["neurons_kept"][3] - neurons) <= 1
    assert round(100 * row["removed_fraction"], 1) == percent


def test_a_plan_says_how_many_and_leaves_which_to_the_data(vicuna: Any, tmp_path: Path) -> None:
    made = planned(tmp_path, vicuna, {"kind": "layer", "target_fraction": 0.15})
    row = made.models.to_pylist()[-1]
    assert (len(row["heads_kept"]), row["layers_kept"]) == (27, [])
    assert row["bytes"] == 2 * (6_738_415_616 - 5 * 202_383_360)
    assert made.notes == ["stages[0]: 5 layers go; which ones, block_influence on data decides"]
    with pytest.raises(DataError, match="at least one has to stay"):
        planned(tmp_path, vicuna, {"kind": "layer", "n_layers": 32})


def test_the_plan_is_what_the_cut_leaves(tmp_path: Path) -> None:
    model = Lvlm(folder("phi3_gqa", tmp_path / "tiny"), dtype="float32")
    stages = [
        {"kind": "layer", "criterion": "explicit", "layers": [1]},
        {"kind": "width", "criterion": "l1", "attention": {}, "mlp": {}, "target_fraction": 0.5},
    ]
    foreseen = planned(tmp_path / "a", model, *stages).models.to_pylist()
    made = cut(local_context(tmp_path / "b"), model=model, stages=STAGES.validate_python(stages)).models.to_pylist()
    names = ("params_llm", "params_total", "layers_kept", "heads_kept", "neurons_kept")
    assert [[row[n] for n in names] for row in foreseen] == [[row[n] for n in names] for row in made]
