"""A person in an episode: asked turn by turn, remembered between, judged like any model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from proactive_server import make_samples, playing

from agents.proactive_play_steps import play
from runner.errors import StepError

sys.path.append(str(Path(__file__).parents[1] / "nodes/proactive"))
from material import record


class Outer(TypedDict):
    told: object


async def sitting(ctx, person, most=60, **given):
    """Run the step as a node of a run with a saver; ``person`` answers each question. Gives the artifact and the questions."""

    async def node(state: Outer) -> Outer:
        found.append(await play(ctx, **given))
        return {"told": True}

    found, questions = [], []
    builder = StateGraph(Outer)
    builder.add_node("played", node)
    builder.add_edge(START, "played")
    graph = builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    result = await graph.ainvoke({"told": False}, config)
    while "__interrupt__" in result:
        questions.append(result["__interrupt__"][0].value)
        assert len(questions) < most
        result = await graph.ainvoke(Command(resume=person(questions[-1])), config)
    return found[-1], questions


def chooses(text):
    """A person who picks the option that holds ``text``, if there is one, else the first."""

    def person(question):
        keys = [choice["key"] for choice in question["choices"] if text in choice["text"]]
        return keys[0] if keys else question["choices"][0]["key"]

    return person


async def test_a_person_moves_the_blocks_and_then_knows(ctx, tmp_path):
    one = record("ROD", 1, n=6)
    samples = make_samples(tmp_path / "frames", [one])
    ask = next(text for text in one.options if "left" in text)

    def person(question):
        return chooses(ask if question["turn"] < 3 else one.answer)(question)

    told, questions = await sitting(ctx, person, samples=samples)
    row = told.episodes.to_pylist()[0]
    assert (row["mode"], row["turns"], row["interventions"], row["success"], row["status"]) == (
        "person",
        3,
        2,
        True,
        "ok",
    )
    assert [turn["answer"] for turn in told.turns.to_pylist()] == [ask, ask, one.answer]
    assert [len(q["said"]) for q in questions] == [0, 1, 2] and all(Path(q["picture"]).is_file() for q in questions)
    assert len({Path(q["picture"]).read_bytes() for q in questions}) == 3  # each turn shows another frame
    assert all(turn["thumbnail"] for turn in told.turns.to_pylist())
    assert told.model["kind"] == "person" and told.judgements.num_rows == 0


async def test_what_names_nothing_is_asked_again_and_costs_nothing(ctx, tmp_path):
    one = record("QD", 2, n=5)
    samples = make_samples(tmp_path / "frames", [one])
    answers = iter(["", "of course", "Z", one.answer.rstrip(".").upper()])
    told, questions = await sitting(ctx, lambda _: next(answers), samples=samples)
    assert [bool(q["problem"]) for q in questions] == [False, True, True, True]
    assert told.episodes.to_pylist()[0]["turns"] == 1 and told.episodes.to_pylist()[0]["success"]


async def test_several_episodes_and_how_the_one_before_ended(ctx, tmp_path):
    some = [record("QD", number, n=4) for number in (1, 2)]
    samples = make_samples(tmp_path / "frames", some)
    told, questions = await sitting(ctx, lambda q: chooses(q["choices"][-1]["text"])(q), samples=samples, limit=2)
    assert [q["episode"] for q in questions] == [1, 2] and questions[0]["last"] is None
    episodes = told.episodes.to_pylist()
    assert questions[1]["last"]["success"] == episodes[0]["success"]
    assert [row["success"] for row in episodes] == [one.categories[-1] == one.answer for one in some]


async def test_a_person_helps_a_model_that_asks(ctx, tmp_path):
    one = record("COCO", 1, n=5)
    samples = make_samples(tmp_path / "frames", [one])
    with playing(tmp_path, lambda seen: "Could you move the camera?") as (llm, player, _):
        told, questions = await sitting(
            ctx, lambda q: "1" if q["turn"] == 1 else "r", samples=samples, role="user", model=llm, label="asker"
        )
    assert [q["answer"] for q in questions] == ["Could you move the camera?"] * 2
    assert questions[0]["choices"][-1]["key"] == "N" and one.answer in questions[0]["choices"][-2]["text"]
    row = told.episodes.to_pylist()[0]
    assert (row["model"], row["mode"], row["success"], row["turns"], row["match"]) == (
        "asker",
        "oeg_multiturn",
        True,
        2,
        "judge",
    )
    bits = [(j["ps"], j["cc"], j["judge"]) for j in told.judgements.to_pylist()]
    assert bits == [(True, False, "person"), (False, True, "person")]
    assert len(player.bodies) == 2 and not any(option in player.looks[0].text for option in one.options)


async def test_a_person_who_reads_nothing_in_an_answer_ends_the_episode(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("COCO", 1, n=5)])
    with playing(tmp_path, lambda seen: "Nice weather.") as (llm, _, _):
        told, _ = await sitting(ctx, lambda q: "N", samples=samples, role="user", model=llm)
    row = told.episodes.to_pylist()[0]
    assert (row["success"], row["turns"], row["stop_reason"]) == (False, 1, "unreadable")


async def test_roles_that_do_not_fit_are_refused(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("QD", 1)])
    with pytest.raises(StepError, match="needs a model"):
        await play(ctx, samples=samples, role="user")
