"""The environment on random records: conservation, verdicts, what is shown, and that nothing is changed."""

import copy
import pickle
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.nodes.proactive.env import (
    Option,
    Outcome,
    ProactiveEnv,
    Rewards,
    State,
    make_env,
    option_kind,
    shown_options,
)
from runner.nodes.proactive.records import SCENARIOS, Record, is_abstention
from runner.nodes.proactive.rendering import option_line
from tests.nodes.proactive.material import NAMES, QUALITY, record, records

MODES = st.sampled_from(["native", "foreign"])


def walk(env: ProactiveEnv, chance: random.Random, ask: float = 0.8) -> list[tuple[State, int, Outcome]]:
    """An episode of random indices, mostly valid requests."""
    state, done = env.initial(), []
    while True:
        shown = env.shown(state)
        asks = [i for i, option in enumerate(shown) if option.kind == "ask" and option.valid]
        index = chance.choice(asks) if asks and chance.random() < ask else chance.randrange(len(shown))
        outcome = env.advance(state, index)
        done.append((state, index, outcome))
        if outcome.next_state is None:
            return done
        state = outcome.next_state


@given(records(), MODES, st.randoms(use_true_random=False))
def test_turns_are_executed_actions_and_one(one: Record, options: str, chance: random.Random) -> None:
    env = make_env(one, options=options, seed=chance.randrange(9))  # type: ignore[arg-type]
    before = copy.deepcopy(one)
    episode = walk(env, chance)
    outcomes = [outcome for _, _, outcome in episode]
    assert [o.action is not None for o in outcomes] == [True] * (len(outcomes) - 1) + [False]
    assert len(outcomes) <= env.max_turns and outcomes[-1].terminated != outcomes[-1].truncated
    assert [state.turn for state, _, _ in episode] == list(range(len(episode)))
    state, index, last = episode[-1]
    if last.success:
        assert env.shown(state)[index].text == one.answer
        assert one.scenario != "ROD" or len(outcomes) >= 2
    if last.success and one.scenario in ("QD", "IN-C", "MVP-N"):
        k, n, frame = len(outcomes) - 1, one.num_images, env.frame(state)
        assert frame.index == {"QD": k, "IN-C": n - k}.get(
            one.scenario, one.valid_images[k] if one.valid_images else -1
        )
    assert last.truncated == (last.stop_reason == "exhausted") == (last.action_verdict == "correct")
    assert one == before


@given(records(), MODES, st.integers(0, 3))
def test_an_environment_is_a_pure_function_of_record_and_seed(one: Record, options: str, seed: int) -> None:
    env = make_env(one, options=options, seed=seed)  # type: ignore[arg-type]
    twin = pickle.loads(pickle.dumps(env))
    first, second = walk(env, random.Random(seed)), walk(twin, random.Random(seed))
    assert first == second and twin.record == one
    for state, _, _ in first:
        assert env.shown(state) == make_env(one, options=options, seed=seed).shown(state)  # type: ignore[arg-type]


@given(records(), st.randoms(use_true_random=False))
def test_stepping_is_advancing_and_can_be_cloned_and_restored(one: Record, chance: random.Random) -> None:
    env = make_env(one)
    seen, info = env.reset()
    assert seen == env.observation(env.initial()) and len(info["option_kinds"]) == len(seen.options)
    for state, index, outcome in walk(env, chance):
        clone, kept = env.clone(), env.state_dict()
        results = []
        for other in (env, clone):
            results.append(other.step(index))
        assert results[0] == results[1]
        after, reward, terminated, truncated, info = results[0]
        assert (terminated, truncated, info["action"]) == (outcome.terminated, outcome.truncated, outcome.action)
        assert reward == float(outcome.success) and (after is None) == (outcome.next_state is None)
        env.load_state_dict(kept)
        assert env.step(index) == results[0] and info["frame_from"] == env.frame(state)
    assert env.state_dict() == {}
    with pytest.raises(UsageError, match="is over"):
        env.step(0)


@given(records(), st.randoms(use_true_random=False))
def test_order_of_categories_changes_nothing_for_answers_in_words(one: Record, chance: random.Random) -> None:
    shuffled = replace(one, categories=tuple(chance.sample(one.categories, 4)))
    env, other = make_env(one), make_env(shuffled)
    state = env.initial()
    for _ in range(env.max_turns):
        for option in env.shown(state):
            a, b = env.advance(state, option.text), other.advance(state, option.text)
            assert (a.stop_reason, a.next_state, a.action_verdict, a.category_verdict) == (
                b.stop_reason, b.next_state, b.action_verdict, b.category_verdict,
            )  # fmt: skip
        asks = [o.text for o in env.shown(state) if o.valid and o.kind == "ask"]
        following = env.advance(state, asks[0]).next_state if asks else None
        if following is None:
            return
        state = following


@given(records(), MODES)
def test_strict_and_robust_agree_on_well_formed_answers(one: Record, options: str) -> None:
    strict, robust = (make_env(one, match=match, options=options) for match in ("strict", "robust"))  # type: ignore[arg-type]
    for state in robust.ask_path():
        for i, option in enumerate(robust.shown(state)):
            for answer in ("ABCDEFGHIJ"[i], option.text, option_line(i, option.text)):
                a, b, c = strict.advance(state, answer), robust.advance(state, answer), robust.advance(state, i)
                assert a.match.index == b.match.index == c.match.index == i
                assert (a.stop_reason, a.next_state) == (b.stop_reason, b.next_state) == (c.stop_reason, c.next_state)


@given(records(), MODES)
def test_requests_come_first_and_one_option_is_right(one: Record, options: str) -> None:
    env = make_env(one, options=options)  # type: ignore[arg-type]
    for state in env.ask_path():
        shown = env.shown(state)
        kinds = [option.kind == "category" for option in shown]
        assert kinds == sorted(kinds) and tuple(o.text for o in shown[-4:]) == one.categories
        right = [o.text for o in shown if option_kind(o) == "category_true"]
        assert right == ([] if one.scenario == "ROD" and state.turn == 0 else [one.answer])
        forced = env.observation(state, forced=True).options
        assert forced == one.categories and sum(o.valid for o in env.shown(state, forced=True)) == 1


@given(records())
def test_the_way_to_the_most_telling_view(one: Record) -> None:
    env = make_env(one)
    path = env.ask_path()
    places = [env.place(state) for state in path]
    assert places == sorted(places) and len(path) <= env.max_turns
    assert places[0] == (0.0 if env.dynamics.remaining(path[0]) else 1.0)
    for here, there in pairwise(path):
        asks = [i for i, o in enumerate(env.shown(here)) if o.valid and o.kind == "ask"]
        assert there in [env.advance(here, i).next_state for i in asks]
    if one.scenario not in ("ROD", "VSOD"):  # on a ring the turns may not reach
        assert places[-1] == 1.0


@given(records())
def test_reference_mode_shows_categories_on_the_telling_view_for_one_turn(one: Record) -> None:
    env = make_env(one, mode="reference")
    seen = env.observation(env.initial())
    assert seen.options == one.categories and env.max_turns == 1 and seen.frame.crop is None
    right = env.advance(env.initial(), one.answer)
    assert right.success and right.next_state is None
    assert (seen.question == one.prompt) == (one.scenario != "ROD")
    assert make_env(one).observation(env.initial()).question == one.prompt


@given(records())
def test_open_answers_see_no_options_and_are_judged_by_index(one: Record) -> None:
    env, plain = make_env(one, mode="oeg", hint=True), make_env(one)
    state = env.initial()
    assert env.observation(state).options == () and env.observation(state).hint == env.texts.open_hint
    assert env.shown(state) == plain.shown(state) and env.advance(state, 0) == plain.advance(state, 0)


@given(records(), st.integers(0, 5))
def test_foreign_requests_belong_elsewhere_and_still_lead_on(one: Record, seed: int) -> None:
    env, native = make_env(one, options="foreign", seed=seed), make_env(one)
    state = env.initial()
    own = {option for option in one.options if not is_abstention(option)}
    for option in env.shown(state):
        if option.kind == "ask":
            helps = one.quality_answer is None or option.text not in own
            assert option.action is None or option.text in own
            assert (option.text in own) != helps and option.valid == (helps and bool(env.dynamics.possible(state)))
    asks = [i for i, o in enumerate(env.shown(state)) if o.valid and o.kind == "ask"]
    if asks and env.max_turns > 1:
        outcome = env.advance(state, asks[0])
        reached = [native.dynamics.move(state, a) for a in native.dynamics.possible(state)]
        assert outcome.next_state in reached and outcome.action in native.dynamics.possible(state)


@given(records(), st.integers(0, 5))
def test_foreign_requests_change_no_frame_on_the_way(one: Record, seed: int) -> None:
    assert make_env(one, options="foreign", seed=seed).ask_path() == make_env(one).ask_path()


def test_foreign_requests_take_both_ways_by_seed_sample_and_turn() -> None:
    drawn = {
        tuple(make_env(record("VSOD", n, 9), options="foreign", seed=s).drawn_action(State(t, 4, 0, 0)) for t in range(4))
        for n in range(4) for s in range(4)
    }  # fmt: skip
    assert len(drawn) > 8


def test_rod_cannot_be_told_on_the_first_turn() -> None:
    env = make_env(record("ROD", n=14))
    first = env.advance(env.initial(), NAMES[2])
    assert (first.stop_reason, first.category_verdict) == ("wrong_category", "wrong")
    second = env.advance(env.initial(), "Move the red blocks to the left.").next_state
    assert second == State(1, 6, 0, 0, "left")
    assert env.advance(second, NAMES[2]).success


def test_the_corrupt_frame_is_replaced_by_the_one_beyond() -> None:
    env = make_env(record("ROD", n=14, image_template="ROD/natural_bluebl_greenr-banana-s{image}.png"))
    left = env.advance(env.initial(), 1).next_state
    assert left is not None and left.position == 6
    assert env.frame(left).uri.endswith("-s5.png") and env.frame(left).index == 6
    right = env.dynamics.move(State(3, 5, 0, 0, "right"), "right")
    assert env.frame(right).uri.endswith("-s7.png") and right.position == 6
    assert env.view_key(left) != env.view_key(right)
    assert env.frame(State(1, 8, 0, 0, "left")).uri.endswith("-s8.png")


def test_wrong_suggestions_abstention_and_nonsense_end_the_episode() -> None:
    env = make_env(record("IN-C"))
    state = env.initial()
    reasons = {a: env.advance(state, a).stop_reason for a in (QUALITY[0], "I cannot answer.", NAMES[0], "tree", None)}
    assert [*reasons.values()] == ["invalid_ask", "abstain", "wrong_category", "unreadable", "unreadable"]
    assert env.advance(state, QUALITY[1]).action == "next"
    with pytest.raises(IndexError, match="no option 99"):
        env.advance(state, 99)


def test_a_request_on_the_last_view_is_shown_but_helps_no_more() -> None:
    env = make_env(record("QD", n=2))
    last = env.dynamics.move(env.initial(), "next")
    assert [option_kind(o) for o in env.shown(last)][:2] == ["abstain", "ask_invalid"]
    assert env.advance(last, 1).stop_reason == "invalid_ask"


def test_rewards() -> None:
    pays = Rewards(correct=1, ask=0.5, wrong=-1, ask_at_reference=0.25, turn_cost=0.1)
    env = make_env(record("VSOD", n=6), rewards=pays)
    for state, answer, expected in [
        (env.initial(), NAMES[2], 1.0), (env.initial(), NAMES[0], -1.0), (env.initial(), None, -1.0),
        (env.initial(), "Rewind the video.", 0.4), (State(3, 0, 0, 0), "Rewind the video.", 0.15),
    ]:  # fmt: skip
        assert env.reward(state, env.advance(state, answer)) == pytest.approx(expected)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_hints_and_prefaces(scenario: str) -> None:
    one = record(scenario)
    env = make_env(one, hint=True)
    seen = env.observation(env.initial())
    assert seen.hint.startswith("Hint:") and bool(seen.preface) == (scenario in ("VSOD", "CIT"))
    assert make_env(one).observation(env.initial()).hint == ""
    assert make_env(one, hint="Own words.").observation(env.initial()).hint == "Own words."


def test_zooming_has_a_hint_of_its_own() -> None:
    hints = [
        make_env(record("COCO", direction=d), hint=True).observation(State(0, 0, 1, 1)).hint for d in ("left", "zoom")
    ]
    assert hints[0] != hints[1] and "zoom" in hints[1]


def test_shown_options_begin_at_the_first_state() -> None:
    env = make_env(record("QD"))
    assert shown_options(env) == env.shown(env.initial())
    assert isinstance(shown_options(env)[0], Option)
    with pytest.raises(UsageError, match="belongs to QD"):
        make_env(record("QD"), "ROD")
