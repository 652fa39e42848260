"""Texts that an autoencoder is trained on: blank ones are counted, and too few are refused with the number needed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.sem.sae_runs import held_rows, least_rows
from runner.nodes.text_sources import blank_places, distinct_texts
from runner.nodes.text_specs import FileTexts, TemplateTexts, WordTexts


def test_blank_texts_are_named_by_source_and_number(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n\n dog\n \t\n")
    file, words = FileTexts(file=str(tmp_path / "a.txt")), WordTexts(words=["", "cat", "\u2028"])
    assert blank_places([file, words]) == ["a.txt: 2", "a.txt: 4", "words: 1", "words: 3"]
    assert blank_places(TemplateTexts(templates=["a {}"], of=words)) == ["words: 1", "words: 3"]
    assert blank_places(WordTexts(words=["cat"])) == []
    assert distinct_texts([file, words]) == ["cat", "dog"]


@given(st.floats(min_value=1e-6, max_value=0.5))
def test_the_least_number_of_rows_is_the_first_that_leaves_two(share):
    least = least_rows(share)
    assert least - held_rows(share, least) >= 2
    assert least - 1 - held_rows(share, least - 1) < 2


@pytest.mark.parametrize(("share", "least"), [(0.05, 3), (0.5, 4)])
def test_the_least_number_of_rows_by_hand(share, least):
    assert least_rows(share) == least
