"""Rings, paths, windows and growing crops, each by what is true of it whatever the code does."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runner.nodes.proactive.dynamics import State, dynamics_of
from runner.nodes.proactive.env import make_env, option_kind
from runner.nodes.proactive.records import Record
from tests.nodes.proactive.material import record, records, sides


@given(st.sampled_from(["ROD", "VSOD"]).flatmap(records))
def test_rings_close_and_ways_undo_each_other(one: Record) -> None:
    ring = dynamics_of(one)
    for ways in (ring.possible(ring.start()), ring.possible(ring.start())[::-1]):
        state = ring.start()
        for _ in range(one.num_images):
            state = ring.move(state, ways[0])
        assert state.position == one.first_image
        assert ring.move(ring.move(state, ways[0]), ways[1]).position == one.first_image


@given(st.sampled_from(["ROD", "VSOD"]).flatmap(records))
def test_asking_on_a_ring_ends_when_the_turns_do(one: Record) -> None:
    env = make_env(one)
    ask = next(i for i, option in enumerate(env.shown(env.initial())) if option.kind == "ask")
    state, turns = env.initial(), 0
    while True:
        outcome = env.advance(state, ask)
        turns += 1
        if outcome.next_state is None:
            break
        state = outcome.next_state
    assert (outcome.stop_reason, turns, outcome.truncated) == ("exhausted", one.num_images, True)


@given(st.sampled_from(["QD", "IN-C", "MVP-N"]).flatmap(records))
def test_paths_show_every_view_once(one: Record) -> None:
    path = dynamics_of(one)
    state, uris = path.start(), []
    while True:
        uris.append(path.frame(state).uri)
        assert path.remaining(state) == one.num_images - len(uris)
        if not path.possible(state):
            break
        state = path.move(state, "next")
    assert len(set(uris)) == len(uris) == one.num_images == path.max_turns


@given(records("CIT"))
def test_windows_stay_inside_the_video(one: Record) -> None:
    env = make_env(one)
    assert env.max_turns == one.max_steps
    for position in range(one.first_image % (one.step_size or 1), one.num_images, one.step_size or 1):
        state = State(1, position, 0, 0)
        inside = {
            "rewind": position - (one.step_size or 1) >= 0, "wait": position + (one.step_size or 1) < one.num_images,
        }  # fmt: skip
        offered = {o.action for o in env.shown(state) if o.kind == "ask"}
        assert offered == {action for action, possible in inside.items() if possible}
        for action in offered:
            assert 0 <= env.dynamics.move(state, str(action)).position < one.num_images


def test_a_video_of_one_window_offers_nothing() -> None:
    env = make_env(record("CIT", n=1))
    assert {option_kind(o) for o in env.shown(env.initial())} == {"abstain", "category_true", "category_false"}
    assert len(make_env(record("CIT", n=1), options="foreign").shown(env.initial())) == 7


def test_the_way_through_a_video_ends_next_to_the_reference() -> None:
    positions = [
        s.position for s in make_env(record("CIT", n=20, step_size=3, max_steps=20, reference_image=10)).ask_path()
    ]
    assert positions == [0, 3, 6, 9]
    assert [
        s.position for s in make_env(record("CIT", n=20, step_size=3, max_steps=3, reference_image=10)).ask_path()
    ] == [0, 3, 6]


@given(records("COCO"), st.randoms(use_true_random=False))
def test_crops_are_nested_and_end_as_far_out_as_they_should(one: Record, chance: object) -> None:
    env = make_env(one)
    g, crop = one.granularity or 1, one.crop
    assert crop is not None
    state, boxes = env.initial(), []
    while True:
        frame = env.frame(state)
        assert frame.crop is not None and frame.index == len(boxes)
        boxes.append(frame.crop)
        asks = [i for i, o in enumerate(env.shown(state)) if o.kind == "ask"]
        assert all(env.shown(state)[i].valid for i in asks)
        following = env.advance(state, chance.choice(asks)).next_state if asks else None  # type: ignore[attr-defined]
        if following is None:
            break
        state = following
    for inner, outer in pairwise(boxes):
        assert outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]
    steps = g if sides(one) else g + 1
    assert len(boxes) == {0: g + 1, 1: g, 2: 2 * g - 1}[len(sides(one))] and not asks
    h, v = Fraction(one.horizontal_step) * steps, Fraction(one.vertical_step) * steps
    right, bottom = (crop.width, crop.height) if sides(one) else (crop.left + crop.width, crop.top + crop.height)
    grows = sides(one) or ("left", "up", "right", "down")
    expected = (crop.left - h * ("left" in grows), crop.top - v * ("up" in grows), right + h * ("right" in grows), bottom + v * ("down" in grows))  # fmt: skip
    assert boxes[-1] == pytest.approx([float(x) for x in expected], rel=1e-12)


def test_steps_that_floats_cannot_add_up_still_end() -> None:
    one = record("COCO", n=3, direction="zoom", horizontal_step=0.1, vertical_step=0.7)
    env = make_env(one)
    state = env.initial()
    for _ in range(3):
        state = env.dynamics.move(state, "farther")
    assert not env.dynamics.possible(state) and env.dynamics.remaining(state) == 0


def test_the_first_view_has_one_step_and_only_the_sides_of_the_direction_grow() -> None:
    one = record("COCO", n=3, direction="up_left", horizontal_step=10, vertical_step=20)
    dynamics = dynamics_of(one)
    assert dynamics.frame(dynamics.start()).crop == (90, 80, 150, 150)
    assert dynamics.frame(dynamics.move(dynamics.start(), "up")).crop == (90, 60, 150, 150)
    zoom = dynamics_of(record("COCO", n=3, direction="zoom"))
    assert zoom.frame(zoom.start()).crop == (90, 90, 260, 260)


@given(records(), st.data())
def test_remaining_is_the_shortest_number_of_requests(one: Record, data: st.DataObject) -> None:
    """Against a search in all directions, on the views from which the target is known to be reachable."""
    dynamics = dynamics_of(one)
    state = dynamics.start()
    for _ in range(data.draw(st.integers(0, 4))):
        possible = dynamics.possible(state)
        if not possible:
            break
        state = dynamics.move(state, data.draw(st.sampled_from(possible)))
    target, fringe, seen = dynamics.remaining(state), [state], {state[1:4]}
    assume(target <= 20)
    steps = 0
    while not any(dynamics.remaining(found) == 0 for found in fringe):
        steps += 1
        ahead = [dynamics.move(found, action) for found in fringe for action in dynamics.possible(found)]
        fringe = [found for found in {f[1:4]: f for f in ahead}.values() if found[1:4] not in seen]
        seen |= {found[1:4] for found in fringe}
    assert steps == target
