"""Rules of the texts: articles, placeholders, forbidden words, repeats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.debias_texts import (
    bare,
    concept_words,
    filled,
    forbidden_in,
    repeated,
    slots_missing,
    substituted,
    thing_of,
    why_no_caption,
    why_no_pair,
    why_not_augmented,
)
from runner.naming import article_for


@pytest.mark.parametrize(
    ("pattern", "word", "text"),
    [
        ("a photo of a {bias} nurse", "old", "a photo of an old nurse"),
        ("A photo of an {bias} addict", "male", "A photo of a male addict"),
        ("An {bias} nurse", "young", "A young nurse"),
        ("the {bias} nurse", "old", "the old nurse"),
        ("a nurse {bias}", "at work", "a nurse at work"),
        ("a {bias} coat", "used", "a used coat"),
        ("an {bias} answer", "honest", "an honest answer"),
        ("a {bias} person", "unhappy", "an unhappy person"),
        ("a {bias} person", "European", "a European person"),
        ("{bias} nurse", "old", "old nurse"),
        ("a  {bias} x", "{bias}", "a  {bias} x"),
        ("pa {bias}", "old", "pa old"),
    ],
)
def test_articles_follow_the_word_that_was_put_in(pattern, word, text):
    assert substituted(pattern, "bias", word) == text


@given(st.sampled_from(["a photo of a {bias} nurse", "see an {bias} owl", "{bias} first"]), st.text(max_size=20))
def test_substitution_changes_nothing_but_the_slot_and_one_article(pattern, word):
    text = substituted(pattern, "bias", word)
    head, _, tail = pattern.partition("{bias}")
    assert text.endswith(word + tail)
    assert text.removesuffix(word + tail).split() in (
        [*head.split()],
        [*head.split()[:-1], "a"],
        [*head.split()[:-1], "an"],
    )


@pytest.mark.parametrize(
    ("query", "thing", "noun"),
    [
        ("A photo of a violent person.", "a violent person", "violent person"),
        ("an image of an owl", "an owl", "owl"),
        ("a blurry photo of the sea", "the sea", "sea"),
        ("photos of cats", "cats", "cats"),
        ("a celebrity with grey hair", "a celebrity with grey hair", "celebrity with grey hair"),
        ("landbird", "landbird", "landbird"),
    ],
)
def test_what_a_query_shows(query, thing, noun):
    assert (thing_of(query), bare(thing_of(query))) == (thing, noun)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("no slot", "{bias} not at all"), ("{bias} and {bias}", "{bias} 2 times"), ("{target} {bias} {x}", "brace"),
        ("{target} {bias}}", "brace"), ("{bias} only", "{target} not at all"),
    ],
)  # fmt: skip
def test_placeholders_stand_exactly_once_and_alone(text, part):
    slots = ["target", "bias"] if "target" in text or "only" in text else ["bias"]
    assert part in slots_missing(text, slots)


def test_templates_are_filled_at_once():
    assert filled("{query}, {class}", {"query": "a {class}", "class": "{query}"}) == "a {class}, {query}"
    assert filled("{other}", {"query": "x"}) == "{other}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("an image of a woman at work", "'woman'"), ("images of WOMEN", "'women'"), ("word", "too short"),
        ("a {bias} photo", "placeholder"), ("a <b> photo", "placeholder"), ("long " * 100, "longer"),
        ("a woman's hand", "'woman'"),
    ],
)  # fmt: skip
def test_captions_that_do_not_do(text, reason):
    assert reason in why_no_caption(text, ["woman", "women"])


def test_words_inside_other_words_are_not_forbidden():
    assert why_no_caption("a picture of a landbird in shelter", ["land", "he"]) is None
    assert forbidden_in("a photo", []) is None


def test_an_augmented_query_is_the_query_with_one_place():
    query = "A photo of an addict."
    assert why_not_augmented("a photo of a {bias} addict", query) is None
    assert "not at all" in why_not_augmented("a photo of an addict", query)
    assert "word for word" in why_not_augmented("a photo of a {bias} junkie", query)
    assert "word for word" in why_not_augmented("a photo of a {bias} addict in a street", query)


@pytest.mark.parametrize(
    ("pair", "reason"), [(("", "x"), "empty"), (("Sand ", "sand"), "the same"), (("\n", "x"), "empty")]
)
def test_pairs_need_two_different_values(pair, reason):
    assert reason in why_no_pair(*pair)
    assert why_no_pair("sand", "ice") is None


def test_concept_words_are_what_a_query_is_about():
    assert concept_words(["A photo of a violent person.", "A photo of a drug dealer."]) == ["violent", "drug", "dealer"]
    assert concept_words(["a photo of a male nurse"], ["Male"]) == ["nurse"]


@given(st.lists(st.text(max_size=5), max_size=8))
def test_repeats_are_found_whatever_case(texts):
    assert repeated([*texts, "Same", " same"]) is not None
    assert repeated([]) is None and repeated(["a", "b"]) is None


@given(st.text(min_size=1, max_size=12))
def test_every_word_has_an_article(word):
    assert article_for(word) in ("a", "an")
