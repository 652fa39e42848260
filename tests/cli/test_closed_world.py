"""`runner exec` of the contrastive closed world: a folder of pictures to accuracies, in one spec."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from results.store import ResultsStore

COLOURS = {"crab": (200, 60, 40), "hermit crab": (60, 170, 70), "blue_fish": (50, 70, 200)}
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SPEC: dict[str, Any] = {
    "name": "closed",
    "params": {"shots": 4, "splits": ["train", "val", "test"]},
    "models": {"clip": {"provider": "open_clip", "checkpoint": "./clip"}},
    "steps": {
        "images": {"uses": "datasets.load", "datasets": [{"image_folder": "./sea", "group": "animals"}]},
        "pool": {"uses": "classify.pool", "images": "$images", "shots_per_class": "$params.shots"},
        "features": {"uses": "classify.features", "encoder": "$clip", "images": "$images", "splits": "$params.splits"},
        "near": {"uses": "classify.neighbours", "features": "$features", "pool": "$pool", "k": 5},
        "zero": {"uses": "classify.clip_zero_shot", "encoder": "$clip", "features": "$features", "images": "$images"},
        "tip": {
            "uses": "classify.tip_adapter", "encoder": "$clip", "features": "$features", "pool": "$pool",
            "beta_steps": 10, "augment_epochs": 2,
        },
        "tip_f": {
            "uses": "classify.tip_adapter", "encoder": "$clip", "features": "$features", "pool": "$pool",
            "finetune": True, "search": False, "epochs": 2, "augment_epochs": 0,
        },
        "knn": {"uses": "classify.knn", "features": "$features", "neighbours": "$near", "k": 5},
        "knn1": {"uses": "classify.knn", "features": "$features", "pool": "$pool", "k": 1, "label": "nearest"},
        "scores": {"uses": "classify.score", "answers": ["$zero", "$tip", "$tip_f", "$knn", "$knn1"]},
    },
    "results": "out/results.duckdb",
}  # fmt: skip


def pictures(folder: Path) -> None:
    """Noisy colours: 8, 6 and 7 pictures of each class in train, val and test, one of them damaged."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 6), ("test", 7)):
        for name, colour in COLOURS.items():
            home = folder / split / name
            home.mkdir(parents=True)
            for n in range(count):
                pixels = np.clip(np.array(colour) + rng.normal(0, 45, (40, 36, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(home / f"{n}.png")
    (folder / "test" / "crab" / "0.png").write_bytes(b"\x89PNG damaged")


def clip(folder: Path) -> None:
    """An open_clip model of random weights, in the files of a real one."""
    import open_clip

    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"size": 32}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def execute(folder: Path, spec: dict[str, Any], *options: str, expect: int = 0) -> str:
    (folder / "closed.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), "utf8")
    command = [sys.executable, "-m", "runner", "exec", "closed.yaml", *options]
    env = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("closed")
    pictures(root / "sea")
    clip(root / "clip")
    return root


@pytest.fixture(scope="module")
def store(folder: Path) -> ResultsStore:
    """The results of the first run alone, whatever further tests run."""
    execute(folder, SPEC)
    shutil.copytree(folder / "out", folder / "first")
    return ResultsStore(folder / "first/results.duckdb")


def ask(store: ResultsStore, sql: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.query(sql).to_pylist()
    return rows


def test_every_method_answers_about_the_same_pictures(store: ResultsStore) -> None:
    found = ask(
        store,
        "select method, count(*) n, count(prediction) answered, count(failure) failed from closed_world_answer "
        "group by method order by method",
    )
    assert [(r["method"], r["n"], r["answered"], r["failed"]) for r in found] == [
        ("clip_zero_shot", 21, 20, 1), ("knn", 20, 20, 0), ("nearest", 20, 20, 0), ("tip_adapter", 20, 20, 0),
        ("tip_adapter_f", 20, 20, 0),
    ]  # fmt: skip
    joined = ask(
        store,
        "select count(*) n from closed_world_prediction a join closed_world_prediction b "
        "using (dataset, sample_id, target) where a.method = 'knn' and b.method = 'tip_adapter'",
    )
    assert joined[0]["n"] == 20


def test_accuracies_are_those_of_the_rows(store: ResultsStore) -> None:
    summary = ask(store, "select * from closed_world_summary where level = 'dataset'")
    assert len(summary) == 5 * 2
    for row in summary:
        column = "correct_strict" if row["metric"].endswith("strict") else "correct_inclusion"
        mean = ask(store, f"select avg({column}::int) m from closed_world_prediction where method = '{row['method']}'")[
            0
        ]["m"]
        assert row["value"] == pytest.approx(mean) and row["low"] <= row["value"] <= row["high"]
    knn = next(r for r in summary if r["method"] == "knn" and r["metric"] == "accuracy_strict")
    assert knn["value"] > 0.8  # plain colours: even random weights tell them apart
    loose = next(r for r in summary if r["method"] == "knn" and r["metric"] == "accuracy_inclusion")
    assert loose["value"] >= knn["value"]


def test_the_grid_of_the_search_is_there_with_the_pair_that_was_used(store: ResultsStore) -> None:
    grid = ask(store, "select * from tip_grid")
    assert len(grid) == 10 * 20
    chosen = [r for r in grid if r["chosen"]]
    assert len(chosen) == 1 and chosen[0]["val_accuracy"] == max(r["val_accuracy"] for r in grid)
    pool = ask(store, "select class_index, count(*) n from few_shot_pool group by 1 order by 1")
    assert [r["n"] for r in pool] == [4, 4, 4]
    assert ask(store, "select count(*) n from pool_neighbour")[0]["n"] == 20 * 5


def test_a_second_run_does_nothing_again(folder: Path, store: ResultsStore) -> None:
    made = sorted((folder / "out/artifacts").iterdir())
    execute(folder, SPEC)
    assert sorted((folder / "out/artifacts").iterdir()) == made
    rows = "select * exclude (run_id) from closed_world_summary order by all"
    first = ask(store, rows)
    assert len(first) == 5 * 2 * 3
    both = ask(ResultsStore(folder / "out/results.duckdb"), rows)
    assert both[::2] == both[1::2] == first


def test_a_pool_that_is_too_large_is_said_with_what_to_do(folder: Path, store: ResultsStore) -> None:
    said = " ".join(execute(folder, SPEC, "--set", "shots=9", expect=1).split())
    assert "fewer than 9 pictures" in said and "allow_fewer" in said


@pytest.mark.large  # tests/nodes/classify/test_steps.py holds the same refusal without the command line
def test_without_validation_pictures_the_search_says_how_to_go_on(folder: Path, store: ResultsStore) -> None:
    said = " ".join(execute(folder, SPEC, "--set", "splits=[train,test]", expect=1).split())
    assert "'val'" in said and "search: false" in said
