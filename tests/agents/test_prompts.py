"""Rendered prompts as golden files: changing one is a decision. Rewrite them with UPDATE_GOLDEN=1."""

import os
from pathlib import Path

import pytest

from agents.bias import ProposalAgent, ProposalPlan
from agents.bias_captions import CaptionAgent, CaptionPlan
from agents.brief import Brief

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
BRIEF = Brief("Tell which animal is in a photo.", "animal", "multi", ("tabby_cat", "dog"), ("tabby_cat", "dog"), {})
BINARY = Brief(
    "Tell what a face shows.", "attributes", "binary", ("Smiling", "No_Beard"), ("Smiling",), {"No_Beard": "shave"}
)
FIVE, ONE = ProposalPlan(max_attributes=5, max_values=4), CaptionPlan()
JUDGED = [
    {"attribute": "lighting", "values": ["dark", "bright"], "source": "llm", "kept": True, "reason": None},
    {"attribute": "breed", "values": ["a dog", "b"], "source": "llm", "kept": False, "reason": "names the target"},
]


def proposal(ctx, brief, target, *, round_=0, draw=0, plan=FIVE):
    state = {"target": target, "resample": 0, "round": round_, "proposals": [], "judged": JUDGED if round_ else []}
    return ProposalAgent(None, brief, plan, ctx)._request(state, draw)


def captions(ctx, *, template="", rejected=(), neutral=False, plan=ONE):
    agent = CaptionAgent(None, BRIEF, (), plan, ctx)
    row = {"target": "tabby_cat", "attribute": "lighting", "bias_values": ["dark", "bright"]}
    wanted = agent._neutral()[0] if neutral else agent._wanted(row)
    state = {"resample": 0, "round": 0, "template": template, "rejected": list(rejected), "wanted": wanted}
    return agent._request(state, wanted, neutral=neutral)


CASES = {
    "biases": lambda ctx: proposal(ctx, BRIEF, "tabby_cat"),
    "biases_again": lambda ctx: proposal(ctx, BRIEF, "tabby_cat", round_=1),
    "biases_second_draw": lambda ctx: proposal(ctx, BRIEF, "dog", draw=1),
    "biases_binary": lambda ctx: proposal(ctx, BINARY, "Smiling"),
    "biases_shared": lambda ctx: proposal(ctx, BRIEF, ""),
    "captions": lambda ctx: captions(ctx),
    "captions_template_again": lambda ctx: captions(
        ctx,
        template="A photo of {target}, {circumstance}",
        rejected=[{"caption": "A tree", "reason": "does not name 'cat'"}],
    ),
    "captions_wordings": lambda ctx: captions(ctx, plan=CaptionPlan(captions_per_value=2)),
    "neutral_captions": lambda ctx: captions(ctx, neutral=True),
}


@pytest.mark.parametrize("name", CASES)
def test_prompt_is_the_golden_one(name, ctx):
    request = CASES[name](ctx)
    text = "\n\n".join(f"--- {m.role}\n{m.content}" for m in request.messages) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf8")
    assert text == path.read_text("utf8")


def test_further_draws_start_with_other_hints(ctx):
    import json

    first, second = (
        json.loads(proposal(ctx, BRIEF, "dog", draw=d).messages[1].content.removeprefix("Prompt:\n"))["dimensions"]
        for d in (0, 1)
    )
    assert sorted(first) == sorted(second) and first[5:] + first[:5] == second
