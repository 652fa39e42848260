"""A person approves or edits the proposals, also from another process."""

import json
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from agents.steps import propose

REPLY = json.dumps({"biases": [
    {"bias attribute": "lighting", "bias classes": ["dark", "bright"]},
    {"bias attribute": "pose", "bias classes": ["sitting", "running"]},
]})  # fmt: skip


class Outer(TypedDict):
    rows: list[Any]


async def run(scripted, ctx, folder, answers):
    """Each answer in a fresh graph over the same checkpoint file; returns the questions, the rows and the model."""
    llm = scripted(lambda request, data: REPLY)

    async def step(state):
        done = await propose(
            ctx,
            llm=llm,
            task="Tell which animal it is.",
            classes=["cat", "dog"],
            targets=["cat"],
            max_attributes=2,
            review=True,
        )
        return {"rows": done.attributes.to_pylist()}

    questions, config, command = [], {"configurable": {"thread_id": "run"}}, {"rows": []}
    for answer in [*answers, None]:
        async with AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
            builder = StateGraph(Outer)
            builder.add_node("biases", step)
            builder.add_edge(START, "biases")
            builder.add_edge("biases", END)
            graph = builder.compile(checkpointer=saver)
            state = await graph.ainvoke(command, config, durability="sync")
            if "__interrupt__" not in state:
                return questions, state["rows"], llm
            questions.append(state["__interrupt__"][0].value)
        command = Command(resume=answer)
    raise AssertionError("the graph still waits")


async def test_approval_keeps_the_proposals(scripted, ctx, tmp_path):
    questions, rows, llm = await run(scripted, ctx, tmp_path, ["approve"])
    assert questions[0]["kind"] == "c2b.review"
    assert [r["attribute"] for r in questions[0]["attributes"]] == ["lighting", "pose"]
    assert {r["status"] for r in rows} == {"kept"}
    assert len(llm.requests) == 1


async def test_edits_replace_what_was_kept(scripted, ctx, tmp_path):
    edited = {"attributes": [
        {"target": "cat", "attribute": "lighting", "values": ["dark", "bright"]},
        {"target": "cat", "attribute": "age", "values": ["kitten", "old"]},
    ]}  # fmt: skip
    _, rows, _ = await run(scripted, ctx, tmp_path, [edited])
    assert [(r["attribute"], r["source"], r["status"], r["drop_reason"]) for r in rows] == [
        ("lighting", "llm", "kept", None),
        ("pose", "llm", "dropped", "removed in review"),
        ("age", "review", "kept", None),
    ]


async def test_an_answer_that_cannot_be_used_is_asked_for_again(scripted, ctx, tmp_path):
    answers = [
        {"attributs": []},
        {"attributes": [{"target": "cow", "attribute": "age", "values": ["young", "old"]}]},
        {"attributes": [{"target": "cat", "attribute": "kind", "values": ["big cat", "old"]}]},
        True,
    ]
    questions, rows, llm = await run(scripted, ctx, tmp_path, answers)
    problems = [q["problem"] for q in questions]
    assert problems[0] is None
    assert "list of attributes" in problems[1] and "'cow' is not an audited class" in problems[2]
    assert "names the target" in problems[3]
    assert {r["status"] for r in rows} == {"kept"} and len(llm.requests) == 1
