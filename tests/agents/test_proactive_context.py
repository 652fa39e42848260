"""What stands before a question: earlier turns, solved episodes of other samples; and what is refused before anything is asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from proactive_server import Look, make_samples, playing, scrambled

from agents.proactive_steps import evaluate
from runner.errors import SpecError, StepError
from runner.nodes.proactive.records import frame_uris
from runner.spec import compile_text

sys.path.append(str(Path(__file__).parents[1] / "nodes/proactive"))
from material import NAMES, record

SPEC = """
name: asked
models: {{lmm: {{provider: openai, model: scripted, base_url: "http://127.0.0.1:9/v1"}}}}
steps:
  data: {{uses: proactive.make, test: 2}}
  asked: {{uses: proactive.evaluate, model: $lmm, samples: $data, {more}}}
"""


def numbers(records):
    uris = [uri for one in records for uri in frame_uris(one)]
    return {uri: number for number, uri in enumerate(uris)}


async def test_history_shows_all_that_came_before_and_small(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("QD", 1, n=4), record("COCO", 2, n=3)])
    with playing(tmp_path, _keen) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, history=True, label="keen")
    drawn = sorted(
        (seen for seen in player.looks if "Add" in "".join(seen.options)), key=lambda seen: len(seen.pictures)
    )
    assert [seen.pictures for seen in drawn] == [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]
    assert [seen.roles for seen in drawn] == [("user", "assistant") * k + ("user",) for k in range(4)]
    assert {size for seen in drawn for size in seen.sizes} == {(299, 224)}  # of 400 x 300
    said = [message for body in player.bodies for message in body["messages"] if message["role"] == "assistant"]
    answers = {row["answer"] for row in told.turns.to_pylist()}
    assert {message["content"] for message in said} <= answers and len(said) == 3 + 2 + 1 + 2 + 1
    crops = [seen.sizes for seen in player.looks if seen.number == 4]
    assert {len(sizes) for sizes in crops} == {1, 2, 3} and {size[1] for sizes in crops for size in sizes} == {50}
    assert all(row["history"] for row in told.episodes.to_pylist())
    assert len({row["prompt_sha1"] for row in told.turns.to_pylist()}) == 7


def _keen(seen: Look) -> int:
    return next(
        (i for i, option in enumerate(seen.options) if option.startswith(("Add", "Move"))), len(seen.options) - 1
    )


async def test_history_is_bounded_and_the_model_is_asked_whether_it_takes_as_many(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("QD", 1, n=6)])
    with playing(tmp_path, _keen) as (llm, player, server):
        await evaluate(ctx, model=llm, samples=samples, history=True, history_turns=2)
        probe = next(body for body in server.bodies if "Were there any pictures?" in str(body))
    assert sorted(len(seen.pictures) for seen in player.looks) == [1, 2, 3, 3, 3, 3]
    assert str(probe).count("image_url'") // 2 == 3
    assert any("only the last 2" in m["text"] for m in ctx.journal.messages)


async def test_rod_is_shown_a_move_and_the_truth_of_others(ctx, tmp_path):
    records = [record("ROD", number, n=6, answer=NAMES[number % 4]) for number in range(1, 6)]
    samples = make_samples(tmp_path / "frames", records, side=(800, 640))
    with playing(tmp_path, _keen) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, shots=3, limit=2)
    number = numbers(records)
    for body, seen in zip(player.bodies, player.looks, strict=True):
        own = seen.pictures[-1] // 6
        samples_shown = [picture // 6 for picture in seen.pictures[:-1]]
        assert seen.roles == ("user", "assistant") * 6 + ("user",)
        assert samples_shown[::2] == samples_shown[1::2] and len(set(samples_shown)) == 3 and own not in samples_shown
        assert set(seen.sizes) == {(640, 512)}
        answers = [m["content"] for m in body["messages"] if m["role"] == "assistant"]
        for sample, hidden, revealed, move, truth in zip(
            samples_shown[::2], seen.pictures[0:6:2], seen.pictures[1:6:2], answers[::2], answers[1::2], strict=True
        ):
            assert hidden == number[f"ROD/{sample + 1}-s3.png"]  # the first frame
            assert revealed - hidden == (-1 if "left" in move else 1)
            assert truth.partition(". ")[2] == records[sample].answer
    assert {row["shots"] for row in told.episodes.to_pylist()} == {3} and told.settings["shots_resized"]
    shown = {seen.pictures[-1] // 6: tuple(p // 6 for p in seen.pictures[:-1]) for seen in player.looks}
    assert len(shown) == 2 and all(
        len({s.pictures[:-1] for s in player.looks if s.pictures[-1] // 6 == own}) == 1 for own in shown
    )


@pytest.mark.parametrize(("shortened", "views"), [(False, 4), (True, 2)])
async def test_views_of_products_are_turned_until_they_tell(ctx, tmp_path, shortened, views):
    records = [record("MVP-N", number, n=4) for number in (1, 2)]
    samples = make_samples(tmp_path / "frames", records)
    with playing(tmp_path, lambda seen: seen.options.index(NAMES[2])) as (llm, player, _):
        await evaluate(ctx, model=llm, samples=samples, shots=1, shots_shortened=shortened, probe=False)
    first = next(seen for seen in player.looks if seen.pictures[-1] == 0)
    assert first.pictures == ((4, 5, 6, 7, 0) if views == 4 else (4, 7, 0))
    assert set(first.sizes) == {(149, 112)}
    body = next(b for b, seen in zip(player.bodies, player.looks, strict=True) if seen is first)
    answers = [m["content"].partition(". ")[2] for m in body["messages"] if m["role"] == "assistant"]
    assert answers == ["Rotate the object."] * (views - 1) + [NAMES[2]]


async def test_solved_episodes_are_refused_where_there_are_none(ctx, tmp_path):
    mixed = make_samples(tmp_path / "mixed", [record("ROD", 1), record("QD", 2), record("ROD", 3)])
    few = make_samples(tmp_path / "few", [record("ROD", 1), record("ROD", 2)])
    twins = make_samples(tmp_path / "twins", [record("ROD", n, image_template="ROD/one-s{image}.png") for n in (1, 2)])
    with playing(tmp_path, scrambled) as (llm, _, server):
        with pytest.raises(StepError, match="the samples hold QD"):
            await evaluate(ctx, model=llm, samples=mixed, shots=1)
        with pytest.raises(StepError, match="only 1 are there"):
            await evaluate(ctx, model=llm, samples=few, shots=3)
        with pytest.raises(StepError, match="only 0 are there"):  # the same pictures would tell
            await evaluate(ctx, model=llm, samples=twins, shots=1)
        assert server.requests == 0
        await evaluate(ctx, model=llm, samples=mixed, shots=1, scenarios=["ROD"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("scenarios: [ROD, QD, COCO], shots: 1", "not of QD, COCO"),
        ("shots: 2", "shots"),
        ("mode: reference, shots: 1", "reference"),
        ("mode: frames, history: true", "frames"),
        ("mode: frames, temperature: 1.0, draws: 2", "once"),
        ("hint: ./nowhere.yaml", "nowhere"),
        ("scenarios: [POD]", "scenarios"),
        ("match: lenient", "match"),
        ("max_new_tokens: 0", "max_new_tokens"),
    ],
)
def test_a_wrong_parameter_is_one_problem_at_its_place(tmp_path, more, said):
    with pytest.raises(SpecError) as caught:
        compile_text(SPEC.format(more=more), "asked.yaml", tmp_path)
    (problem,) = caught.value.problems
    assert said in problem.message + str(problem.path) and problem.position.line == 6


def test_right_parameters_are_taken(tmp_path):
    (tmp_path / "own.yaml").write_text("hints: {}")
    for more in (
        "scenarios: [ROD, MVP-N], shots: 3",
        "hint: ./own.yaml",
        "hint: true, history: true",
        "temperature: 0.7, draws: 4",
    ):
        compile_text(SPEC.format(more=more), "asked.yaml", tmp_path)
