"""Concepts of answers: the published rules on given spans, a real spaCy model, and the chunkers without one."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_material import MODEL

from runner.errors import ModelRefused
from runner.naming import comma_items
from runner.nodes.openworld.chunks import open_chunker
from runner.nodes.openworld.concepts import PARSED_CHARACTERS, SKIPPED, Spans, cleaned, concepts_of


def texts(prediction, chunks, entities=()):
    return [concept.text for concept in concepts_of(prediction, Spans(list(chunks), list(entities)))]


@pytest.mark.parametrize(
    ("span", "concept"),
    [
        ("The Lighthouse", "lighthouse"),
        ("the the house", "the house"),  # one removal only
        ("a the house", "the house"),
        ("An apple", "apple"),
        ("Their dogs", "dogs"),
        ("Theatre", "theatre"),
        ("this image", "this image"),
        ("two animals", "two animals"),
        ("the photo", None),
        ("an image", None),
        ("this photo", None),
        ("some", None),
        ("Two", None),
        ("*", None),
        ("its type", None),
        ("the", None),
        ("11", "11"),
        ("our dog", "our dog"),
        ("", None),
    ],
)
def test_cleaning(span, concept):
    assert cleaned(span) == concept


def test_repeated_chunks_stay_and_entities_must_be_new():
    found = concepts_of("Whole.", Spans(["A dog", "the dog", "Paris"], ["Paris", "the Louvre", "Louvre", "two"]))
    assert [tuple(c) for c in found] == [
        ("dog", "chunk"), ("dog", "chunk"), ("paris", "chunk"), ("louvre", "entity"), ("Whole.", "whole"),
    ]  # fmt: skip


def test_the_whole_prediction_is_untouched_and_last():
    assert texts("  The Photo ", ["The Photo"]) == ["  The Photo "]
    assert texts("", []) == [""]


def test_skip_words_are_the_published_ones():
    assert len(SKIPPED) == 20 + 3 + 5 + 3 + 3 + 9 + 1  # numbers; * a the; photo and the like; it; this; which; some
    assert {"10", "ten", "photo", "this photo", "whom", "those", "some"} <= SKIPPED


@pytest.fixture(scope="module")
def spacy_chunker():
    return open_chunker(MODEL)


@pytest.mark.parametrize("name", [MODEL, "rules"])
@pytest.mark.parametrize(
    ("prediction", "concepts"),
    [
        ("The object in the photo is a lighthouse.", ["lighthouse"]),
        ("a dog, two animals and the photo", ["dog", "two animals"]),
        ("It appears to be a dog, a Dog and a dog.", ["dog", "dog", "dog"]),
        ("The dog is sitting on a red leather chair.", ["dog", "red leather chair"]),
        ("lighthouse", ["lighthouse"]),
        ("", []),
    ],
)
def test_facts(name, prediction, concepts, spacy_chunker):
    chunker = spacy_chunker if name == MODEL else open_chunker(name)
    (spans,) = chunker.spans([prediction])
    assert texts(prediction, *spans) == [*concepts, prediction]


def test_spacy_finds_entities_and_keeps_order(spacy_chunker):
    predictions = ["The aircraft is a Boeing 707-320 in New York.", "a cat"]
    first, second = spacy_chunker.spans(predictions)
    assert "New York" in first.entities and second == Spans(["a cat"], [])
    assert texts(predictions[0], *first)[-1] == predictions[0]
    assert texts(predictions[0], *first).count("new york") == 1
    assert spacy_chunker.name == MODEL and spacy_chunker.version == "3.8.0"


def test_components_that_nothing_needs_do_not_run_and_change_nothing(spacy_chunker):
    import spacy

    full = spacy.load(MODEL.removeprefix("spacy:"))
    assert "lemmatizer" in full.pipe_names and "lemmatizer" not in spacy_chunker._parser.pipe_names
    predictions = [
        "A small brown dog runs across the old bridge in Paris.",
        "an orange tabby cat and 3 kittens, Nikon D90",
    ]
    for prediction, spans in zip(predictions, spacy_chunker.spans(predictions), strict=True):
        parsed = full(prediction)
        assert spans == Spans([c.text for c in parsed.noun_chunks], [e.text for e in parsed.ents])


def test_auto_is_an_installed_model():
    assert open_chunker("auto").name.startswith("spacy:en_core_web_")


def test_without_a_model_auto_is_rules(monkeypatch):
    monkeypatch.setattr("runner.nodes.openworld.chunks.entry_points", lambda group: [])
    assert open_chunker("auto").name == "rules"
    monkeypatch.undo()
    monkeypatch.setattr("runner.nodes.openworld.chunks.find_spec", lambda name: None)
    assert open_chunker("auto").name == "rules"


@pytest.mark.parametrize("name", ["spacy:en_core_web_nothing", "spacy:os", "spacy:spacy", "spacy:/tmp", "nltk"])
def test_only_installed_models_are_opened(name):
    """A spec must not name a package that is then imported."""
    with pytest.raises(ModelRefused):
        open_chunker(name)


def test_comma():
    chunker = open_chunker("comma")
    cut = [spans.chunks for spans in chunker.spans(["a dog, a cat and a bird or a fish.", "sandal", ", ,", "brand"])]
    assert cut == [["a dog", "a cat", "a bird", "a fish"], ["sandal"], [], ["brand"]]
    assert comma_items(" a, ,b ,") == ["a", "b"] and comma_items(",") == []


@pytest.mark.parametrize(
    ("prediction", "chunks"),
    [
        ("This is a photo of the Golden Gate Bridge at night", ["a photo", "the Golden Gate Bridge", "night"]),
        ("1. cat\n2. dog", ["1", "cat", "2", "dog"]),
        ("The aircraft is an MD-80 airliner", ["The aircraft", "an MD-80 airliner"]),
        ("A boy's hat, brightly coloured", ["A boy's hat", "coloured"]),
        ("the", []),
        ("…!?", []),
    ],
)
def test_rules(prediction, chunks):
    (spans,) = open_chunker("rules").spans([prediction])
    assert spans == Spans(chunks, [])


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_has_concepts(text):
    for name in ("rules", "comma"):
        (spans,) = open_chunker(name).spans([text])
        assert all(chunk in text for chunk in spans.chunks)
        assert concepts_of(text, spans)[-1] == (text, "whole")


def test_hostile_texts(spacy_chunker):
    long = "a dog " * PARSED_CHARACTERS
    strange = ["\x00\x00", "a\u202eb {{ x }} <script>", "\n\n\n", "🦀" * 50, "()" * 500, long]
    for chunker in (spacy_chunker, open_chunker("rules"), open_chunker("comma")):
        found = list(chunker.spans(strange))
        assert len(found) == len(strange)
        assert concepts_of(long, found[-1])[-1].text == long


def test_chunks_import_no_spacy():
    code = "import sys, runner.nodes.openworld.chunks, runner.nodes.openworld.steps\nprint([n for n in ('numpy', 'spacy', 'pyarrow', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
