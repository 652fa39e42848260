"""The texts that come with the project, held to the checks that written ones must pass."""

import pytest

from agents.debias_ready import ready_texts
from agents.debias_shipped import (
    attribute_named,
    augmented_pattern,
    diverse_captions,
    diverse_topics,
    forbidden_words,
    framed,
    shipped,
    stereotype_queries,
    values_for,
)
from agents.debias_subject import Sizes, Subject, Templates
from agents.debias_texts import (
    bare,
    concept_words,
    forbidden_in,
    repeated,
    slots_missing,
    thing_of,
    why_no_caption,
)
from runner.naming import article_for

CLASSES = {
    "gender": ["Male", "Female"],
    "skin tone": ["light", "medium-light", "medium", "medium-dark", "dark"],
    "background": ["land", "water"],
}
RACE = ["white", "black", "asian", "african", "european", "indian", "latino", "hispanic", "arab", "jewish", "caucasian"]
AGE_OF_CLIP, SMALL_CLIP = 77, 32


@pytest.fixture(scope="module")
def tokens():
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return lambda text: len(tokenizer.encode(text)) + 2


def subject(attribute):
    classes = CLASSES[attribute]
    queries = ["a photo of a landbird", "a photo of a waterbird"] if attribute == "background" else stereotype_queries()
    return Subject(attribute, tuple(classes), tuple(queries), tuple(forbidden_words(attribute, classes)))


def all_texts(attribute):
    kinds = ("diverse", "bias", "paraphrase", "spurious", "candidate", "augmented", "insights", "scene")
    return {kind: ready_texts(kind, subject(attribute), Sizes(), Templates(), 0) for kind in kinds}


def test_there_are_328_neutral_captions_on_18_topics_and_none_twice():
    texts = diverse_captions()
    assert len(texts) == 328 and len(diverse_topics()) == 18 and repeated(texts) is None
    assert min(map(len, diverse_topics().values())) >= 12


def test_neutral_captions_name_no_gender_no_skin_and_no_race():
    gendered = attribute_named("gender").forbidden
    for text in diverse_captions():
        assert why_no_caption(text, [*gendered, *attribute_named("skin tone").forbidden, *RACE]) is None, text


def test_neutral_captions_are_no_query():
    things = {bare(thing_of(query)) for query in stereotype_queries()}
    assert not things & {bare(thing_of(text)) for text in diverse_captions()}


def test_there_are_25_stereotype_queries_with_the_right_article():
    queries = stereotype_queries()
    assert len(queries) == 25 and repeated(queries) is None
    for query in queries:
        assert query.startswith("A photo of a") and query.endswith(".")
        assert thing_of(query).split()[0] == article_for(bare(thing_of(query)))
        assert forbidden_in(query, attribute_named("gender").forbidden) is None


@pytest.mark.parametrize("attribute", CLASSES)
def test_bias_prompts_are_twenty_a_value_parallel_and_all_different(attribute):
    values = values_for(attribute, CLASSES[attribute])
    assert [len(value.bias) for value in values] == [20] * len(CLASSES[attribute])
    assert repeated(text for value in values for text in value.bias) is None
    banned = concept_words(subject(attribute).queries, [attribute, *CLASSES[attribute]])
    assert banned and not [t for value in values for t in value.bias if forbidden_in(t, banned)]


@pytest.mark.parametrize("attribute", CLASSES)
def test_all_shipped_kinds_fit_the_encoders(attribute, tokens):
    for kind, rows in all_texts(attribute).items():
        counts = {row.text: tokens(row.text) for row in rows}
        assert max(counts.values()) <= SMALL_CLIP < AGE_OF_CLIP, (kind, max(counts, key=counts.get))
        assert {row.source for row in rows} == {"shipped"}


@pytest.mark.parametrize("attribute", CLASSES)
def test_paraphrases_begin_with_the_query_and_name_no_value(attribute):
    for query in subject(attribute).queries:
        texts = framed(query, 10)
        assert texts[0] == query and len(texts) == 10 and repeated(texts) is None
        assert not [t for t in texts[1:] if why_no_caption(t, subject(attribute).forbidden)]
        assert all(bare(thing_of(query)) in t for t in texts)


@pytest.mark.parametrize("attribute", CLASSES)
def test_scenes_hold_both_places_once_and_words_stand_for_them(attribute):
    rows = all_texts(attribute)["scene"]
    scenes = [row.text for row in rows if row.kind == "scene"]
    assert len(scenes) >= 12 and repeated(scenes) is None
    assert not [text for text in scenes if slots_missing(text, ["target", "bias"])]
    assert {row.query for row in rows if row.kind == "target_word"} == set(subject(attribute).queries)
    assert {row.class_name for row in rows if row.kind == "bias_word"} == set(CLASSES[attribute])
    for row in rows:
        if row.kind == "bias_word" and "a {bias}" in scenes[0]:
            assert article_for(row.text) == "a"
    assert not [s for s in [*scenes, *shipped().generic_scenes] if " a {target}" in s or s.startswith("a {target}")]


@pytest.mark.parametrize("attribute", CLASSES)
def test_values_tell_their_texts_apart(attribute):
    texts = all_texts(attribute)
    for kind in ("spurious", "candidate", "augmented"):
        assert repeated(row.text for row in texts[kind]) is None, kind
    pairs = {}
    for row in texts["insights"]:
        pairs.setdefault(row.idx, {})[row.class_name] = row.text
    assert all(set(pair) == {"a", "b"} and pair["a"] != pair["b"] for pair in pairs.values())


def test_underscores_of_names_are_spaces_in_texts_and_stay_in_the_keys():
    classes, queries = ("deep_sea", "dry_land"), ("a photo of a sea_urchin", "a photo of a land_snail")
    named = Subject("living_place", classes, queries, ())
    templates = Templates(spurious=("in the {class}",), candidate=("{query} in the {class}",))
    for kind in ("spurious", "candidate", "augmented", "insights", "scene", "paraphrase"):
        for given in (Templates(), templates):
            rows = ready_texts(kind, named, Sizes(paraphrases=4), given, 0)
            # The first paraphrase is the query itself, as the encoder gets it.
            assert not [r for r in rows if "_" in r.text and r.text != r.query], kind
            assert {r.query for r in rows} <= {None, *queries}
            assert {r.class_name for r in rows} <= {None, "a", "b", *classes}
    assert "a photo of a sea urchin, deep sea" in {
        r.text for r in ready_texts("candidate", named, Sizes(), Templates(), 0)
    }


def test_values_are_found_by_other_names_and_only_once_each():
    assert [v.word for v in values_for("Gender", ["woman", "MEN"])] == ["female", "male"]
    assert values_for("skin_tone", ["dark skin tone", "light"])[0].word == "dark-skinned"
    assert values_for("gender", ["man", "Male"]) is None
    assert values_for("gender", ["Male", "other"]) is None and values_for("season", ["summer", "winter"]) is None


@pytest.mark.parametrize(
    ("query", "attribute", "classes", "pattern", "said"),
    [
        ("A photo of an addict.", "gender", ["Male", "Female"], "A photo of a {bias} addict", ["male", "female"]),
        ("a photo of the nurse", "gender", ["Male", "Female"], "a photo of the {bias} nurse", ["male", "female"]),
        ("nurses at work", "gender", ["Male", "Female"], "nurses at work {bias}", ["who is a man", "who is a woman"]),
        ("a photo of an owl", "background", ["land", "water"], "a photo of an owl {bias}", ["on land", "on water"]),
        ("a park", "season", ["summer", "winter"], "a park, {bias}", ["summer", "winter"]),
    ],
)
def test_values_are_put_before_the_noun_or_behind_the_query(query, attribute, classes, pattern, said):
    assert augmented_pattern(query, attribute, classes) == (pattern, said)
