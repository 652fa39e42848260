"""Episodes as rows: every column that has something to say says it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from results.tables import arrow_table, tables
from runner.nodes.proactive.env import make_env
from runner.nodes.proactive.episodes import Case, Episode, Turn, play
from runner.nodes.proactive.exact import Value
from runner.nodes.proactive.policies import scripted
from runner.nodes.proactive.rows import episode_rows
from tests.nodes.proactive.material import record, records

SETTINGS = {"hint": "move it", "history": True, "shots": 1, "options": "native", "match": "strict"}


def case(one, **settings):
    return Case("album", one, make_env(one, **settings), None, "test")


def rows(episodes, mode="mcqa", **told):
    found = episode_rows("model", mode, SETTINGS, episodes, **told)
    return found["pb_episodes"], found["pb_turns"]


def test_an_episode_by_hand():
    """A drawing of three strokes: a request, then a wrong category, spoken as a line of the list."""
    one = case(record("QD", 3, 3))
    answers = iter(["Add more details to the drawing.", "c"])
    (episode,), turns = rows(play([one], lambda batch: [next(answers)]))
    assert {k: episode[k] for k in ("episode_id", "mode", "hint", "history", "shots", "options_mode", "match")} == {
        "episode_id": "QD/3", "mode": "mcqa", "hint": True, "history": True, "shots": 1, "options_mode": "native", "match": "strict",
    }  # fmt: skip
    assert {k: episode[k] for k in ("turns", "interventions", "success", "p_success", "p_exhausted", "stop_reason", "first_turn_correct", "status")} == {
        "turns": 2.0, "interventions": 1.0, "success": False, "p_success": 0.0, "p_exhausted": 0.0, "stop_reason": "wrong_category",
        "first_turn_correct": False, "status": "ok",
    }  # fmt: skip
    assert [(t["turn"], t["frame"], t["place"], t["action"], t["next_frame"], t["matched_kind"]) for t in turns] == [
        (1, 0, 0.0, "next", 1, "ask_valid"), (2, 1, 0.5, None, None, "category_false"),
    ]  # fmt: skip
    assert (turns[0]["match_kind"], turns[1]["match_kind"], turns[1]["matched_index"], turns[1]["answer"]) == ("text", "letter", 2, "c")  # fmt: skip
    assert [t["uri"] for t in turns] == ["QD/3/0000.png", "QD/3/0001.png"]


def test_the_right_category_is_seen_where_it_does_not_count_yet():
    (episode,), _ = rows(play([case(record("ROD", 1, 5))], scripted("always_true")))
    assert (episode["success"], episode["stop_reason"], episode["first_turn_correct"]) == (False, "wrong_category", True)  # fmt: skip


def test_failures_keep_their_turns_and_have_no_numbers():
    one = case(record("COCO", 1, 3))
    env = one.env
    state = env.initial()
    first = Turn(state, env.frame(state), env.shown(state), None, None, prompt="What?")
    (episode,), (turn,) = rows([Episode(one, 0, (first,), None, False, "error", failure="it broke")])
    assert (episode["status"], episode["failure"], episode["stop_reason"]) == ("error", "it broke", "error")
    assert [episode.get(k) for k in ("turns", "interventions", "success", "p_success", "p_exhausted", "first_turn_correct")] == [None] * 6  # fmt: skip
    assert (turn["prompt"], turn["crop"], turn.get("match_kind")) == ("What?", [90.0, 100.0, 150.0, 150.0], None)


def test_expected_values_take_the_place_of_what_happened():
    value = Value(0.25, 0.5, 0.125, 0.2, 1.5)
    (episode,), _ = rows([Episode(case(record("QD")), 0, (), None, False, "ok", expected=value)], "exact")
    assert [episode[k] for k in ("p_success", "interventions", "p_exhausted", "turns")] == [0.25, 0.5, 0.125, 1.5]
    assert (episode.get("success"), episode["stop_reason"]) == (None, None)


def test_frames_count_what_was_asked_freely_and_meet_no_request():
    one = case(record("QD", 1, 3))
    env = one.env
    asked = [
        Turn(s, env.frame(s), env.shown(s, forced=forced), None, env.advance(s, 0), forced=forced)
        for s in env.ask_path()
        for forced in (False, True)
    ]
    (episode,), turns = rows([Episode(one, 0, tuple(asked), None, False, "ok")], "frames")
    assert (episode["turns"], episode["interventions"], episode["p_exhausted"]) == (3.0, None, None)
    assert [(t["turn"], t["forced"]) for t in turns] == [(1, False), (1, True), (2, False), (2, True), (3, False), (3, True)]  # fmt: skip


def test_draws_are_told_apart_where_there_are_several():
    one = case(record("QD"))
    assert [e["episode_id"] for e in rows(play([one], scripted("abstain"), draws=2))[0]] == ["QD/1/0", "QD/1/1"]
    assert rows(play([one], scripted("abstain")), several=True)[0][0]["episode_id"] == "QD/1/0"


@settings(max_examples=25)
@given(records(), st.integers(0, 99), st.sampled_from(["robust", "strict"]))
def test_rows_of_any_episode_fit_their_tables_and_add_up(one, seed, match):
    episodes = play([case(one, match=match)], scripted("uniform", seed=seed), draws=2, seed=seed)
    told, turns = rows(episodes)
    arrow_table("pb_episodes", told)
    arrow_table("pb_turns", turns)
    for row in told:
        own = [t for t in turns if t["episode_id"] == row["episode_id"]]
        assert row["turns"] == len(own) == row["interventions"] + 1 == sum(t["action"] is not None for t in own) + 1
        assert [t["next_frame"] for t in own[:-1]] == [t["frame"] for t in own[1:]]
        assert row["p_exhausted"] == (len(own) == make_env(one).max_turns)
        assert row["success"] == (own[-1]["matched_kind"] == "category_true")


def test_every_column_of_both_tables_is_known_to_the_rows():
    (episode,), (turn, *_) = rows(play([case(record("QD"))], scripted("oracle")))
    for name, row in (("pb_episodes", episode), ("pb_turns", turn)):
        assert {c.name for c in tables()[name].own_columns} == set(row)
