"""`runner audit` on a classifier with biases that were put there, against the same classifier without them.

Real photographs, a real published network with its last layer trained again, the real retriever, verifier and measurements. Only
the captions are recorded: those of the language model say the same on every machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import yaml
from PIL import Image
from test_audit_end_to_end import _fault_server

from results.store import ResultsStore

CAPTIONS = {
    "dark": "a photo of a {} in the dark",
    "bright": "a photo of a {} in bright light",
    "ship": "a photo of a ship, a {} on water",
    "truck": "a photo of a truck, a {} on a road",
}
FINDINGS = ("favoured", "disfavoured")


def answer(body: dict[str, Any]) -> str:
    """Recorded captions; circumstances come from the user alone."""
    data = json.loads(next(m["content"] for m in body["messages"] if m["role"] == "user").removeprefix("Prompt:\n"))
    texts = {
        key: CAPTIONS.get(str(value), "a photo of a {}").format(data.get("target class", value))
        for key, value in data["captions"].items()
    }
    return json.dumps({"captions": texts})


def pictures(folder: Path) -> None:
    """300 cats, 110 ships, 110 trucks and 30 of every other kind, under names that say nothing."""
    folder.mkdir()
    pixels, kinds = planted.photographs("cifar10-test", 3200)
    for number, name in enumerate(planted.KINDS):
        own = np.flatnonzero(kinds == number)[: {"cat": 300, "ship": 110, "truck": 110}.get(name, 30)]
        for place in own:
            Image.fromarray(pixels[place]).save(folder / f"{place:04}.png")


def runner(folder: Path, *arguments: str, expect: int = 0) -> str:
    command = [sys.executable, "-m", "runner", *arguments]
    env = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultsStore, str]:
    """The results of one audit of both classifiers, and what it printed."""
    folder = tmp_path_factory.mktemp("planted")
    pictures(folder / "photos")
    planted.write(folder / "plain.onnx")
    planted.write(folder / "planted.onnx", (planted.dark_cats, "frog"), (planted.ships, "bird"))
    with _fault_server().serving(answer=answer) as server:
        runner(
            folder, "audit", "--model", "plain.onnx", "--model", "planted.onnx", "--classes", ",".join(planted.CLASSES),
            "--task", "Tell what is in a small picture.", "--targets", "cat,vehicle", "--corpus", "photos",
            "--llm", server.base_url, "--llm-model", "recorded", "--attributes", "0", "--preprocess", "{size: 32}", "--fail-on", "worse=1",
            "--include", "lighting:luminance=dark,bright", "--include", "kind=ship,truck",
            "--calibration", "packaged:cifar10-train-sample", "--output", "audit.yaml", "--dry-run",
        )  # fmt: skip
        spec = yaml.safe_load((folder / "audit.yaml").read_text("utf8"))
        # Less of everything, for time: fewer captioned pictures for the encoder's head, fewer labelled ones for the verifier.
        spec["steps"]["head"]["corpus"] = [{"packaged": "google-emoji"}, {"packaged": "tuxpaint-stamps"}]
        spec["steps"]["checked"] |= {
            "per_class": 40,
            "calibration_label_map": dict.fromkeys(planted.VEHICLES, "vehicle"),
        }
        spec["steps"]["images"] |= {"min_side": 24, "k": 90}
        (folder / "audit.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), "utf8")
        said = runner(folder, "exec", "audit.yaml", expect=5)
    return ResultsStore(folder / "out/results.duckdb"), said


def groups(store: ResultsStore, step: str) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    found = store.query("SELECT * FROM verdicts WHERE step = $step", {"step": step}).to_pylist()
    return {(g["target"], g["attribute"], g["value"], g["value_source"]): g for g in found}


@pytest.mark.assets
@pytest.mark.timeout(900)
def test_what_was_planted_is_found_and_nothing_without_it(audited: tuple[ResultsStore, str]) -> None:
    store, _ = audited
    found, clean = groups(store, "verdict_planted"), groups(store, "verdict_plain")
    assert found["cat", "lighting", "dark", "measured"]["verdict"] == "disfavoured", found
    assert found["vehicle", "kind", "ship", "caption"]["verdict"] == "disfavoured", found
    # Dark and bright by caption are the same pictures in another order: that is said, and never "no evidence".
    assert found["cat", "lighting", "dark", "caption"]["verdict"] == "not_testable"
    assert [key for key, g in clean.items() if g["verdict"] in FINDINGS] == []
    assert {g["target_check"] for g in clean.values()} == {"verifier"}


@pytest.mark.assets
def test_the_second_classifier_is_compared_on_the_same_pictures(audited: tuple[ResultsStore, str]) -> None:
    store, said = audited
    rows = store.query("SELECT * FROM c2b_comparison WHERE attribute IS NOT NULL").to_pylist()
    worse = {(r["target"], r["value"], r["value_source"]) for r in rows if r["verdict"] == "worse"}
    assert {("cat", "dark", "measured"), ("vehicle", "ship", "caption")} <= worse
    assert not any(r["verdict"] == "better" for r in rows)
    assert "planted against plain" in said and "fail_on: " in said
    asked = {r["step"] for r in store.query("SELECT DISTINCT step FROM llm_calls").to_pylist()}
    assert asked <= {"biases", "captions", "bindings"}, "assessing a second classifier asks nothing"
    same = "SELECT source_id, uri FROM c2b_member WHERE step = $step ORDER BY ALL"
    assert store.query(same, {"step": "verdict_plain"}) == store.query(same, {"step": "verdict_planted"})
