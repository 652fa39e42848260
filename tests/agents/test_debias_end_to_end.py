"""Texts of debiasing methods through the command line: from a spec to SQL, and nothing twice; errors before any run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_server import serving

from results.store import ResultsStore
from runner.errors import SpecError
from runner.spec import compile_text

SPEC = """
name: texts
models:
  llm: {{provider: openai, model: scripted, base_url: "{url}", timeout: 5, deadline: 30}}
steps:
  texts:
    uses: sem.prompts
    attribute: season
    classes: [summer, winter]
    queries: [a photo of a park, a photo of a "street"]
    needs: [diverse, bias, paraphrase, spurious, augmented]
    llm: $llm
    given: {{bias: {{file: bias.json}}, augmented: {{a photo of a park: 'a photo of a {{bias}} park', a photo of a "street": '{{bias}}, street'}}}}
    n_diverse: 40
    n_paraphrases: 4
results: out/results.duckdb
"""


def answer(body):
    data = json.loads(body["messages"][1]["content"].removeprefix("Prompt:\n"))
    wanted = range(data["number"])
    return json.dumps(
        {"items": [{"text": f"another view of the thing, {data['caption'][-6:].strip()} {i}"} for i in wanted]}
    )


def run(folder: Path) -> str:
    env = os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1", "RUNNER_OFFLINE": "1"}
    command = [sys.executable, "-m", "runner", "exec", "texts.yaml"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_a_spec_leaves_its_texts_in_the_results_and_asks_once(tmp_path):
    bias = {"summer": ["a park in July", "a sunny day"], "winter": ["a park in January", "a snowy day"]}
    (tmp_path / "bias.json").write_text(json.dumps(bias))
    with serving(answer=answer) as server:
        (tmp_path / "texts.yaml").write_text(SPEC.format(url=server.base_url))
        run(tmp_path)
        assert server.requests == 2
        store = ResultsStore(tmp_path / "out/results.duckdb")
        counts = store.query("SELECT kind, source, count(*) AS n FROM prompt_set GROUP BY ALL ORDER BY ALL").to_pylist()
        run(tmp_path)
        assert server.requests == 2
    assert [(c["kind"], c["source"], c["n"]) for c in counts] == [
        ("augmented", "spec", 4), ("bias", "spec", 4), ("diverse", "shipped", 40), ("paraphrase", "llm", 8),
        ("query", "spec", 2), ("spurious", "shipped", 2),
    ]  # fmt: skip
    written = "SELECT DISTINCT text FROM prompt_set WHERE kind = 'augmented' AND class_name = 'winter' ORDER BY ALL"
    assert [row["text"] for row in store.query(written).to_pylist()] == ["a photo of a winter park", "winter, street"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[summer, winter]", "[summer]", "at least 2"),
        ("[summer, winter]", "[summer, Summer]", "same name"),
        ("spurious, augmented]", "wishes]", "wishes"),
        ("spurious, augmented]", "bias]", "same name"),
        ("file: bias.json", "file: missing.json", "missing.json"),
        ("n_diverse: 40", "n_diverse: 0", "n_diverse"),
        ("n_diverse: 40", "templates: {{spurious: ['no place']}}", "not at all"),
        ("given: {{bias", "given: {{biases: x, bias", "biases"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_runs(old, new, problem, tmp_path):
    (tmp_path / "bias.json").write_text("{}")
    assert old in SPEC
    with pytest.raises(SpecError, match=problem):
        compile_text(SPEC.replace(old, new).format(url="http://127.0.0.1:1/v1"), "texts.yaml", tmp_path)
