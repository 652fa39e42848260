"""From a judge's scores to an edited model: the same twice, also with a judge that fails now and then."""

import sys
from pathlib import Path

import numpy as np
import pytest
from heads_material import shown_list
from openworld_material import model

from agents.head_steps import judge
from results.tables import arrow_table
from runner.artifacts import HeadConcepts
from runner.context import local_context
from runner.nodes.sith.weight_steps import EditRule, When, decompose, edit

sys.path.append(str(Path(__file__).parents[1] / "nodes" / "sith"))
from sith_clip import load_clip

HEADS, RANK = 4, 8
SETTING = {"method": "comp", "k": 2, "coherence": 0.3}


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """A model, its directions, and a list of two concepts for each: the score, and the direction's number."""
    root = tmp_path_factory.mktemp("heads")
    clip = load_clip(root / "clip")
    directions = decompose(local_context(root / "work"), clip=clip, layers=[0, 1], image_mean="zero")
    codes, concepts = [], []
    for number in range(2 * HEADS * RANK):
        place = {"layer": number // (HEADS * RANK), "head": number // RANK % HEADS, "sv": number % RANK}
        place |= {"side": "right", "sign": 1, **SETTING}
        codes.append({**place, "resid_norm": 0.5, "n_active": 2})
        for pick, text in enumerate((f"score {number % 5 + 1}", f"number {number}")):
            concepts.append({**place, "pick": pick, "atom": pick, "concept": text, "coef": 0.5 - 0.1 * pick})
    tables = arrow_table("sith_code", codes), arrow_table("sith_concept", concepts)
    return clip, directions, HeadConcepts(directions.model, {"name": "d"}, {}, *tables)


def as_the_list_says(body):
    (score, _), (number, _) = shown_list(body)
    fails = int(number.split()[1]) % 10 == 4  # those of score 5
    return "I cannot say." if fails else f"Score: {score.split()[1]}"


async def run(folder, heads, llm, **given):
    clip, directions, concepts = heads
    ctx = local_context(folder)
    scores = await judge(
        ctx, llm=llm, concepts=concepts, task="background", schema="free", retries=1, max_unscored=0.15
    )
    return scores, edit(ctx, clip=clip, directions=directions, judgements=scores, max_unscored=0.15, **given)


async def test_judging_and_editing_twice_gives_the_same_bytes(heads, tmp_path):
    found = []
    for name in ("a", "b"):  # each with a server and a cache of its own
        (tmp_path / name).mkdir()
        with model(tmp_path / name, as_the_list_says) as (llm, _):
            found.append(await run(tmp_path / name / "run", heads, llm, preset="spurious"))
    (scores, made), (again, same) = found
    assert scores.model == heads[1].model and made.edits.num_rows
    for one, other in ((scores.judgements, again.judgements), (made.edits, same.edits)):
        assert one.schema == other.schema and repr(one.to_pylist()).encode() == repr(other.to_pylist()).encode()
    assert made.summary == same.summary
    for file in sorted(path for path in made.checkpoint.iterdir() if path.is_file()):
        assert file.read_bytes() == (same.checkpoint / file.name).read_bytes()


async def test_lists_that_a_failing_judge_leaves_unscored_are_not_edited(heads, tmp_path):
    with model(tmp_path, as_the_list_says) as (llm, _):
        rules = [EditRule(when=When(score_ge=1), multiply=0)]
        scores, made = await run(tmp_path / "run", heads, llm, rules=rules)
    lost = np.array([status == "unscored" for status in scores.judgements["status"].to_pylist()])
    assert lost.nonzero()[0].tolist() == list(range(4, 64, 10)) and made.summary["unscored"] == lost.sum() == 6
    changed = {(r["layer"] * HEADS + r["head"]) * RANK + r["sv"] for r in made.edits.to_pylist()}
    assert changed == set(range(64)) - set(range(4, 64, 10)) and {r["multiplier"] for r in made.edits.to_pylist()} == {
        0
    }
