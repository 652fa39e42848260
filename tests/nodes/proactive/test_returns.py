"""What answers are worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.nodes.proactive.env import ProactiveEnv, make_env
from runner.nodes.proactive.grpo_specs import GrpoSpec, RewardSpec
from runner.nodes.proactive.records import parse_record
from runner.nodes.proactive.returns import choices, episode_return, option_of, states_of, worth
from tests.nodes.proactive import grpo_toy


@pytest.fixture
def env(tmp_path: Path) -> ProactiveEnv:
    row = grpo_toy.samples(tmp_path, 1).samples.to_pylist()[0]
    return make_env(parse_record("QD", json.loads(row["record"])))


def by_text(env: ProactiveEnv, spec: RewardSpec, turn: int) -> dict[str, float]:
    state = env.ask_path()[turn]
    shown = env.shown(state)
    return {option.text: worth(env, state, shown, i, spec).reward for i, option in enumerate(shown)}


def test_rewards_of_both_frames(env: ProactiveEnv) -> None:
    spec = RewardSpec(correct=2.0, ask=0.75, wrong=-0.1)
    for turn in (0, 1):
        found = by_text(env, spec, turn)
        assert found.pop(env.record.answer) == 2.0
        assert found.pop(grpo_toy.ASK) == 0.75  # at the last frame too, as on any
        assert set(found.values()) == {-0.1}
    state = env.initial()
    assert worth(env, state, env.shown(state), None, spec) == ("unreadable", -0.1)


def test_asking_may_be_worth_nothing_where_nothing_more_is_to_see(env: ProactiveEnv) -> None:
    spec = RewardSpec(ask_at_reference=0.0)
    assert by_text(env, spec, 0)[grpo_toy.ASK] == 0.5
    assert by_text(env, spec, 1)[grpo_toy.ASK] == 0.0
    assert by_text(env, RewardSpec(ask_at_reference=0.2), 1)[grpo_toy.ASK] == 0.2


def test_only_the_suggestion_that_helps_counts_at_the_best_quality() -> None:
    record = parse_record("IN-C", {
        "id": 1, "image_template": "{level}.png", "first_image": 5, "num_images": 5, "reference_image": 1, "prompt": "What?",
        "options": ["I cannot tell.", "Deblur it.", "Denoise it."], "categories": ["Cat.", "Dog."], "answer": "Cat.",
        "quality_answer": "Denoise it.",
    })  # fmt: skip
    env = make_env(record)
    for turn in (0, 4):
        found = by_text(env, RewardSpec(), turn)
        assert (found["Denoise it."], found["Deblur it."], found["Cat."]) == (0.5, 0.0, 1.0)
    found = by_text(env, RewardSpec(wrong=-0.5, ask_at_reference=0.2), 4)
    assert (found["Denoise it."], found["Deblur it."]) == (0.2, -0.5)


def test_states_that_are_asked_about(env: ProactiveEnv) -> None:
    first, last = env.ask_path()
    assert states_of(env, "all") == states_of(env, "ends") == (first, last)
    assert states_of(env, "first") == (first,)


def test_return_of_an_episode() -> None:
    assert episode_return(1.0, 4, RewardSpec(turn_cost=0.1)) == pytest.approx(0.7)
    assert episode_return(0.5, 1, RewardSpec(turn_cost=0.1)) == 0.5


def test_options_that_begin_alike_are_drawn() -> None:
    known = choices([7, 8, 7])
    assert option_of(8, known, 0) == 1
    assert option_of(9, known, 0) is None
    drawn = [option_of(7, known, 0, "step", n) for n in range(200)]
    assert drawn == [option_of(7, known, 0, "step", n) for n in range(200)]
    assert 60 < drawn.count(0) < 140
    assert set(drawn) == {0, 2}


def test_parts_of_a_step_are_not_empty() -> None:
    with pytest.raises(ValueError, match="empty parts"):
        GrpoSpec(prompts_per_step=4, accumulation=5)
