"""Prompts of asking, judging and choosing as golden files: changing one is a decision. Rewrite them with UPDATE_GOLDEN=1."""

import os
from importlib import resources
from pathlib import Path

import pytest

from agents.judge_games import GameJudge, Triple
from agents.judge_taxonomy import Taxonomist
from agents.judging import Judge, Pair
from agents.multiple_choice import Choosing
from agents.openworld_prompts import PromptKey, question
from agents.prompting import render
from runner.context import local_context
from runner.models.base import ImagePart

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
PICTURE = ImagePart(b"")
NAMES = {"d": ["beagle", "pug"]}


def shown(messages):
    """Messages as text; a picture is a word."""
    texts = []
    for message in messages:
        parts = (message.content,) if isinstance(message.content, str) else message.content
        content = "\n".join(part if isinstance(part, str) else "(picture)" for part in parts)
        texts.append(f"--- {message.role}\n{content}")
    return "\n\n".join(texts) + "\n"


def rounds(key, **settings):
    return lambda ctx: "\n\n".join(question(key, domain_noun="pet", **settings).rounds) + "\n"


def choosing(**settings):
    asked = Choosing(NAMES, {}, "m", **settings)
    return lambda ctx: shown(asked.messages("d", [(PICTURE, "pug")], PICTURE))


PAIR = Pair("beagle", 'a "dog"\nor so')
CASES = {
    **{f"owc_{key}": rounds(key) for key in PromptKey.__args__},
    "owc_llava_cot_official": rounds("llava_cot", compat="official"),
    "owc_judge": lambda ctx: shown(Judge(None, ctx).request(PAIR).messages),
    "owc_judge_published": lambda ctx: shown(Judge(None, ctx, slot_order="published").request(PAIR).messages),
    "owc_judge_again": lambda ctx: render("owc_judge_again") + "\n",
    "owc_taxonomy": lambda ctx: shown(Taxonomist(None, ctx).request([PAIR]).messages),
    "owc_taxonomy_batch": lambda ctx: shown(Taxonomist(None, ctx, 2).request([PAIR, Pair("pug", "a cat")]).messages),
    "owc_game": lambda ctx: shown(GameJudge(None, ctx).request(Triple("a dog", "a cat", "pug")).messages),
    "choice_query": choosing(),
    "choice_begin": choosing(list_position="begin"),
}


@pytest.mark.parametrize("name", CASES)
def test_prompt_is_the_golden_one(name, tmp_path):
    text = CASES[name](local_context(tmp_path))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, "utf8")
    assert text == path.read_text("utf8")


def test_every_template_is_held_by_a_golden_file():
    folder = resources.files("agents").joinpath("prompts")
    names = {p.name.removesuffix(".jinja") for p in folder.iterdir() if p.name.endswith(".jinja")}
    mine = {name for name in names if name.startswith(("owc_", "choice_"))}
    assert mine <= set(CASES) | {"choice_question", "choice_list", "choice_cue"}


def test_templates_do_not_read_what_strangers_wrote_as_a_template(tmp_path):
    hostile = "{{ 7 * 7 }}{% raw %}"
    ctx = local_context(tmp_path)
    texts = [
        shown(Judge(None, ctx).request(Pair(hostile, hostile)).messages),
        shown(Taxonomist(None, ctx).request([Pair(hostile, hostile)]).messages),
        shown(GameJudge(None, ctx).request(Triple(hostile, "b", hostile)).messages),
        shown(Choosing({"d": [hostile]}, {}, "m").messages("d", [(PICTURE, hostile)], PICTURE)),
        question("fine_grained", domain_noun=hostile).rounds[0],
    ]
    assert all(hostile in text and "49" not in text for text in texts)
