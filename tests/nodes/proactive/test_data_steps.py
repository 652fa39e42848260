"""`proactive.load` and `proactive.probe`: from folders to samples that are played and shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from runner.artifacts import ProactiveSamples
from runner.cli import app
from runner.context import StepContext, local_context
from runner.errors import DataError, SpecError
from runner.graph import Workspace, make_plan
from runner.nodes.proactive.data_steps import load, probe
from runner.nodes.proactive.pictures import FramePictures, place_of
from runner.nodes.proactive.records import SCENARIOS
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.scripted_steps import scripted
from runner.spec import compile_text
from tests.nodes.proactive.published_folder import write_release

SPEC = """
name: published
seed: 5
steps:
  samples: {uses: proactive.load, root: ./test, limit: 2}
  guess: {uses: proactive.scripted, samples: $samples, policy: always_true, label: truth}
  probed: {uses: proactive.probe, samples: $samples, episodes: [$guess]}
  uniform: {uses: proactive.scripted, samples: $samples, policy: uniform, exact: true}
  scores: {uses: proactive.score, samples: $samples, episodes: [$uniform, $guess]}
results: out/results.duckdb
"""


@pytest.fixture
def ctx(tmp_path: Path) -> StepContext:
    return local_context(tmp_path / "work")


def kept(samples: ProactiveSamples) -> list[tuple[str, str]]:
    return [(r["scenario"], r["sample_id"]) for r in samples.samples.to_pylist() if r["kept"]]


def warnings(ctx: StepContext) -> list[str]:
    return [row["text"] for row in ctx.journal.messages]  # type: ignore[attr-defined]


def test_every_view_of_every_sample_can_be_shown(tmp_path: Path, ctx: StepContext) -> None:
    samples = load(ctx, root=str(write_release(tmp_path / "test")))
    assert samples.about["scenarios"] == list(SCENARIOS)
    assert samples.about["licences"]["ROD"].startswith("none stated")
    pictures = FramePictures(samples.corpus)
    for case in cases_of(samples):
        path = case.env.ask_path()
        shown = pictures.images([place_of(case, state) for state in path])
        for state in path:
            view = shown[place_of(case, state)]
            assert isinstance(view, Image.Image), view
            box = case.env.frame(state).crop
            assert view.size == ((24, 18) if box is None else (round(box[2] - box[0]), round(box[3] - box[1])))


def test_a_limit_draws_of_each_scenario_and_only_drawn_frames_are_looked_for(tmp_path: Path, ctx: StepContext) -> None:
    root = write_release(tmp_path / "test", 4, ["ROD", "QD"])
    drawn = kept(load(ctx, root=str(root), limit=1, seed=1))
    assert [scenario for scenario, _ in drawn] == ["ROD", "QD"]
    other = next(str(i) for i in range(1, 5) if ("QD", str(i)) not in drawn)
    shutil.rmtree(root / "QD" / other)
    assert kept(load(ctx, root=str(root), limit=1, seed=1)) == drawn
    with pytest.raises(DataError, match="4 of 40 frames are missing"):
        load(ctx, root=str(root))
    assert len(kept(load(ctx, root=str(root), check_files=False))) == 8


def test_kept_ids_of_a_file_are_played_and_the_rest_is_recorded(tmp_path: Path, ctx: StepContext) -> None:
    root = write_release(tmp_path / "test", 3, ["ROD", "QD", "COCO"])
    (tmp_path / "kept.json").write_text(json.dumps({"ROD": [2, 99], "QuickDraw": []}))
    samples = load(ctx, root=str(root), filter=str(tmp_path / "kept.json"))
    assert kept(samples) == [("ROD", "2"), ("COCO", "1"), ("COCO", "2"), ("COCO", "3")]
    assert samples.samples.num_rows == 9
    assert samples.about["filter"] == "kept ids of kept.json"
    said = warnings(ctx)
    assert any("ROD: 1 kept ids are of no sample: 99" in text for text in said)
    assert any(text.startswith("COCO: the file of kept ids does not name it") for text in said)
    with pytest.raises(DataError, match="See `filter:` and `scenarios:`"):
        load(ctx, root=str(root), filter=str(tmp_path / "kept.json"), scenarios=["QD"])


def test_what_the_probe_writes_is_a_filter_for_the_next_load(tmp_path: Path, ctx: StepContext) -> None:
    root = write_release(tmp_path / "test", 2)
    samples = load(ctx, root=str(root))
    probes = [
        scripted(ctx, samples=samples, policy="always_true", scenarios=["QD", "ROD"], limit=1, label="knows"),
        *(scripted(ctx, samples=samples, policy="abstain", label=f"abstains {i}") for i in range(3)),
    ]
    few = probe(ctx, samples=samples, episodes=probes)
    # ROD's first turn is named rightly too, though it does not count there: the picture gives it away all the same.
    assert len(kept(few)) == 12
    again = load(ctx, root=str(root), filter=str(few.kept_ids / "kept.jsonl"))
    assert kept(again) == kept(few)
    strict = probe(ctx, samples=samples, episodes=probes, threshold=0.5)
    assert kept(strict) == kept(samples)
    assert {row["n_probes"] for row in few.samples.to_pylist()} == {3, 4}
    assert "4 probes" in few.about["filter"]
    assert few.summary["scenarios"]["QD"]["kept"] == 1


def test_nothing_to_load_and_unknown_settings_are_said_at_validation(tmp_path: Path) -> None:
    write_release(tmp_path / "test", 1, ["QD"])
    (tmp_path / "empty").mkdir()
    for settings, message in [
        ("", "nothing to load"),
        ("root: ./test, limit: 0", "expected a number of at least 1"),
        ("root: ./test, scenarios: [QDD]", "QDD"),
        ("root: ./test, scenarios: [QD, QD]", "named twice"),
        ("root: ./test, scenarios: []", "scenarios"),
        ("root: ./empty", "expected the folder `test/`"),
        ("root: ./nowhere", "no such file or folder"),
        ("root: ./test, filter: published", "write them to a file"),
        ("root: ./test, filter: probe", "proactive.probe"),
        ("root: ./test, filter: kept.csv", "no such file or folder"),
    ]:
        text = f"name: x\nsteps:\n  s: {{uses: proactive.load{', ' if settings else ''}{settings}}}\n"
        with pytest.raises(SpecError) as caught:
            compile_text(text, "x.yaml", tmp_path)
        assert len(caught.value.problems) == 1
        assert message in caught.value.problems[0].message


def key_of(tmp_path: Path, settings: str = "") -> str:
    text = f"name: x\nsteps:\n  s: {{uses: proactive.load, root: ./test{settings}}}\nresults: out/r.duckdb\n"
    return make_plan(compile_text(text, "x.yaml", tmp_path), Workspace(tmp_path / "out")).nodes[0].key


def test_samples_enter_the_key_and_frames_do_not(tmp_path: Path) -> None:
    root = write_release(tmp_path / "test", 1, ["QD"])
    first = key_of(tmp_path)
    (root / "QD/1/0000.png").write_bytes(b"another picture")
    assert key_of(tmp_path) == first
    assert key_of(tmp_path, ", edition: second") != first
    write_release(root, 2, ["QD"])
    assert key_of(tmp_path) != first


@pytest.mark.large
def test_from_the_command_line(tmp_path: Path) -> None:
    write_release(tmp_path / "test")
    (tmp_path / "spec.yaml").write_text(SPEC)
    done = CliRunner().invoke(app, ["exec", str(tmp_path / "spec.yaml")])
    assert done.exit_code == 0, done.output
    asked = ["sql", "--results", str(tmp_path / "out/results.duckdb"), "--format", "json"]
    query = "select scenario, value from pb_metrics where metric = 'acc' and model = 'truth' order by scenario"
    told = CliRunner().invoke(app, [*asked, query])
    assert told.exit_code == 0, told.output
    values = {row["scenario"]: row["value"] for row in json.loads(told.output)}
    assert values["ROD"] == 0.0  # nothing counts on its first turn
    assert {values[s] for s in SCENARIOS if s != "ROD"} == {100.0}
    dropped = CliRunner().invoke(
        app, [*asked, "select count(*) as n from pb_samples where step = 'probed' and not kept"]
    )
    rows: list[dict[str, Any]] = json.loads(dropped.output)
    assert rows == [{"n": 14}]
