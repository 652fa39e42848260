"""Steps proactive.scripted and proactive.exact, on a small release with real frames and a tiny random model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.context import StepContext, local_context
from runner.errors import SpecError, UsageError
from runner.models.base import VisionLanguageModel
from runner.models.lvlm.loading import Lvlm
from runner.nodes.proactive.data_steps import load
from runner.nodes.proactive.env import make_env
from runner.nodes.proactive.exact import uniform_value, value
from runner.nodes.proactive.records import Record
from runner.nodes.proactive.samples import record_of
from runner.nodes.proactive.scripted_steps import exact, scripted
from runner.spec import compile_text
from tests.chat.tiny_vlm import make_tiny_vlm
from tests.nodes.proactive.published_folder import write_release

Row = dict[str, Any]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def ctx(tmp_path: Path) -> StepContext:
    return local_context(tmp_path)


def samples_of(ctx: StepContext, release: Path, **settings: Any) -> ProactiveSamples:
    return load(ctx, root=str(release), **settings)


def rows(found: ProactiveEpisodes) -> tuple[list[Row], list[Row]]:
    return found.episodes.to_pylist(), found.turns.to_pylist()


def test_uniform_rows_are_exact_values(ctx: StepContext, release: Path) -> None:
    samples = samples_of(ctx, release)
    found = scripted(ctx, samples=samples, policy="uniform", exact=True)
    records: dict[tuple[str, str], Record] = {
        (r["scenario"], r["sample_id"]): record_of(r) for r in samples.samples.to_pylist()
    }
    episodes, turns = rows(found)
    assert len(episodes) == len(records) == 14 and found.judgements.num_rows == 0
    for row in episodes:
        expected = uniform_value(make_env(records[row["scenario"], row["sample_id"]]))
        assert (row["p_success"], row["interventions"], row["p_exhausted"]) == expected[:3]
        assert (row["mode"], row["success"], row["stop_reason"], row["turns"]) == ("exact", None, None, expected.turns)
    assert all(sum(turn["probabilities"]) == pytest.approx(1) and turn["answer"] is None for turn in turns)
    assert found.model["kind"] == "scripted" and found.label == "uniform" and found.settings["mode"] == "exact"


def test_played_rows_tell_turn_by_turn_what_happened(ctx: StepContext, release: Path) -> None:
    found = scripted(ctx, samples=samples_of(ctx, release), policy="oracle", match="robust", label="best", limit=1)
    episodes, turns = rows(found)
    assert len(episodes) == 7 and all(row["success"] and row["stop_reason"] == "success" for row in episodes)
    assert sum(row["interventions"] for row in episodes) == len(turns) - 7
    for row in turns:
        last = row["action"] is None
        assert row["matched_kind"] == ("category_true" if last else "ask_valid") and row["match_kind"] == "both"
        assert row["answer"][3:] == row["options"][row["matched_index"]] and (row["next_frame"] is None) == last
    assert {row["model"] for row in (*episodes, *turns)} == {"best"}


def test_draws_are_told_apart_and_repeat_with_the_seed(ctx: StepContext, release: Path) -> None:
    samples = samples_of(ctx, release)
    first, again, other = (
        scripted(ctx, samples=samples, policy="uniform", draws=5, scenarios=["VSOD"], seed=seed) for seed in (1, 1, 2)
    )
    assert first.episodes.equals(again.episodes) and first.turns.equals(again.turns)
    assert not first.turns.equals(other.turns)
    assert [row["episode_id"] for row in first.episodes.to_pylist()][:2] == ["VSOD/1/0", "VSOD/1/1"]


SPEC = """
name: p
models: {}
steps:
  samples: {uses: proactive.load, root: ROOT}
  played: {uses: proactive.scripted, samples: $samples, WHAT}
results: r.duckdb
"""


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("policy: ask_k", "needs `k`"),
        ("policy: uniform, k: 2", "`k` is for"),
        ("policy: nobody", "nobody"),
        ("policy: uniform, exact: true, draws: 3", "nothing to draw"),
        ("policy: uniform, scenarios: [ABC]", "ABC"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    tmp_path: Path, release: Path, what: str, problem: str
) -> None:
    text = SPEC.replace("ROOT", str(release)).replace("WHAT", what).replace("models: {}\n", "")
    with pytest.raises(SpecError, match=problem.replace("`", ".")):
        compile_text(text, "p.yaml", tmp_path)


@cache
def tiny(folder: Path) -> Path:
    """Weights so small that no option is near certain."""
    return make_tiny_vlm(folder / "tiny", "llava")


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return Lvlm(tiny(tmp_path_factory.getbasetemp()), name="tiny", small=True)


@pytest.mark.parametrize("form", ["letter", "text"])
def test_a_model_is_asked_about_every_view_once(
    ctx: StepContext, release: Path, model: VisionLanguageModel, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(ctx, release, scenarios=["QD", "VSOD", "COCO"], limit=1)
    found = exact(ctx, model=model, samples=samples, form=form, hint=True)  # type: ignore[arg-type]
    episodes, turns = rows(found)
    records = {row["scenario"]: record_of(row) for row in samples.samples.to_pylist()}
    for row in episodes:
        env = make_env(records[row["scenario"]], hint=True)
        told = {t["frame"]: t["probabilities"] for t in turns if t["episode_id"] == row["episode_id"]}
        if row["scenario"] != "VSOD":  # on paths and crops towards one side the way holds every view
            expected = value(env, lambda state, _: told[env.frame(state).index])  # noqa: B023
            assert (row["p_success"], row["interventions"]) == pytest.approx(expected[:2], abs=1e-12)
    assert all(row["hint"] for row in episodes) and all("Hint:" in t["prompt"] and t["image_sha1"] for t in turns)
    assert len({tuple(t["probabilities"]) for t in turns}) > 3, "pictures change the answers"

    monkeypatch.setattr(Lvlm, "load", lambda self, dtype=None: pytest.fail("asked again"))
    again = exact(ctx, model=model, samples=samples, form=form, hint=True)  # type: ignore[arg-type]
    assert again.episodes.equals(found.episodes) and again.turns.equals(found.turns)


def test_a_picture_that_cannot_be_read_fails_its_sample_only(
    ctx: StepContext, tmp_path: Path, model: VisionLanguageModel
) -> None:
    broken = write_release(tmp_path / "broken", scenarios=["QD"])
    samples = samples_of(ctx, broken)
    uri = samples.samples.to_pylist()[0]["uris"][1]
    (broken / uri).write_bytes(b"no picture")
    episodes, _ = rows(exact(ctx, model=model, samples=samples))
    assert [row["status"] for row in episodes] == ["error", "ok"] and episodes[0]["p_success"] is None
    assert uri in episodes[0]["failure"] and ctx.failures[0][0] == episodes[0]["episode_id"]


def test_the_same_pixels_under_other_names_are_asked_by_content(
    ctx: StepContext, tmp_path: Path, model: VisionLanguageModel
) -> None:
    """Frames that change behind an unchanged name are asked again."""
    folder = write_release(tmp_path / "r", count=1, scenarios=["QD"])
    samples = samples_of(ctx, folder)
    first = exact(ctx, model=model, samples=samples)
    noise = np.random.default_rng(0).integers(0, 255, (18, 24, 3), np.uint8)
    Image.fromarray(noise).save(folder / samples.samples.to_pylist()[0]["uris"][0])
    second = exact(ctx, model=model, samples=samples)
    apart = [a["probabilities"] != b["probabilities"] for a, b in zip(rows(first)[1], rows(second)[1], strict=True)]
    assert apart == [True] + [False] * (len(apart) - 1)


def test_own_texts_are_checked_and_used(
    ctx: StepContext, tmp_path: Path, release: Path, model: VisionLanguageModel
) -> None:
    texts = tmp_path / "texts.yaml"
    texts.write_text(json.dumps({"hints": {"QD": "Hint: more strokes?"}}))
    samples = samples_of(ctx, release, scenarios=["QD"], limit=1)
    found = exact(ctx, model=model, samples=samples, hint=str(texts))
    assert all("Hint: more strokes?" in t["prompt"] for t in rows(found)[1])
    texts.write_text(json.dumps({"hint": {}}))
    with pytest.raises(UsageError, match="hint"):
        exact(ctx, model=model, samples=samples, hint=str(texts))
