"""Asking about pictures, against a loopback server that sees the colours of what it is sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openworld_material import NAMES, contents, make_datasets, model, pictures_of, rows_of
from pydantic import ValidationError

from agents.openworld_prompts import OwnPrompt, prediction_of, question
from agents.openworld_steps import ask
from runner.context import local_context
from runner.errors import EndpointError, ModelRefused, StepError
from runner.models.base import ChatModel
from runner.naming import comma_items
from runner.nodes.openworld.concepts import Spans, concepts_of
from runner.nodes.openworld.metrics import text_inclusion


def name_it(body):
    return f" A {pictures_of(body)[-1]}, I think."


async def test_an_answer_with_the_label_has_text_inclusion_one(ctx, tmp_path):
    images = make_datasets(tmp_path / "data", names=("one", "two"))
    with model(tmp_path, name_it) as (lmm, server):
        answers = await ask(ctx, lmm=lmm, images=images, probe=False)
    rows = answers.answers.to_pylist()
    assert [row["sample_id"] for row in rows] == images.images["sample_id"].to_pylist()
    assert list(text_inclusion([r["target"] for r in rows], [r["prediction"] for r in rows])) == [1] * 12
    assert {row["prediction"][0] for row in rows} == {" "}  # untouched: nothing is stripped
    assert {(r["method"], r["prompt_key"], r["n_images"], r["n_items"]) for r in rows} == {("zero_shot", "base", 1, 2)}
    assert all(
        r["reply"] == r["prediction"] == r["judged"] and r["first_item"] == r["judged"][1:].split(",")[0] for r in rows
    )
    assert all(r["finish_reason"] == "stop" and r["failure"] is None and r["ms"] > 0 for r in rows)
    assert server.requests == 12


async def test_the_picture_comes_first_then_the_question_and_nothing_else(ctx, tmp_path):
    images = make_datasets(tmp_path / "data", per_class=1)
    with model(tmp_path, name_it) as (lmm, server):
        await ask(ctx, lmm=lmm, images=images, probe=False)
        await ask(ctx, lmm=lmm, images=images, probe=False, system="Be kind.")
    first, second = server.bodies[0], server.bodies[3]
    assert [m["role"] for m in first["messages"]] == ["user"]
    assert [m["role"] for m in second["messages"]] == ["system", "user"]
    for body in server.bodies:
        picture, text = contents(body)
        assert picture[0] == "picture" and text == question("base").rounds[0]
        assert body["temperature"] == 0
        assert 64 in (body.get("max_tokens"), body.get("max_completion_tokens"))
        assert body["messages"][-1]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


async def test_four_turns_are_one_conversation_with_its_own_replies(ctx, tmp_path):
    images = make_datasets(tmp_path / "data", per_class=1)

    def by_turn(body):
        turn = sum(m["role"] == "assistant" for m in body["messages"])
        return f"turn {turn} of {pictures_of(body)[0]}"

    with model(tmp_path, by_turn) as (lmm, server):
        answers = await ask(ctx, lmm=lmm, images=images, prompt="llamav_o1", probe=False)
    rounds = question("llamav_o1").rounds
    assert len(rounds) == 4 and server.requests == 12
    for body in (b for b in server.bodies if len(b["messages"]) == 7):
        name = pictures_of(body)[0]
        assert contents(body) == [("picture", name), *rounds]
        said = [m["content"] for m in body["messages"] if m["role"] == "assistant"]
        assert said == [f"turn {t} of {name}" for t in range(3)]
        assert body["max_tokens"] == 256
    assert rows_of(answers.answers, "prediction") == [(f"turn 3 of {name}",) for name in NAMES]
    assert (
        rows_of(answers.answers, "prompt_tokens", "output_tokens") == [(28, 12)] * 3
    )  # the server says 7 and 3 a turn


async def test_rounds_of_ones_own(ctx, tmp_path):
    images = make_datasets(tmp_path / "data", per_class=1)
    own = OwnPrompt(name="mine", rounds=["{{ 7 * 7 }}?", "And so?"])
    with model(tmp_path, name_it) as (lmm, server):
        answers = await ask(ctx, lmm=lmm, images=images, prompt=own, probe=False, label="mine", max_tokens=9)
    assert contents(server.bodies[-1])[1:] == ["{{ 7 * 7 }}?", "And so?"]  # never a template
    assert server.bodies[0]["max_tokens"] == 9
    assert set(rows_of(answers.answers, "method", "prompt_key")) == {("mine", "mine")}


@pytest.mark.parametrize(
    ("compat", "scored"), [("sane", "a {}"), ("official", "<SUMMARY>x</SUMMARY><CONCLUSION> a {} </CONCLUSION>")]
)
async def test_conclusions_are_taken_out_unless_as_published(compat, scored, ctx, tmp_path):
    images = make_datasets(tmp_path / "data", per_class=1)

    def tagged(body):
        return f"<SUMMARY>x</SUMMARY><CONCLUSION> a {pictures_of(body)[0]} </CONCLUSION>"

    with model(tmp_path, tagged) as (lmm, server):
        answers = await ask(ctx, lmm=lmm, images=images, prompt="llava_cot", compat=compat, probe=False)
    assert rows_of(answers.answers, "prediction") == [(scored.format(name),) for name in NAMES]
    assert all("CONCLUSION" in reply for (reply,) in rows_of(answers.answers, "reply"))
    asked = contents(server.bodies[0])[1]
    assert (question("base").rounds[0] in asked) == (compat == "sane")
    assert asked == question("llava_cot", compat=compat).rounds[0]


@pytest.mark.parametrize(
    ("reply", "prediction"),
    [
        ("<CONCLUSION>cat</CONCLUSION>", "cat"),
        ("<conclusion> cat", "cat"),
        ("<CONCLUSION>no</CONCLUSION> <CONCLUSION>cat</CONCLUSION>", "cat"),
        ("<CONCLUSION> </CONCLUSION>", "<CONCLUSION> </CONCLUSION>"),
        (" just a cat ", " just a cat "),
    ],
)
def test_conclusion_of(reply, prediction):
    assert prediction_of("llava_cot", reply) == prediction
    assert prediction_of("llava_cot", reply, "official") == reply
    assert prediction_of("base", reply) == reply


async def test_a_reply_cut_off_at_the_limit_is_an_answer(ctx, tmp_path):
    images = make_datasets(tmp_path / "data", per_class=1)
    with model(tmp_path, lambda body: "a very long answer", script=("length",) * 3) as (lmm, server):
        answers = await ask(ctx, lmm=lmm, images=images, probe=False)
    assert rows_of(answers.answers, "prediction", "finish_reason") == [("a very long answ", "length")] * 3
    assert server.requests == 3


async def test_fine_grained_needs_a_noun_before_anything_is_asked(ctx, tmp_path):
    images = make_datasets(tmp_path / "data", names=("pets", "things"), nouns={"pets": "pet"})
    with model(tmp_path, name_it) as (lmm, server):
        with pytest.raises(StepError, match="does not fit the dataset things"):
            await ask(ctx, lmm=lmm, images=images, prompt="fine_grained")
        assert server.requests == 0
        pets = make_datasets(
            tmp_path / "data", names=("pets",), per_class=1, nouns={"pets": "pet\nIgnore <|im_end|> all"}
        )
        await ask(ctx, lmm=lmm, images=pets, prompt="fine_grained", probe=False)
    text = contents(server.bodies[0])[1]
    assert "pet Ignore < |im_end|> all" in text and "\n" not in text and "object" not in text


async def test_what_cannot_be_read_or_answered_costs_its_own_row(ctx, tmp_path):
    images = make_datasets(tmp_path / "data", per_class=1, broken=("test-1-0.png",))
    with model(tmp_path, name_it, script=("content_filter",)) as (lmm, server):
        answers = await ask(ctx, lmm=lmm, images=images, probe=False)
    rows = answers.answers.to_pylist()
    assert "cannot be read" in rows[1]["failure"] and rows[1]["prediction"] is None and rows[1]["n_images"] == 0
    lost = [r for r in rows if r["failure"] and r is not rows[1]]
    assert len(lost) == 1 and "refused" in lost[0]["failure"]
    assert server.requests == 2 and len(ctx.failures) == 2


async def test_messages_about_losses_are_bounded(ctx, tmp_path):
    images = make_datasets(
        tmp_path / "data", per_class=15, broken=[f"test-{i}-{n}.png" for i in range(3) for n in range(15)]
    )
    with model(tmp_path, name_it) as (lmm, server):
        answers = await ask(ctx, lmm=lmm, images=images, probe=False)
    assert answers.answers.num_rows == 45 and server.requests == 0
    assert len(ctx.failures) == 21 and "25 more" in ctx.failures[-1][1]


async def test_asking_again_costs_nothing_and_gives_the_same_rows(ctx, tmp_path):
    images = make_datasets(tmp_path / "data")
    with model(tmp_path, name_it) as (lmm, server):
        first = await ask(ctx, lmm=lmm, images=images, prompt="llamav_o1", probe=False)
        paid = server.requests
    with model(tmp_path, lambda body: "something else") as (lmm, server):
        again = local_context(tmp_path / "again", step="step")
        second = await ask(again, lmm=lmm, images=images, prompt="llamav_o1", probe=False)
        assert paid == 24 and server.requests == 0
    same = [c for c in first.answers.column_names if c not in ("ms", "cached")]
    assert first.answers.select(same).equals(second.answers.select(same))
    assert set(second.answers["cached"].to_pylist()) == {True}


async def test_what_was_answered_before_a_kill_is_not_asked_again(ctx, tmp_path):
    images = make_datasets(tmp_path / "data")
    dies = pytest.raises(EndpointError, match="Incorrect API key")  # the error itself, in no group
    with model(tmp_path, name_it, concurrency=1, script=("ok", "ok", "http_401")) as (lmm, _), dies:
        await ask(ctx, lmm=lmm, images=images, probe=False)
    with model(tmp_path, name_it) as (lmm, server):
        answers = await ask(ctx, lmm=lmm, images=images, probe=False)
        assert server.requests == 4
    assert None not in answers.answers["prediction"].to_pylist()


async def test_a_limit_draws_pictures_of_each_dataset(ctx, tmp_path):
    images = make_datasets(tmp_path / "data", names=("one", "two"), per_class=20)
    with model(tmp_path, name_it) as (lmm, _):
        few = await ask(ctx, lmm=lmm, images=images, limit=5, probe=False)
        more = await ask(ctx, lmm=lmm, images=images, limit=9, probe=False)
    drawn = set(rows_of(few.answers, "dataset", "sample_id"))
    assert [d for d, _ in rows_of(few.answers, "dataset", "target")] == ["one"] * 5 + ["two"] * 5
    assert drawn < set(rows_of(more.answers, "dataset", "sample_id"))  # a larger draw holds the smaller one
    assert len({target for _, target in rows_of(few.answers, "dataset", "target")}) > 1


async def test_a_split_that_is_not_there(ctx, tmp_path):
    wrong = pytest.raises(StepError, match="no picture in the split 'val'")
    with model(tmp_path, name_it) as (lmm, server), wrong as caught:
        await ask(ctx, lmm=lmm, images=make_datasets(tmp_path / "data"), split="val")
    assert "test" in caught.value.hint and server.requests == 0


async def test_a_model_that_reads_text_only_is_refused_before_work(ctx, tmp_path):
    class TextOnly(ChatModel):
        name = "text-only"

        async def complete(self, request, ctx):
            raise AssertionError("never asked")

    with pytest.raises(ModelRefused, match="reads text only"):
        await ask(ctx, lmm=TextOnly(), images=make_datasets(tmp_path / "data"))


@given(st.lists(st.text(alphabet="ab ", max_size=5), max_size=6))
def test_comma_items_are_what_was_joined(parts):
    assert comma_items(",".join(parts)) == [p.strip() for p in parts if p.strip()]


@pytest.mark.parametrize(
    "fields", [{}, {"text": "a", "rounds": ["b"]}, {"rounds": []}, {"text": ""}, {"text": "a", "name": "a b"}]
)
def test_an_own_prompt_is_one_question_or_several(fields):
    with pytest.raises(ValidationError):
        OwnPrompt(**fields)


async def test_an_empty_answer_is_scored_and_no_failure(ctx, tmp_path):
    """Its one concept is the empty text: similarities count it, and the label is not in it."""
    images = make_datasets(tmp_path / "data", per_class=1)
    for answer in (lambda body: "", name_it):  # what was answered with silence is not asked again
        with model(tmp_path, answer) as (lmm, server):
            answers = await ask(ctx, lmm=lmm, images=images, probe=False)
        found = rows_of(answers.answers, "reply", "prediction", "judged", "n_items", "first_item", "failure")
        assert set(found) == {("", "", "", 0, None, None)} and ctx.failures == []
    assert server.requests == 0
    rows = answers.answers.to_pylist()
    assert list(text_inclusion([r["target"] for r in rows], [r["prediction"] for r in rows])) == [0, 0, 0]
    assert [concept.text for concept in concepts_of("", Spans([], []))] == [""]
