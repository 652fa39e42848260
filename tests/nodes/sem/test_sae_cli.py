"""`runner exec` of a training and of an import of what it exported: rows in the results, and an unchanged second run."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

from results.store import ResultsStore
from runner.errors import SpecError
from runner.spec import compile_text

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TEXTS = {"templates": ["a photo of a {}", "the {} there", "one {}"], "of": {"words": [f"thing {n}" for n in range(30)]}}
SPEC = {
    "name": "sae",
    "models": {"clip": {"provider": "open_clip", "checkpoint": "./clip"}},
    "steps": {
        "sae": {"uses": "sem.train_sae", "clip": "$clip", "texts": TEXTS, "latents": 48, "levels": [4, 16], "batch": 16,
                "epochs": 3, "lr": 0.003, "val_fraction": 0.2},
    },
    "results": "out/results.duckdb",
}  # fmt: skip


def execute(folder, spec):
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), "utf8")
    command = [sys.executable, "-m", "runner", "exec", "spec.yaml"]
    env = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import open_clip

    root = tmp_path_factory.mktemp("sae")
    (root / "clip").mkdir()
    (root / "clip/open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"size": 32}}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{root / 'clip'}", load_weights=False)
    save_file(model.state_dict(), root / "clip/open_clip_model.safetensors")
    execute(root, SPEC)
    return root


def test_a_training_reaches_the_results_and_is_kept(folder):
    store = ResultsStore(folder / "out/results.duckdb")
    found = store.query(
        "select m.sae_id, d, latents, levels, n_train, n_val, small, count(*) epochs, min(level_losses[1]) least "
        "from sae_model m join sae_train_log l using (run_id, variant, step, sae_id) group by all"
    ).to_pylist()
    assert len(found) == 1 and found[0]["epochs"] == 3 and found[0]["least"] > 0
    expected = {"d": 16, "latents": 48, "levels": [4, 16], "n_train": 72, "n_val": 18, "small": False}
    assert {name: found[0][name] for name in expected} == expected
    execute(folder, SPEC)
    ids = store.query("select distinct sae_id from sae_model").to_pylist()
    assert ids == [{"sae_id": found[0]["sae_id"]}]


@pytest.mark.large
def test_what_was_trained_can_be_given_to_another_spec(folder):
    (made,) = (folder / "out/artifacts").glob("*/folder/sae.json")
    steps = {"taken": {"uses": "sem.import_sae", "clip": "$clip", "path": str(made.parent), "texts": TEXTS}}
    execute(folder, SPEC | {"steps": steps, "results": "again/results.duckdb"})
    rows = ResultsStore(folder / "again/results.duckdb").query("select * from sae_model").to_pylist()
    before = ResultsStore(folder / "out/results.duckdb").query("select * from sae_model").to_pylist()
    assert rows[0]["sae_id"] == before[0]["sae_id"] and rows[0]["n_val"] == 90 and rows[0]["cosine"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"levels": [16, 4]}, "levels must ascend"), ({"levels": [4, 4]}, "levels must ascend"), ({"levels": []}, "levels"),
     ({"latents": 1}, "latents"), ({"texts": {"templates": ["no place"], "of": {"words": ["a"]}}}, "write {} once"),
     ({"loss": "huber"}, "huber"), ({"export": ["onnx"]}, "export")],
)  # fmt: skip
def test_wrong_specs_are_refused_before_anything_runs(folder, changes, message):
    text = yaml.safe_dump(SPEC | {"steps": {"sae": SPEC["steps"]["sae"] | changes}})
    with pytest.raises(SpecError, match=re.escape(message)):
        compile_text(text, "spec.yaml", folder)
    compile_text(yaml.safe_dump(SPEC), "spec.yaml", folder)
