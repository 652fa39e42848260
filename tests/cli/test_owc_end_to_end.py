"""Open and closed world through the command line: pictures on disk, a loopback model that sees them, scores in the results.

The model answers with the true label in a sentence, so every inclusion score must be 1; the run is also killed and gone on with.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/agents"), str(ROOT / "tests/chat")]

from fault_server import serving  # noqa: E402
from openworld_material import COLOURS, contents, pictures_of, slots  # noqa: E402

SPEC = """
name: colours
models:
  lmm: {{provider: openai, model: scripted, base_url: "{url}", timeout: 5, deadline: 60, concurrency: 4}}
  sentences: {{provider: minilm, max_tokens: 512}}
steps:
  data: {{uses: datasets.load, datasets: {{image_folder: colours, group: prototypical, domain_noun: "thing"}}}}
  zero: {{uses: owc.ask, lmm: $lmm, images: $data}}
  steps: {{uses: owc.ask, lmm: $lmm, images: $data, prompt: llamav_o1, label: in_steps}}
  verdicts: {{uses: owc.judge, llm: $lmm, answers: [$zero, $steps]}}
  kinds: {{uses: owc.taxonomy, llm: $lmm, answers: [$zero]}}
  scores: {{uses: owc.score, answers: [$zero, $steps], judgements: $verdicts, sentences: $sentences, chunker: comma, bootstrap: 0}}
  pool: {{uses: classify.pool, images: $data, shots_per_class: 1}}
  listed: {{uses: circle.multiple_choice, lmm: $lmm, images: $data}}
  shown: {{uses: circle.multiple_choice, lmm: $lmm, images: $data, context: random, pool: $pool, shots: 2}}
  closed: {{uses: classify.score, answers: [$listed, $shown]}}
results: out/results.duckdb
"""


def answer(body: dict[str, Any]) -> str:
    """The true label in a sentence for pictures, the published rule for judges, a probe's answer for probes."""
    asked = contents(body)[-1]
    if "red" in body.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("properties", {}):
        return json.dumps({"red": "heron", "blue": "birch"})
    if any("Target: " in text for text in contents(body) if isinstance(text, str)):
        said, target = slots(body)
        return str(int(target in said))
    if "response_format" in body:
        return json.dumps("specific")
    return f"Answer: {pictures_of(body)[-1]}" if asked == "Answer:" else f"This is a {pictures_of(body)[-1]}."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with two training and four test pictures each, all different."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 4)):
        for name, colour in COLOURS.items():
            place = tmp_path / "colours" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-20, 20, (24, 24, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path


def command(folder: Path, url: str) -> tuple[list[str], dict[str, Any]]:
    (folder / "spec.yaml").write_text(SPEC.format(url=url))
    environment = os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return [sys.executable, "-m", "runner", "exec", "spec.yaml"], {"cwd": folder, "env": environment}


def execute(folder: Path, url: str) -> None:
    words, settings = command(folder, url)
    done = subprocess.run(words, **settings, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def query(folder: Path, sql: str) -> list[dict[str, Any]]:
    from results.store import ResultsStore

    found: list[dict[str, Any]] = ResultsStore(folder / "out/results.duckdb").query(sql).to_pylist()
    return found


@pytest.mark.assets
def test_a_model_that_names_the_class_scores_one_everywhere_even_after_a_kill(folder: Path) -> None:
    with serving(answer=answer, seconds=0.05) as server:
        words, settings = command(folder, server.base_url)
        first = subprocess.Popen(
            words, **settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        while server.requests < 30 and first.poll() is None:
            time.sleep(0.02)
        assert first.poll() is None, first.communicate()[0]
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        before = server.requests
        assert before >= 30
        execute(folder, server.base_url)
        again = sum(times > 1 for times in server.repeats.values())
        assert again <= 4, "only what was in flight is asked twice"
        paid = server.requests
        execute(folder, server.base_url)
        assert server.requests == paid > before
    means = query(folder, "SELECT * FROM owc_summary WHERE level = 'dataset'")
    metrics = {(row["method"], row["metric"]): row["value"] for row in means}
    for method in ("zero_shot", "in_steps"):
        assert metrics[method, "text_inclusion"] == metrics[method, "llama_inclusion"] == 1.0
    closed = query(folder, "SELECT DISTINCT method, metric, value FROM closed_world_summary")
    assert {(r["method"], r["value"]) for r in closed} == {("multiple_choice", 1.0), ("multiple_choice_random", 1.0)}
    assert {row["category"] for row in query(folder, "SELECT category FROM owc_category")} == {"specific"}
    assert query(folder, "SELECT DISTINCT count(*) AS n FROM owc_judgement GROUP BY run_id") == [{"n": 3}]
    calls = query(folder, "SELECT purpose, count(*) AS n FROM llm_calls WHERE NOT cached GROUP BY ALL")
    asked = {row["purpose"]: row["n"] for row in calls}
    assert asked.get("circle.multiple_choice", 0) <= 24 and asked.get("owc.judge", 0) <= 3
