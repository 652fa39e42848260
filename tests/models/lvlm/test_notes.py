"""What a small vision-language model says of itself reaches the rows of ``models``, without its weights being read."""

import json
from types import SimpleNamespace

from runner.engines.models import ModelPool
from runner.graph.inputs import Inputs
from runner.graph.nodes import ModelInput, PlannedModel
from runner.graph.record import model_rows
from runner.models.lvlm.providers import LvlmClassifierConfig, LvlmConfig
from tests.chat.tiny_vlm import make_tiny_vlm

SAID = "trained by this project, not for claims"


def rows(folder, tmp_path):
    """Rows of ``models`` of a run whose steps were all there already."""
    plain, hub = LvlmConfig(path=str(folder)), LvlmConfig(name="nobody/nothing")
    asked = {"question": "What is it?", "labels": ["cat", "dog"]}
    configs = {"tiny": (plain, {}), "remote": (hub, {}), "chooser": (LvlmClassifierConfig(model="$tiny", **asked), {"model": ModelInput("tiny")}),
               "far": (LvlmClassifierConfig(model="$remote", **asked), {"model": ModelInput("remote")})}  # fmt: skip
    models = {name: PlannedModel(name, name, config, {}, links) for name, (config, links) in configs.items()}
    plan = SimpleNamespace(models=models, assets={}, variant_models={("", name): name for name in models})
    store = SimpleNamespace(workspace=SimpleNamespace(cache=tmp_path))
    pool = ModelPool()
    inputs = Inputs(plan, store, pool, "cpu")
    told = inputs.notes()
    assert pool.loaded("remote") is None and pool.loaded("far") is None  # nothing is fetched for a note
    pool.close()
    return {row["model"]: row["note"] for row in model_rows(plan, told)}


def test_notes_of_small_models_and_of_classifiers_over_them(tmp_path):
    folder = make_tiny_vlm(tmp_path / "tiny")
    assert set(rows(folder, tmp_path).values()) == {None}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"runner": {"small": True, "notes": [SAID]}}))
    found = rows(folder, tmp_path)
    assert found == {
        "tiny": SAID, "remote": None, "far": None, "chooser": f"{SAID}; labels are scored as replies of a vision-language model",
    }  # fmt: skip
