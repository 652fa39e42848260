"""Texts that a spec gives, files, defaults, and warnings; no model is asked."""

import json

import pytest
from openworld_material import rows_of
from pydantic import ValidationError

from agents.debias_given import GivenTexts
from agents.debias_steps import SpecTemplates, prompts
from runner.errors import DataError, StepError

PLACE = {"attribute": "place", "classes": ["north", "south"], "queries": ["a photo of an owl", "a photo of a gull"]}
GENDER = {"attribute": "gender", "classes": ["Male", "Female"]}
BIAS = {"north": ["an icy field", "a polar night"], "south": ["a hot field", "a palm beach"]}


def texts(found, kind, *columns):
    return [tuple(r[c] for c in (*columns, "text")) for r in found.prompts.to_pylist() if r["kind"] == kind]


def warned(ctx):
    return " | ".join(message["text"] for message in ctx.journal.messages)


async def test_without_a_model_everything_shipped_is_there(ctx):
    found = await prompts(
        ctx, **GENDER, queries="stereotypes",
        needs=["diverse", "bias", "paraphrase", "spurious", "candidate", "augmented", "insights", "scene"],
    )  # fmt: skip
    counts = {kind: len(texts(found, kind)) for kind in {r["kind"] for r in found.prompts.to_pylist()}}
    assert counts == {
        "query": 25, "diverse": 328, "bias": 40, "paraphrase": 250, "spurious": 2, "candidate": 50, "augmented": 50,
        "harmful": 2, "scene": 16, "target_word": 25, "bias_word": 4,
    }  # fmt: skip
    assert set(found.prompts["source"].to_pylist()) == {"shipped", "spec"} and len(ctx.journal.messages) == 1
    assert "harmful pairs only" in warned(ctx)
    assert [t for (t,) in texts(found, "query")] == found.queries
    sets = {(r["kind"], r["set_id"]) for r in found.prompts.to_pylist()}
    assert len(sets) == len(counts) == len({kind for kind, _ in sets})
    assert texts(found, "augmented", "class_name")[:2] == [
        ("Male", "A photo of a male addict"), ("Female", "A photo of a female addict"),
    ]  # fmt: skip


async def test_fewer_neutral_captions_are_drawn_by_the_seed_and_more_are_refused(ctx):
    few = await prompts(ctx, **GENDER, queries=["a thief"], needs=["diverse"], n_diverse=50)
    same = await prompts(ctx, **GENDER, queries=["a thief"], needs=["diverse"], n_diverse=50)
    ctx.seed = 1
    other = await prompts(ctx, **GENDER, queries=["a thief"], needs=["diverse"], n_diverse=50)
    assert len(texts(few, "diverse")) == 50 and few.prompts == same.prompts != other.prompts
    with pytest.raises(StepError, match="328 neutral captions are shipped, not 329") as caught:
        await prompts(ctx, **GENDER, queries=["a thief"], n_diverse=329)
    assert "given" in caught.value.hint and "llm" in caught.value.message


async def test_given_texts_stand_before_everything_else(ctx):
    given = GivenTexts(
        diverse=["a grey wall", "two chairs"], bias=BIAS, spurious={"north": ["ice"], "south": ["palms"]},
        paraphrase={"a photo of an owl": ["a night bird"], "a photo of a gull": ["A photo of a gull", "a sea bird"]},
        candidate={q: {"north": [f"{q} on ice"], "south": [f"{q} on sand"]} for q in PLACE["queries"]},
        augmented={"a photo of an owl": "an {bias} owl", "a photo of a gull": "a gull {bias}"},
        insights={"harmful": [["ice", "sand"]], "helpful": [["round head", "hooked beak"]]},
        scene=["the {bias} {target}"], content={q: q for q in PLACE["queries"]},
    )  # fmt: skip
    found = await prompts(ctx, **PLACE, given=given, needs=["bias"])
    assert texts(found, "paraphrase", "idx") == [
        (0, "a photo of an owl"), (1, "a night bird"), (0, "a photo of a gull"), (1, "a sea bird"),
    ]  # fmt: skip
    assert texts(found, "bias", "class_name")[0] == ("north", "an icy field")
    assert texts(found, "augmented")[0] == ("a north owl",) and texts(found, "augmented")[3] == ("a gull south",)
    assert texts(found, "helpful", "class_name", "idx") == [("a", 0, "round head"), ("b", 0, "hooked beak")]
    assert texts(found, "bias_word", "class_name") == [("north", "north"), ("south", "south")]
    assert set(found.prompts["source"].to_pylist()) == {"spec"}


async def test_texts_of_a_file_are_those_of_the_spec(ctx, tmp_path):
    path = tmp_path / "bias.json"
    path.write_text(json.dumps(BIAS))
    from_file = await prompts(ctx, **PLACE, given=GivenTexts(bias={"file": str(path)}), needs=["bias"])
    assert from_file.prompts == (await prompts(ctx, **PLACE, given=GivenTexts(bias=BIAS), needs=["bias"])).prompts


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "no JSON"),
        ('{"north": []}', "north"),
        ("[1]", "dictionary"),
        ("[" * 50_000, "no JSON"),
        ("\ud800", "read"),
    ],
)
async def test_files_that_do_not_do_are_named(content, problem, ctx, tmp_path):
    path = tmp_path / "bias.json"
    path.write_bytes(content.encode("utf8", "surrogatepass"))
    with pytest.raises(DataError, match=problem) as caught:
        await prompts(ctx, **PLACE, given=GivenTexts(bias={"file": str(path)}), needs=["bias"])
    assert "bias.json" in caught.value.message


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"bias": {"north": ["x y"]}}, "no texts for 'south'"),
        ({"bias": BIAS | {"east": ["a b", "c d"]}}, "unknown: 'east'"),
        ({"bias": {"north": ["a b"], "south": ["c d", "e f"]}}, "different numbers"),
        ({"bias": {"north": ["a b"], "south": ["A  b"]}}, "'A b' stands there twice"),
        ({"diverse": ["a b", "a b"]}, "stands there twice"),
        ({"paraphrase": {"a photo of an owl": ["x y"]}}, "no texts for 'a photo of a gull'"),
        ({"paraphrase": {q: ["x y", "x y"] for q in PLACE["queries"]}}, "stands there twice"),
        ({"augmented": dict.fromkeys(PLACE["queries"], "an owl")}, "not at all"),
        ({"augmented": dict.fromkeys(PLACE["queries"], "{bias} {bias}")}, "2 times"),
        ({"insights": {"harmful": [["ice", "Ice "]]}}, "harmful pair 1: the two values are the same"),
        ({"scene": ["a {target}"]}, "{bias} not at all"),
        ({"scene": {"scenes": ["{bias} {target}"], "values": {"north": ["x"]}}}, "scene values: no texts for 'south'"),
        ({"content": {"a photo of an owl": "x"}}, "content: no texts for"),
        ({"candidate": {q: {"north": ["x"]} for q in PLACE["queries"]}}, "no texts for 'south'"),
    ],
)  # fmt: skip
async def test_given_texts_that_do_not_do_are_refused_by_kind_and_reason(given, problem, ctx):
    with pytest.raises(StepError) as caught:
        await prompts(ctx, **PLACE, given=GivenTexts.model_validate(given), needs=["spurious"])
    assert problem in caught.value.message and "given" in caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"diverse": "ship"}, {"diverse": []}, {"bias": {"north": [" "]}}, {"insights": {}}, {"other": ["x"]},
        {"insights": {"harmful": [["one"]]}}, {"bias": {"file": "missing.json"}},
    ],
)  # fmt: skip
def test_entries_of_the_wrong_form_are_refused_with_the_spec(given):
    with pytest.raises(ValidationError):
        GivenTexts.model_validate(given)


@pytest.mark.parametrize(
    "templates", [{"spurious": ["no slot"]}, {"candidate": ["{query}"]}, {"insight": "{value}{value}"}]
)
def test_templates_must_hold_their_slots(templates):
    with pytest.raises(ValidationError, match="template"):
        SpecTemplates.model_validate(templates)


async def test_templates_of_the_spec_replace_shipped_ones(ctx):
    templates = SpecTemplates(spurious=["{class} view", "seen from {class}"], candidate=["{query} in the {class}"])
    found = await prompts(ctx, **PLACE, needs=["spurious", "candidate"], templates=templates)
    assert texts(found, "spurious", "class_name")[:2] == [("north", "north view"), ("north", "seen from north")]
    assert texts(found, "candidate")[1] == ("a photo of an owl in the south",)
    assert {r["source"] for r in found.prompts.to_pylist()} == {"spec"}


async def test_what_neither_is_given_nor_shipped_needs_a_model(ctx):
    with pytest.raises(StepError, match=r"kind bias need a language model .*'mood' is not shipped") as caught:
        await prompts(ctx, **PLACE | {"attribute": "mood"})
    assert "given: {bias" in caught.value.hint


@pytest.mark.parametrize(
    ("needs", "given", "problem"),
    [
        (["content"], None, "given in the spec only"),
        (["spurious"], {"spurious": "llm"}, "no model writes texts of the kind spurious"),
        (["bias"], {"bias": "shipped"}, "no texts of the kind bias are shipped"),
        (["paraphrase"], {"paraphrase": "llm"}, "`llm` names none"),
    ],
)
async def test_sources_that_a_kind_does_not_have(needs, given, problem, ctx):
    with pytest.raises(StepError, match=problem):
        await prompts(
            ctx, **PLACE | {"attribute": "mood"}, needs=needs, given=None if given is None else GivenTexts(**given)
        )


async def test_what_may_spoil_a_method_is_said_and_not_forbidden(ctx):
    given = GivenTexts(
        diverse=["a photo of a thief.", "a woman"], bias={"Male": ["a male thief"], "Female": ["a female thief"]}
    )
    await prompts(ctx, **GENDER, queries=["A photo of a thief"], needs=["diverse", "bias"], given=given)
    said = warned(ctx)
    assert "diverse captions hold a query" in said and "'a photo of a thief.'" in said
    assert "bias prompts name what a query is about" in said and "words of gender: 'a woman'" in said


class Counting:
    """A CLIP model that counts words."""

    name, context_length = "tiny", 6

    def token_counts(self, texts):
        return [len(text.split()) + 2 for text in texts]


async def test_texts_over_the_context_are_counted_and_named(ctx):
    found = await prompts(
        ctx, **GENDER, queries=["a thief", "one two three four five"], needs=["spurious"], clip=Counting()
    )
    assert rows_of(found.prompts, "text", "tokens")[:2] == [("a thief", 4), ("one two three four five", 7)]
    assert "more than the 6 tokens that tiny reads are cut (3): 'one two three four five' (7), 'a photo of a" in warned(
        ctx
    )


async def test_of_a_shipped_attribute_only_its_own_values_are_shipped(ctx):
    with pytest.raises(StepError, match="of background only these values are shipped: land, water"):
        await prompts(ctx, **PLACE, needs=["bias"])
