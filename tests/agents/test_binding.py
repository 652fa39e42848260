"""Finding a measurement for an attribute: the user's word, known words, then a model whose answers are held to the words."""

import json
import re

import pytest
from pydantic import ValidationError

from agents.binding import binding_schema
from agents.binding_words import bound_by_words, by_ends, end_of, ends_of, measure_words, misfit, speaks_of, trusted
from agents.inputs import UserAttribute
from agents.steps import bind, caption, propose
from results.tables import arrow_table
from runner.artifacts import Biases
from runner.nodes.bias.measures import MEASURES

TASK = "Tell which animal is in a photo."


def attribute(name, values, target="cat", resample=0, status="kept"):
    return {
        "resample": resample, "target": target, "attribute": name, "attribute_norm": name.lower(), "bias_values": values,
        "source": "llm", "status": status, "drop_reason": None,
    }  # fmt: skip


def biases(*rows, **task):
    return Biases(
        {"description": TASK, "outputs": [], **task}, ["cat", "dog"], arrow_table("c2b_attribute", list(rows))
    )


def said(measurement, *order):
    return json.dumps({"measurement": measurement, "order": list(order)})


def plain(done):
    return [
        (r["target"], r["attribute"], r["measure"], r["bias_values"], r["source"]) for r in done.bindings.to_pylist()
    ]


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_lists_cover_the_registry_and_do_not_contradict_themselves():
    words = measure_words()
    assert set(words) == set(MEASURES)
    for name, (attributes, low, high) in words.items():
        assert attributes
        if not MEASURES[name].is_category:
            assert all(end_of(name, phrase) == -1 for phrase in low), name
            assert all(end_of(name, phrase) == 1 for phrase in high), name


@pytest.mark.parametrize(
    ("name", "values", "measure", "order"),
    [
        ("lighting", ["bright", "dim"], "luminance", ("dim", "bright")),
        ("Time of Day", ["night", "day"], "luminance", ("night", "day")),
        ("distance", ["close-up", "far away"], "object_area", ("far away", "close-up")),
        ("contrast", ["high", "low"], "contrast", ("low", "high")),
        ("background color", ["red", "gray"], "hue", ("red", "gray")),
        ("orientation", ["landscape", "portrait"], "aspect", ("portrait", "landscape")),
    ],
)
def test_words_that_leave_no_doubt(name, values, measure, order):
    found = bound_by_words(name, values)
    assert (found.measure, found.values, found.source) == (measure, order, "words")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lighting", ["natural", "artificial"]),
        ("lighting", ["dim", "dark"]),
        ("lighting", ["dim", "bright", "sunny"]),
        ("coat", ["dark", "bright"]),
        ("pose", ["sitting", "standing"]),
        ("background color", ["red", "striped"]),
    ],
)
def test_words_that_leave_doubt_decide_nothing(name, values):
    assert bound_by_words(name, values) is None


def test_contradictions_are_named():
    assert misfit("luminance", ["dim", "dusk", "bright"]) is None
    assert "'dim' must come first" in misfit("luminance", ["bright", "dim"])
    assert "'striped' names none" in misfit("hue", ["red", "striped"])
    assert "same category" in misfit("hue", ["grey", "gray"])
    assert by_ends("luminance", ["bright", "dim"]) == ("dim", "bright") and by_ends("luminance", ["dim", "red"]) is None
    assert not speaks_of("luminance", "lighting", ["natural", "artificial"])


# --- the user --------------------------------------------------------------------------------------------------------


async def test_the_users_measurement_reaches_the_bindings(scripted, ctx):
    """Named under include of c2b.propose, used by c2b.bind without a question; the other target's attribute is the same."""
    llm = scripted(lambda request, data: pytest.fail("nothing is to be asked"))
    entry = UserAttribute(attribute="setting", values=["street", "meadow"], measure="clutter")
    made = await propose(ctx, llm=llm, task=TASK, classes=["cat", "dog"], max_attributes=0, include=[entry])
    done = await bind(ctx, llm=llm, biases=made)
    assert plain(done) == [(t, "setting", "clutter", ["street", "meadow"], "user") for t in ("cat", "dog")]


async def test_a_task_that_carries_measurements_still_gives_captions(scripted, ctx):
    llm = scripted(lambda request, data: json.dumps(
        {"captions": {k: f"A {data.get('target class', v)} seen in {v}" for k, v in data["captions"].items()}}))  # fmt: skip
    entry = UserAttribute(attribute="light", values=["dusk", "sunshine"], measure="luminance")
    made = await propose(ctx, llm=llm, task=TASK, classes=["cat", "dog"], max_attributes=0, include=[entry])
    assert made.task["measures"] == {"light": "luminance"}
    assert (await caption(ctx, llm=llm, biases=made)).task == made.task


def test_a_measurement_that_does_not_suit_is_refused_in_the_spec():
    for values, measure, says in (
        (["dim", "bright"], "lightness", "no measurement 'lightness'"),
        (["bright", "dim"], "luminance", "'dim' must come first"),
        (["red", "striped"], "hue", "'striped' names none"),
    ):
        with pytest.raises(ValidationError, match=re.escape(says)):
            UserAttribute(attribute="light", values=values, measure=measure)


# --- the model -------------------------------------------------------------------------------------------------------


async def test_one_question_for_all_targets_in_any_order_of_values(scripted, ctx):
    llm = scripted(lambda request, data: said("clutter", "v0", "v1"))
    made = biases(
        attribute("background", ["plain", "cluttered"]), attribute("Background", ["Cluttered", "plain"], "dog"),
        attribute("lighting", ["bright", "dim"]), attribute("pose", ["sitting", "standing"]),
        attribute("surroundings", ["empty", "crowded"], resample=1), attribute("scene", ["empty", "busy"], status="dropped"),
    )  # fmt: skip
    done = await bind(ctx, llm=llm, biases=made)
    assert len(llm.requests) == 1
    assert plain(done) == [
        ("cat", "background", "clutter", ["plain", "cluttered"], "llm"),
        ("dog", "Background", "clutter", ["plain", "Cluttered"], "llm"),
        ("cat", "lighting", "luminance", ["dim", "bright"], "words"),
        ("cat", "pose", None, ["sitting", "standing"], "none"),
    ]
    assert done.bindings.to_pylist()[3]["reason"] == "no measurement speaks of it"


async def test_the_question_is_short_and_closed(scripted, ctx):
    llm = scripted(lambda request, data: said("none", "v1", "v0"))
    done = await bind(ctx, llm=llm, biases=biases(attribute("weather", ["sunny", "rainy"])))
    request = llm.requests[0]
    data = json.loads(request.messages[1].content.removeprefix("Prompt:\n"))
    assert data["values"] == {"v0": "sunny", "v1": "rainy"} and list(data["measurements"]) == ["luminance"]
    assert request.schema == binding_schema(["luminance"], 2)
    assert request.max_tokens <= 64 and sum(len(m.content) for m in request.messages) < 1200
    assert plain(done) == [("cat", "weather", None, ["sunny", "rainy"], "none")] and not ctx.failures


async def test_all_measurements_may_be_offered(scripted, ctx):
    llm = scripted(lambda request, data: said("object_y", "v1", "v0"))
    made = biases(attribute("view", ["from above", "from below"]))
    done = await bind(ctx, llm=llm, biases=made, offered="all")
    assert plain(done)[0][2:] == ("object_y", ["from below", "from above"], "llm")
    assert llm.requests[0].schema["properties"]["measurement"]["enum"] == [*MEASURES, "none"]


async def test_a_contradiction_is_asked_again_with_the_reason(scripted, ctx):
    def answer(request, data):
        return said("luminance", "v2", "v1", "v0") if "rejected" in data else said("luminance", "v0", "v1", "v2")

    llm = scripted(answer)
    done = await bind(ctx, llm=llm, biases=biases(attribute("light", ["sunny", "dusk", "dark"])))
    assert plain(done)[0][2:] == ("luminance", ["dark", "dusk", "sunny"], "llm")
    again = json.loads(llm.requests[1].messages[1].content.removeprefix("Prompt:\n"))
    assert "must come first" in again["rejected"][0]["reason"] and "rejected" in llm.requests[1].messages[0].content


@pytest.mark.parametrize("order", [("v0", "v1"), ("v1", "v1")])
async def test_words_mend_an_order_that_the_model_cannot(scripted, ctx, order):
    llm = scripted(lambda request, data: said("clutter", *order))
    done = await bind(ctx, llm=llm, biases=biases(attribute("background", ["busy", "plain"])))
    assert plain(done)[0][2:] == ("clutter", ["plain", "busy"], "words") and len(llm.requests) == 2


async def test_one_known_end_is_enough_to_order_two_values(scripted, ctx):
    """Sunny is light; a model that lists the keys as they came calls rain lighter."""
    llm = scripted(lambda request, data: said("luminance", "v0", "v1"))
    done = await bind(ctx, llm=llm, biases=biases(attribute("weather", ["sunny", "rainy"])))
    assert plain(done)[0][2:] == ("luminance", ["rainy", "sunny"], "words")
    assert UserAttribute(attribute="light", values=["bright", "blinding"], measure="luminance")


async def test_what_stays_wrong_is_bound_to_nothing(scripted, ctx):
    llm = scripted(lambda request, data: said("hue", "v0", "v1", "v2"))
    done = await bind(ctx, llm=llm, biases=biases(attribute("coat", ["red", "striped", "plain"])), offered="all")
    row = done.bindings.to_pylist()[0]
    assert row["measure"] is None and row["source"] == "none" and "'striped' names none" in row["reason"]


async def test_a_failed_question_costs_only_itself(scripted, ctx):
    def answer(request, data):
        return "I cannot" if data["attribute"] == "weather" else said("clutter", "v0", "v1")

    made = biases(attribute("weather", ["sunny", "rainy"]), attribute("background", ["plain", "busy"]))
    done = await bind(ctx, llm=scripted(answer), biases=made)
    assert [r[2] for r in plain(done)] == [None, "clutter"] and [item for item, _ in ctx.failures] == ["weather"]


async def test_without_a_model_words_and_the_user_decide(ctx):
    made = biases(attribute("lighting", ["dim", "bright"]), attribute("background", ["plain", "busy"]))
    rows = (await bind(ctx, biases=made)).bindings.to_pylist()
    assert [r["measure"] for r in rows] == ["luminance", None] and "no language model" in rows[1]["reason"]


@pytest.mark.assets
async def test_a_very_small_model_can_answer(tmp_path, ctx):
    """SmolLM2-135M: whatever it says, the rows are lawful and no question fails."""
    from runner.assets import ensure
    from runner.models.chat.providers import LlamaCpp
    from runner.models.registry import Services

    path = ensure("smollm2-135m", lambda text: None).path
    llm = LlamaCpp(model=str(path), context=2048, parallel=1, threads=1).load(Services(cache=tmp_path))
    made = biases(attribute("background", ["plain", "cluttered"]), attribute("weather", ["sunny", "foggy", "night"]))
    try:
        done = await bind(ctx, llm=llm, biases=made)
    finally:
        llm.close()
    assert not ctx.failures and len(ctx.journal.calls) >= 2
    for _, _, measure, values, _ in plain(done):
        assert measure is None or misfit(measure, values) is None


@pytest.mark.parametrize(
    ("values", "believed"),
    [
        (("sunny", "rainy"), ("sunny", "rainy")),
        (("dim", "soft", "bright"), ("dim", "soft", "bright")),
        (("dim", "bright", "shadowy", "lit", "illuminated", "dimmed"), ("dim", "illuminated")),
        (("soft", "hard", "natural"), None),
        (("dim", "natural", "artificial"), None),
    ],
)
def test_of_many_values_only_known_ends_are_believed(values, believed):
    assert trusted("luminance", values, "lighting") == believed


def test_a_refused_order_leaves_the_two_ends_that_words_know():
    assert ends_of("flatness", ("cartoon", "photorealistic", "abstract"), "style") == ("photorealistic", "cartoon")


def test_the_top_of_a_viewpoint_is_no_place_in_the_picture():
    assert not speaks_of("object_y", "viewpoint", ("front", "top", "bottom"))
    assert speaks_of("object_y", "vertical position", ("top", "bottom"))
