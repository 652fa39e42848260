"""Episodes in lock-step against a loopback model that sees which picture it is shown."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from proactive_server import alone, asks, make_samples, numbers_of, playing, scrambled

from agents.proactive_steps import evaluate
from results.tables import arrow_table
from runner.errors import DataError, StepError
from runner.nodes.proactive.env import make_env
from runner.nodes.proactive.records import SCENARIOS
from runner.nodes.proactive.samples import cases_of

sys.path.append(str(Path(__file__).parents[1] / "nodes/proactive"))
from material import NAMES, record

EVERY = [record(scenario, number, n=5) for scenario in SCENARIOS for number in (1, 2)]


async def test_lock_step_gives_what_single_episodes_give_and_asks_every_state_once(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", EVERY)
    with playing(tmp_path, scrambled) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, label="seer")
        assert len(player.bodies) == len(player.distinct)
        again = await evaluate(ctx, model=llm, samples=samples, label="seer")
        assert len(player.bodies) == len(player.distinct) and again == told  # the cache has all of it
    numbers, rows = numbers_of(samples), {}
    for row in told.turns.to_pylist():
        rows.setdefault(row["episode_id"], []).append((row["uri"], row["matched_index"]))
    episodes = {row["episode_id"]: row for row in told.episodes.to_pylist()}
    expected = {f"{c.record.scenario}/{c.record.sample_id}": alone(c, scrambled, numbers) for c in cases_of(samples)}
    assert {name: (rows[name], row["stop_reason"], row["success"]) for name, row in episodes.items()} == expected
    assert all(
        row["turns"] == len(rows[name]) and row["interventions"] == row["turns"] - 1 for name, row in episodes.items()
    )
    assert len({len(turns) for turns, _, _ in expected.values()}) > 2  # episodes of several lengths
    assert {row["match_kind"] for row in told.turns.to_pylist()} == {"both"} and not ctx.failures


async def test_columns_are_filled(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", EVERY)
    with playing(tmp_path, scrambled) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, label="seer", pictures=1, logprobs=True)
    turns = told.turns.to_pylist()
    filled = (
        "image_sha1",
        "prompt_sha1",
        "prompt",
        "options",
        "option_kinds",
        "answer",
        "matched_kind",
        "place",
        "frame",
    )
    assert all(row[name] is not None for row in turns for name in filled)
    with_picture = {row["episode_id"] for row in turns if row["thumbnail"]}
    assert with_picture == {f"{scenario}/{min(told.episodes.to_pylist(), key=lambda r: r['scenario'] != scenario)['sample_id']}" for scenario in SCENARIOS}  # fmt: skip
    assert all(row["thumbnail"] for row in turns if row["episode_id"] in with_picture)
    assert all(row["prompt_tokens"] > 0 and row["completion_tokens"] > 0 for row in told.episodes.to_pylist())
    assert told.model["kind"] == "chat" and told.settings["match"] == "robust" and told.judgements.num_rows == 0
    shown = {seen.text for seen in player.looks}
    assert all(any(row["prompt"] == text for text in shown) for row in turns)
    assert not any(kind in text for text in shown for kind in ("ask_valid", "category_true"))


async def test_a_ring_walked_to_and_fro_is_asked_about_once_a_state_and_exhausts(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("ROD", 1, n=14), record("VSOD", 2, n=9)])

    def to_and_fro(seen):
        first = seen.number in (7, 14 + 4)
        return next(
            i for i, o in enumerate(seen.options) if ("left" in o or "Rewind" in o) == first and not o.startswith("I ")
        )

    with playing(tmp_path, to_and_fro) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, label="undecided")
    assert len(player.bodies) == 4  # two frames of each ring
    rows = {row["scenario"]: row for row in told.episodes.to_pylist()}
    assert [(rows[s]["turns"], rows[s]["interventions"], rows[s]["stop_reason"]) for s in ("ROD", "VSOD")] == [
        (14, 13, "exhausted"), (9, 8, "exhausted"),
    ]  # fmt: skip
    assert Counter(row["uri"] for row in told.turns.to_pylist() if row["episode_id"].startswith("ROD")) == {
        "ROD/1-s7.png": 7, "ROD/1-s6.png": 7,
    }  # fmt: skip


async def test_the_same_state_of_two_samples_is_one_question(ctx, tmp_path):
    twins = [record("QD", number, n=4, image_template="QD/same/{image}.png") for number in (1, 2, 3)]
    samples = make_samples(tmp_path / "frames", twins)
    copies = [record("IN-C", 1, n=2), record("IN-C", 2, n=2)]
    with playing(tmp_path, asks("Add")) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, label="keen")
    assert len(player.bodies) == 4 and [row["turns"] for row in told.episodes.to_pylist()] == [4, 4, 4]
    same = make_samples(tmp_path / "copies", copies)
    for level in (1, 2):  # other files, the same bytes
        (tmp_path / f"copies/INC/{level}/2.jpg").write_bytes((tmp_path / f"copies/INC/{level}/1.jpg").read_bytes())
    with playing(tmp_path, asks("Raise")) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=same, label="keen")
    assert len(player.bodies) == 2 and [row["turns"] for row in told.episodes.to_pylist()] == [2, 2]


async def test_draws_and_returns_are_kept_apart_at_a_temperature(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("ROD", 1, n=6)])

    def to_and_fro(seen):
        return next(i for i, o in enumerate(seen.options) if ("left" in o) == (seen.number == 3) and "Move" in o)

    with playing(tmp_path, to_and_fro) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, draws=3, temperature=0.9)
        assert len(player.bodies) == len(player.distinct) == 3 * 6
        assert {body["temperature"] for body in player.bodies} == {0.9}
    assert [row["episode_id"] for row in told.episodes.to_pylist()] == ["ROD/1/0", "ROD/1/1", "ROD/1/2"]
    with playing(tmp_path / "own", to_and_fro, temperature=0.9) as (
        llm,
        player,
        _,
    ):  # the provider's goes before the step's
        await evaluate(ctx, model=llm, samples=samples)
        assert len(player.distinct) == 6
    with playing(tmp_path, to_and_fro) as (llm, _, server), pytest.raises(StepError, match="temperature 0"):
        await evaluate(ctx, model=llm, samples=samples, draws=2)
    assert server.requests == 0


async def test_what_cannot_be_read_or_answered_is_an_error_and_counts_nowhere(ctx, tmp_path):
    records = [record("QD", number, n=3) for number in (1, 2, 3)]
    samples = make_samples(tmp_path / "frames", records, broken=["QD/2/0001.png"])

    def policy(seen):
        return "" if seen.number >= 6 else asks("Add")(seen)  # the third sample: refused below

    with playing(tmp_path, policy) as (llm, player, server):
        server.answer = lambda body: player(body)
        told = await evaluate(ctx, model=llm, samples=samples, match="constrained", label="keen")
    rows = {row["sample_id"]: row for row in told.episodes.to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {"1": "ok", "2": "error", "3": "error"}
    assert "cannot be read" in rows["2"]["failure"] and rows["3"]["failure"]
    assert all(
        rows[name][column] is None for name in "23" for column in ("turns", "interventions", "success", "p_success")
    )
    assert sorted(item for item, _ in ctx.failures) == ["QD/2", "QD/3"]
    assert [row["episode_id"] for row in told.turns.to_pylist()] == ["QD/1"] * 3 + ["QD/2"]  # what was played stays


async def test_a_model_that_is_never_readable_is_told(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", EVERY[:4])
    with playing(tmp_path, lambda seen: "Well, who knows?") as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, label="vague", match="strict", probe=False)
        assert len(player.bodies) == 4
    assert {row["stop_reason"] for row in told.episodes.to_pylist()} == {"unreadable"}
    [warning] = [m["text"] for m in ctx.journal.messages if m["level"] == "warning"]
    assert "4 of 4 answers" in warning and "constrained" in warning


STRICTLY = {  # options A abstain, B rewind, C wait, then D to G, of which F is right: how the episode ends, and after how many turns
    "B": ("success", 2), "b.": ("success", 2), "B. rewind...": ("success", 2), "Answer: B. Rewind the video.": ("success", 2),
    "C. Rewind the video.": ("success", 2), "F. Rewind the video.": ("success", 1), "D. Rewind the video.": ("success", 2),
    "A. Boat.": ("success", 1), "F": ("success", 1), "D": ("wrong_category", 1), "A": ("abstain", 1),
    **dict.fromkeys(["Rewind the video", "(B)", "B)", "B:", "**B**", "Option B", "The answer is B.", "REWIND THE VIDEO."], ("unreadable", 1)),
}  # fmt: skip


async def test_strict_keeps_the_published_quirks(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("VSOD", i, n=3) for i in range(len(STRICTLY))])
    replies = [*STRICTLY]

    def policy(seen):
        return replies[seen.number // 3] if seen.number % 3 == 1 else seen.options.index(NAMES[2])

    with playing(tmp_path, policy) as (llm, _, _):
        told = await evaluate(ctx, model=llm, samples=samples, match="strict")
    rows = {replies[int(row["sample_id"])]: row for row in told.episodes.to_pylist()}
    assert {reply: (row["stop_reason"], row["turns"]) for reply, row in rows.items()} == STRICTLY
    led = {row["episode_id"]: row["action"] for row in told.turns.to_pylist() if row["action"]}
    assert {*led.values()} == {"rewind"} and len(led) == sum(turns == 2 for _, turns in STRICTLY.values())


@pytest.mark.parametrize("form", ["letter", "text"])
async def test_constrained_replies_are_held_to_what_is_shown(ctx, tmp_path, form):
    samples = make_samples(tmp_path / "frames", EVERY[:6])
    with playing(tmp_path, scrambled) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, match="constrained", form=form)
    enums = {
        (tuple(body["response_format"]["json_schema"]["schema"]["properties"]["answer"]["enum"]), seen.options)
        for body, seen in zip(player.bodies, player.looks, strict=True)
    }
    assert all(enum == (tuple("ABCDEFGHI"[: len(shown)]) if form == "letter" else shown) for enum, shown in enums)
    assert {row["match_kind"] for row in told.turns.to_pylist()} == {"constrained"}
    assert {row["match"] for row in told.episodes.to_pylist()} == {"constrained"}
    expected = {
        f"{c.record.scenario}/{c.record.sample_id}": alone(c, scrambled, numbers_of(samples)) for c in cases_of(samples)
    }
    assert {r["episode_id"]: (r["turns"], r["stop_reason"]) for r in told.episodes.to_pylist()} == {
        name: (len(turns), reason) for name, (turns, reason, _) in expected.items()
    }


async def test_reference_shows_the_telling_frame_and_categories_alone(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", EVERY)
    with playing(tmp_path, lambda seen: seen.options.index(NAMES[2])) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, mode="reference")
    assert all(row["success"] and row["turns"] == 1 and row["mode"] == "reference" for row in told.episodes.to_pylist())
    assert {seen.options for seen in player.looks} == {NAMES[:4]}
    assert {row["uri"] for row in told.turns.to_pylist()} == {
        make_env(r, mode="reference").frame(make_env(r).initial()).uri for r in EVERY
    }


async def test_frames_are_asked_about_as_they_stand_and_forced(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("ROD", 1, n=7), record("QD", 2, n=3)])

    def policy(seen):
        truth = seen.options.index(NAMES[2])
        asks_first = seen.number in (3, 2, 7) and len(seen.options) > 4
        return next(i for i, o in enumerate(seen.options) if o.startswith(("Move", "Add"))) if asks_first else truth

    with playing(tmp_path, policy) as (llm, player, _):
        told = await evaluate(ctx, model=llm, samples=samples, mode="frames")
    rows = told.turns.to_pylist()
    found = [(r["episode_id"], r["frame"], round(r["place"], 3), r["forced"], r["matched_kind"]) for r in rows]
    ring = [("ROD/1", frame, place) for frame, place in ((3, 0.0), (2, 0.333), (1, 0.667), (0, 1.0))]
    kinds = ["ask_valid", "ask_valid", "category_true", "category_true"]
    strokes = [("QD/2", 0, 0.0), ("QD/2", 1, 0.5), ("QD/2", 2, 1.0)]
    free = [
        (*where, False, kind) for where, kind in zip(ring + strokes, [*kinds, "ask_valid", *kinds[2:]], strict=True)
    ]
    assert found == [row for one in free for row in (one, (*one[:3], True, "category_true"))]
    assert len(player.bodies) == 14 and all(row["success"] for row in told.episodes.to_pylist())


async def test_foreign_options_and_hints_are_shown(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", [record("QD", 1, n=3)])
    (tmp_path / "own.yaml").write_text('hints: {QD: "Hint: more ink is at hand."}')
    with playing(tmp_path, scrambled) as (llm, player, _):
        await evaluate(ctx, model=llm, samples=samples, hint=True)
        await evaluate(ctx, model=llm, samples=samples, hint=str(tmp_path / "own.yaml"), short_answer=False)
        told = await evaluate(ctx, model=llm, samples=samples, options="foreign")
    hinted, own, foreign = player.looks[0], next(s for s in player.looks if "more ink" in s.text), player.looks[-1]
    assert "Hint:" in hinted.text and "Return only one" in hinted.text and "Return only one" not in own.text
    assert not set(foreign.options) & {"Add more details to the drawing."} and "Hint" not in foreign.text
    assert {row["options_mode"] for row in told.episodes.to_pylist()} == {"foreign"}


async def test_samples_that_are_not_there_end_it_before_anything_is_asked(ctx, tmp_path):
    samples = make_samples(tmp_path / "frames", EVERY[:2])
    with playing(tmp_path, scrambled) as (llm, _, server):
        with pytest.raises(DataError, match="train"):
            await evaluate(ctx, model=llm, samples=samples, split="train")
        with pytest.raises(DataError, match="COCO"):
            await evaluate(ctx, model=llm, samples=samples, scenarios=["COCO"])
        single = samples.samples.to_pylist()
        single = replace(samples, samples=arrow_table("pb_samples", [{**row, "max_turns": 1} for row in single]))
        with pytest.raises(DataError, match="one frame is known"):
            await evaluate(ctx, model=llm, samples=single, mode="reference")
        assert server.requests == 0
