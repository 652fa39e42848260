"""The templates as golden files: changing one is a decision. Rewrite them with UPDATE_GOLDEN=1."""

import os
from pathlib import Path

import pytest

from agents.circle_prompts import Prompts, Shown, template_names
from runner.models.base import ImagePart
from runner.models.contrastive.reading import read_question

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
PICTURES = [ImagePart(bytes([i])) for i in range(3)]
EXAMPLES = [Shown(PICTURES[0], "bird, owl"), Shown(PICTURES[1], "bird")]


@pytest.mark.parametrize("name", template_names())
def test_a_template_reads_as_it_did(name):
    text, file = Prompts().text(name, 15) + "\n", GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_parts_stand_in_the_published_order():
    prompts = Prompts()
    (message,) = prompts.refine(EXAMPLES, Shown(PICTURES[2], "thing"))
    text = {name: prompts.text(name, 2) for name in template_names()}
    assert message.content == (
        text["circle_refine"], PICTURES[0], "current labels: bird, owl", PICTURES[1], "current labels: bird",
        text["circle_target"], PICTURES[2], "current labels: thing", text["circle_refine_task"],
    )  # fmt: skip
    (message,) = prompts.query(EXAMPLES, PICTURES[2])
    assert message.content == (
        text["circle_query"], PICTURES[0], "label: bird, owl", PICTURES[1], "label: bird", text["circle_target"],
        PICTURES[2], text["circle_query_task"],
    )  # fmt: skip
    (message,) = prompts.refine([], Shown(PICTURES[2], "thing"))
    assert message.content == (
        text["circle_refine_alone"], PICTURES[2], "current labels: thing", text["circle_refine_alone_task"],
    )  # fmt: skip


def test_a_model_that_reads_structure_finds_examples_and_target_and_no_classes():
    """What the provider ``contrastive`` makes of the messages."""
    prompts = Prompts()
    refine = read_question(prompts.refine(EXAMPLES, Shown(PICTURES[2], "thing, animal")))
    query = read_question(prompts.query(EXAMPLES, PICTURES[2]))
    for question, own in ((refine, ("thing", "animal")), (query, ())):
        assert [(e.picture, e.labels) for e in question.examples] == [
            (PICTURES[0], ("bird", "owl")), (PICTURES[1], ("bird",))
        ]  # fmt: skip
        assert (question.target, question.own, question.classes) == (PICTURES[2], own, ())
    alone = read_question(prompts.refine([], Shown(PICTURES[2], "thing")))
    assert (alone.target, alone.own, alone.examples, alone.classes) == (PICTURES[2], ("thing",), (), ())
    assert read_question(prompts.pseudo(PICTURES[2])).classes == ()
