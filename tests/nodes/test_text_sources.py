"""Lists of texts: WordNet, files, and what strangers write."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from runner.errors import DataError
from runner.nodes.text_sources import (
    MAX_TEXT,
    VISIBLE_KINDS,
    distinct,
    distinct_texts,
    file_texts,
    flattened,
    wordnet_nouns,
)
from runner.nodes.text_specs import TemplateTexts, Texts, WordTexts
from runner.nodes.wordnet import read_wordnet


@pytest.fixture(scope="module")
def wordnet():
    from runner.assets import resolve

    return read_wordnet(Path(resolve("asset:wordnet", lambda line: None)))


@pytest.mark.assets
def test_visible_kinds_are_the_senses_that_they_are_called_by(wordnet):
    for name, sense in VISIBLE_KINDS.items():
        assert wordnet.words[sense][0] == name.partition(",")[0]


@pytest.mark.assets
def test_physical_nouns_can_be_seen_and_are_few(wordnet):
    words = wordnet_nouns(wordnet, "physical", max_words=2, min_tagged=1)
    assert 2000 < len(words) <= 8000
    assert words == sorted(set(words))
    for seen in ("dog", "automobile", "airplane", "table", "rose", "umbrella", "man"):
        assert seen in words
    for unseen in ("idea", "happiness", "theorem", "accountant", "Eiffel Tower", "Paris", "Canis familiaris"):
        assert unseen not in words
    assert all(len(word.split()) <= 2 for word in words)


@pytest.mark.assets
def test_options_of_wordnet_widen_and_narrow(wordnet):
    common = set(wordnet_nouns(wordnet, "physical", max_words=1, min_tagged=1))
    every = set(wordnet_nouns(wordnet, "physical", max_words=1, min_tagged=0))
    nouns = set(wordnet_nouns(wordnet, "nouns", max_words=1, min_tagged=1))
    assert common < every and "laptop" in every - common
    assert "happiness" in nouns and common <= nouns
    assert "Siamese cat" in wordnet_nouns(wordnet, "physical", max_words=2, min_tagged=0)


@pytest.mark.assets
def test_names_of_imagenet_classes(wordnet):
    words = wordnet_nouns(wordnet, "imagenet", max_words=2, min_tagged=1)
    assert {"strawberry", "laptop", "airliner", "beagle"} <= set(words)
    assert "Canis lupus" not in words


@given(st.lists(st.text(max_size=40), max_size=20))
def test_texts_are_distinct_single_lines(texts):
    found = distinct(texts)
    assert all(text and text == " ".join(text.split()) and len(text.splitlines()) == 1 for text in found)
    assert len({text.casefold() for text in found}) == len(found)
    assert distinct(found) == found


def test_hostile_texts_are_flattened_and_bounded():
    assert flattened("cat\n- dog\x00\u2028lion\x85") == "cat - dog lion"
    assert len(flattened("x" * 10_000)) == MAX_TEXT
    assert distinct(["Cat", "cat", " CAT ", "", "\n", "dog"]) == ["Cat", "dog"]


def test_files_of_texts(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n\nred dog\n", "utf8")
    (tmp_path / "b.json").write_text(json.dumps(["bird", "é"]), "utf8")
    pq.write_table(pa.table({"caption": ["a fox", None], "x": [1, 2]}), tmp_path / "c.parquet")
    assert distinct(file_texts(tmp_path / "a.txt", "caption")) == ["cat", "red dog"]
    assert list(file_texts(tmp_path / "b.json", "caption")) == ["bird", "é"]
    assert list(file_texts(tmp_path / "c.parquet", "caption")) == ["a fox"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b'{"a": 1}'), ("a.json", b"[1, 2]"), ("a.json", b"nonsense"), ("a.txt", b"\xff\xfe\xfa"),
     ("a.parquet", b"PAR1 not really"), ("missing.txt", None)],
)  # fmt: skip
def test_files_that_hold_no_texts_are_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        list(file_texts(tmp_path / name, "caption"))


def test_a_missing_column_is_named(tmp_path):
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="caption"):
        list(file_texts(tmp_path / "c.parquet", "caption"))


def test_specs_of_texts():
    judge = TypeAdapter(Texts)
    assert judge.validate_python({"words": ["cat"]}).words == ["cat"]
    assert [t.key for t in judge.validate_python([{"wordnet": "physical"}, {"words": ["x"]}])] == ["wordnet", "words"]
    with pytest.raises(ValidationError, match="captions, file, words, templates"):
        judge.validate_python({"nonsense": 1})
    for wrong in ({"words": []}, {"wordnet": "verbs"}, [], {"wordnet": "nouns", "max_words": 0}, {"word": ["x"]}):
        with pytest.raises(ValidationError):
            judge.validate_python(wrong)


def test_templates_are_filled_with_each_distinct_text():
    judge = TypeAdapter(Texts)
    source = judge.validate_python(
        {"templates": ["a photo of a {}", "{} here"], "of": {"words": ["cat", "Cat", "dog"]}}
    )
    assert distinct_texts(source) == ["a photo of a cat", "a photo of a dog", "cat here", "dog here"]
    assert distinct_texts([source, WordTexts(words=["cat here", "a fox"])])[-2:] == ["dog here", "a fox"]
    for wrong in (
        {"templates": ["no place"], "of": {"words": ["a"]}},
        {"templates": ["{}"]},
        {"templates": [], "of": {"words": ["a"]}},
    ):
        with pytest.raises(ValidationError):
            judge.validate_python(wrong)


def test_braces_in_a_text_are_no_template():
    assert distinct_texts(TemplateTexts(templates=["a {}"], of=WordTexts(words=["{} {0}"]))) == ["a {} {0}"]


def test_sources_without_any_text_are_refused():
    with pytest.raises(DataError, match="no text"):
        distinct_texts(WordTexts(words=[" "]))
