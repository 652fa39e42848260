"""A person at the terminal: which spec is played, what is shown, what is read."""

import io
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from runner.errors import UsageError
from runner.playing import PlayRequest, Terminal, fitting, play_spec, put
from runner.shown_pictures import print_picture, rows_of

SPEC = """
name: mine
profile: embedded
seed: 3
params: {samples: 4, steps: 9}
models:
  encoder: {provider: open_clip, checkpoint: asset:small-clip}
  chat: {provider: contrastive, encoder: $encoder, vocabulary: $words.index}
  other: {provider: transformers, written: $parts.checkpoint}
steps:
  parts: {uses: lvlm.assemble}
  words: {uses: classify.vocabulary, encoder: $encoder, texts: {wordnet: physical}}
  made: {uses: proactive.make, test: $params.samples}
  kept: {uses: proactive.probe, samples: $made, episodes: [$first]}
  first: {uses: proactive.scripted, samples: $made, policy: uniform}
  asked: {uses: proactive.evaluate, model: $chat, samples: $kept}
  scores: {uses: proactive.score, samples: $kept, episodes: [$asked]}
results: out/results.duckdb
"""


def played(**request):
    return yaml.safe_load(play_spec(SPEC, "spec.yaml", PlayRequest(**request)))


def test_what_makes_the_samples_is_kept_and_nothing_else():
    spec = played(episodes=2, scenarios=("ROD",), hint=True)
    assert set(spec["steps"]) == {"made", "kept", "first", "played", "played_scores"}
    assert spec["name"] == "mine-play" and spec["seed"] == 3 and spec["results"] == "out/results.duckdb"
    assert spec["params"] == {"samples": 4} and "models" not in spec
    assert spec["steps"]["played"] | {"samples": None} == {
        "uses": "proactive.play", "samples": None, "role": "model", "limit": 2, "scenarios": ["ROD"], "hint": True,
    }  # fmt: skip


def test_a_person_who_is_the_user_has_a_model_with_all_it_needs():
    spec = played(role="user")
    assert spec["steps"]["played"]["model"] == "$chat"
    assert spec["steps"]["played"]["label"] == "chat, helped by a person"
    assert set(spec["models"]) == {"chat", "encoder"} and "words" in spec["steps"] and "parts" not in spec["steps"]
    assert played(role="user", model="other")["steps"]["played"]["model"] == "$other"
    with pytest.raises(UsageError, match="no such model"):
        played(role="user", model="nobody")


def test_overrides_of_params_that_are_left_out_do_no_harm():
    text = play_spec(SPEC, "spec.yaml", PlayRequest())
    assert fitting(["samples=2", "steps=1"], text) == ["samples=2"]


def test_a_spec_with_a_played_step_is_played_as_it_is():
    text = "name: x\nsteps:\n  play: {uses: proactive.play, samples: $made}\n"
    assert play_spec(text, "x.yaml", PlayRequest()) == text


def test_a_spec_without_episodes_is_refused():
    with pytest.raises(UsageError, match="no step plays"):
        play_spec("name: x\nsteps:\n  a: {uses: lvlm.assemble}\n", "x.yaml", PlayRequest())


def question(**more):
    return {
        "kind": "proactive.turn", "role": "model", "scenario": "ROD", "sample": "3", "episode": 2, "of": 4, "turn": 1,
        "max_turns": 14, "picture": "frame.png", "text": "What is behind it?", "answer": None, "said": [], "last": None,
        "problem": None, "choices": [{"key": "A", "text": "Move it.\x1b[2J"}, {"key": "B", "text": "Dog."}], **more,
    }  # fmt: skip


def seen(asked, answer="a"):
    lines, pictures = [], []
    return put(asked, Terminal(lines.append, lambda: answer, pictures.append)), lines, pictures


def test_a_turn_shows_picture_question_and_choices():
    answer, lines, pictures = seen(question())
    assert answer == "a" and pictures == [Path("frame.png")]
    assert lines[-2:] == ["  A. Move it.\x1b[2J", "  B. Dog."] and "What is behind it?" in lines


def test_a_problem_shows_no_picture_again_and_the_end_of_the_episode_before_is_told():
    _, lines, pictures = seen(question(problem="that is none of them"))
    assert not pictures and any("none of them" in line for line in lines)
    _, lines, _ = seen(question(last={"success": False, "answer": "Dog.", "stop_reason": "wrong_category"}))
    assert lines[0] == "not right: it was Dog. (wrong_category)"


def test_who_leaves_answers_nothing():
    assert seen(question(), answer=None)[0] is None


def test_another_kind_of_question_is_not_put():
    with pytest.raises(UsageError, match="another kind"):
        seen({"kind": "c2b.review"})


def test_a_picture_is_two_pixels_a_character(tmp_path):
    image = Image.new("RGB", (8, 8), "#ff0000")
    image.paste("#0000ff", (0, 4, 8, 8))
    rows = rows_of(image, 4)
    assert len(rows) == 2 and rows[0] == [("#ff0000", "#ff0000")] * 4 and rows[1] == [("#0000ff", "#0000ff")] * 4
    image.save(tmp_path / "a.png")
    told = io.StringIO()
    print_picture(tmp_path / "a.png", Console(file=told, force_terminal=True, color_system="truecolor", width=4))
    assert told.getvalue().count("▀") == 8
