"""Scripted policies and playing side by side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.nodes.proactive.env import Option, State, make_env
from runner.nodes.proactive.episodes import Case, Episode, VectorProactiveEnv, play
from runner.nodes.proactive.policies import exact_episodes, scripted
from runner.nodes.proactive.records import SCENARIOS, Record
from tests.nodes.proactive.material import ABSTAIN, NAMES, record, records


def cases(*some: Record, **settings: object) -> list[Case]:
    return [Case("s", one, make_env(one, **settings), None, "test") for one in some]  # type: ignore[arg-type]


def summary(episode: Episode) -> tuple[bool, int, str | None]:
    return episode.success, len(episode.turns), episode.stop_reason


@given(records(), st.sampled_from(["native", "foreign"]))
def test_the_oracle_succeeds_wherever_that_can_be(one: Record, options: str) -> None:
    (episode,) = play(cases(one, options=options), scripted("oracle"))
    env = episode.case.env
    possible = one.scenario != "ROD" or (env.max_turns > 1 and env.dynamics.remaining(env.initial()) > 0)
    assert episode.success == possible
    if options == "native":
        assert len(episode.turns) == len(env.ask_path())


@given(records(), st.integers(0, 6))
def test_at_most_k_requests_then_the_truth(one: Record, k: int) -> None:
    (limited,), (free,) = (play(cases(one), scripted("oracle", k=limit)) for limit in (k, None))
    assert len(limited.turns) == min(len(free.turns), k + 1)


def test_baselines_by_hand() -> None:
    some = cases(*(record(scenario, n=4) for scenario in SCENARIOS))
    told = {name: [summary(e) for e in play(some, scripted(name))] for name in ("always_ask", "always_true", "abstain")}  # type: ignore[arg-type]
    assert [turns for _, turns, _ in told["always_ask"]] == [4] * 7
    # Rings run out of turns; a path ends with a request that helps no more; at the end of the video one can still rewind;
    # a crop that is all grown offers nothing.
    assert [reason for _, _, reason in told["always_ask"]] == [
        "exhausted", "exhausted", "invalid_ask", "invalid_ask", "invalid_ask", "exhausted", "abstain",
    ]  # fmt: skip
    assert [success for success, _, _ in told["always_true"]] == [False] + [True] * 6
    assert set(told["abstain"]) == {(False, 1, "abstain")}


def test_k_requests_are_made_where_they_can_be() -> None:
    asked = [play(cases(record("QD", n=4)), scripted("ask_k", k=k))[0] for k in range(6)]
    assert [len(e.turns) for e in asked] == [1, 2, 3, 4, 4, 4] and all(e.success for e in asked)
    (ring,) = play(cases(record("VSOD", n=4)), scripted("ask_k", k=9))
    assert summary(ring) == (False, 4, "exhausted")


def test_draws_differ_and_do_not_hang_on_who_plays_beside() -> None:
    one, other = record("VSOD", 1, 9), record("QD", 2)
    alone = play(cases(one), scripted("uniform"), draws=30, seed=5)
    beside = play(cases(other, one), scripted("uniform"), draws=30, seed=5)
    assert [e.turns for e in alone] == [e.turns for e in beside if e.case.record == one]
    assert [e.draw for e in alone] == list(range(30)) and len({summary(e) for e in alone}) > 2
    assert [e.turns for e in alone] != [e.turns for e in play(cases(one), scripted("uniform"), draws=30, seed=6)]


@given(st.lists(records(), min_size=1, max_size=4), st.sampled_from(["strict", "robust", "constrained"]))
def test_what_is_said_is_understood(some: list[Record], match: str) -> None:
    silent, spoken = (
        play(cases(*some, match=match), scripted("uniform"), draws=2, spoken=said) for said in (False, True)
    )
    assert [summary(e) for e in silent] == [summary(e) for e in spoken]
    assert [[t.answer for t in e.turns] for e in silent] == [[t.answer for t in e.turns] for e in spoken]


def test_answers_in_words_are_matched_and_kept_as_they_came() -> None:
    def says(batch: list[tuple[Case, State, tuple[Option, ...]]]) -> list[str]:
        return [
            "I would say: **wait** for the occlusion to disappear!" if state.turn < 2 else "tree"
            for _, state, _ in batch
        ]

    (episode,) = play(cases(record("VSOD", n=9)), says)  # type: ignore[arg-type]
    assert summary(episode) == (False, 3, "unreadable")
    assert [t.frame.index for t in episode.turns] == [4, 5, 6] and episode.turns[2].answer == "tree"
    assert [t.place for t in episode.turns] == [0.0, 0.0, 0.25]


def test_lock_step() -> None:
    table = VectorProactiveEnv(cases(record("QD", 1), record("QD", 2)), draws=2)
    assert len(table.batch()) == 4
    table.step([1, 0, 1, 4])
    assert table.running == [0, 2] and [state.turn for _, state, _ in table.batch()] == [1, 1]
    with pytest.raises(RuntimeError, match="2 episodes still run"):
        table.episodes()
    with pytest.raises(ValueError, match="shorter"):
        table.step([0])
    table.step([None, 0])
    assert [e.stop_reason for e in table.episodes()] == ["unreadable", "abstain", "abstain", "success"]


def test_exact_rows_say_what_would_be_done_on_the_way() -> None:
    (episode,) = exact_episodes(cases(record("QD", n=3)), scripted("ask_k", k=1))
    assert episode.expected is not None and episode.expected[:3] == (1.0, 1.0, 0.0)
    assert [t.probabilities for t in episode.turns] == [(0, 1, 0, 0, 0, 0), (0, 0, 0, 0, 1, 0), (0, 0, 0, 0, 1, 0)]
    assert [t.place for t in episode.turns] == [0.0, 0.5, 1.0] and all(t.outcome is None for t in episode.turns)


def test_called_as_a_function_a_policy_answers_by_index() -> None:
    env = make_env(record("QD"))
    seat = (Case("s", env.record, env, None, "test"), env.initial(), env.shown(env.initial()))
    assert scripted("always_true")([seat]) == [2 + NAMES.index(env.record.answer)]
    assert set(scripted("uniform", seed=1)([seat] * 100)) == set(range(6))
    assert env.shown(env.initial())[0].text == ABSTAIN[0] and scripted("abstain")([seat]) == [0]


@pytest.mark.parametrize(("name", "k"), [("ask_k", None), ("uniform", 2), ("nobody", None)])
def test_wrong_policies_are_refused(name: str, k: int | None) -> None:
    with pytest.raises(UsageError):
        scripted(name, k=k)  # type: ignore[arg-type]
