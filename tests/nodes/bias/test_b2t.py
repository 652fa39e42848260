"""Bias-to-Text: scores against loops and scipy, keywords that stand in a caption, the published faults."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from runner.errors import UsageError
from runner.nodes.bias.b2t import (
    b2t_intervals,
    b2t_scores,
    join_captions,
    keywords,
    marks,
    mentioned,
    subgroup_accuracy,
    whole_words,
)

CAPTIONS = [
    "a man wearing a red hat on the beach",
    "a dog running in the snow",
    "a woman with long blond hair",
    "a cat sitting on a wooden table",
    "two people riding bikes down a street",
    "a man in a black suit and tie",
    "a bird flying over the ocean",
    "a child eating ice cream",
    "a close up of a flower",
    "a train on the tracks near a station",
    "a man holding a tennis racket",
    "a bowl of fruit on a table",
]


def unit(rng, *shape):
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_scores_equal_plain_loops():
    rng = np.random.default_rng(1)
    images, texts, correct = unit(rng, 40, 8), unit(rng, 5, 8), rng.random(40) < 0.7
    found = b2t_scores(images, texts, correct)
    for j, text in enumerate(texts.astype(float)):
        sums, counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}
        for image, right in zip(images.astype(float), correct, strict=True):
            sums[bool(right)] += 100 * sum(a * b for a, b in zip(image, text, strict=True))
            counts[bool(right)] += 1
        assert found[j] == pytest.approx(sums[False] / counts[False] - sums[True] / counts[True], abs=1e-10)


def test_a_positive_score_is_a_bias_against():
    images = np.array([[1.0, 0], [0, 1], [0, 1]])
    # The wrong picture is the one that resembles the first keyword.
    assert b2t_scores(images, [[1.0, 0], [0, 1]], [False, True, True]).tolist() == [100, -100]


@pytest.mark.parametrize("correct", [[True, True], [False, False], []])
def test_without_both_sides_a_score_is_undefined(correct):
    images = np.zeros((len(correct), 3))
    assert np.isnan(b2t_scores(images, np.ones((2, 3)), correct)).all()
    assert np.isnan(b2t_intervals(images, np.ones((2, 3)), correct)).all()


def test_intervals_are_welchs():
    rng = np.random.default_rng(2)
    images, texts, correct = unit(rng, 30, 6), unit(rng, 4, 6), rng.random(30) < 0.6
    cosines = 100 * images.astype(float) @ texts.astype(float).T
    wanted = ttest_ind(cosines[~correct], cosines[correct], equal_var=False).confidence_interval(0.95)
    low, high = b2t_intervals(images, texts, correct)
    assert low == pytest.approx(wanted.low) and high == pytest.approx(wanted.high)


def test_without_yake_one_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "yake", None)
    with pytest.raises(UsageError, match=r"vlm-runner\[b2t\]"):
        keywords(CAPTIONS)


def test_joined_with_blanks_keywords_span_two_captions_and_are_in_none():
    """The published way: such a keyword occurs in no caption, so its subgroup accuracy divides by zero."""
    from yake import KeywordExtractor

    naive = [k for k, _ in KeywordExtractor(lan="en", n=3, dedup_lim=0.9, top=20).extract_keywords(" ".join(CAPTIONS))]
    spanning = [k for k in naive if not mentioned(CAPTIONS, k).any()]
    assert len(spanning) >= 3
    for keyword in spanning:
        group = subgroup_accuracy(CAPTIONS, np.ones(len(CAPTIONS), bool), keyword)
        assert group.n == 0 and math.isnan(group.acc)
    found = keywords(CAPTIONS)
    assert len(found.kept) == 20 and found.spanning == []
    assert all(mentioned(CAPTIONS, keyword.text).any() for keyword in found.kept)
    assert [k.yake for k in found.kept] == sorted(k.yake for k in found.kept)
    assert {"long blond hair", "eating ice cream"} <= {k.text for k in found.kept}


WORDS = st.sampled_from(
    [
        "a",
        "the",
        "red",
        "dog",
        "runs",
        "Snow",
        "street",
        "no.",
        "3",
        "U.S.",
        "e.g.",
        "ice-cream",
        "it's",
        "man,",
        "woman!",
        "(black)",
        "c++",
        "Dr.",
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=8))
def test_every_kept_keyword_stands_in_a_caption(captions):
    found = keywords(captions)
    assert all(mentioned(captions, keyword.text).any() for keyword in found.kept)
    assert not any(mentioned(captions, keyword).any() for keyword in found.spanning)


def test_a_keyword_that_yake_makes_up_is_dropped_and_listed():
    # YAKE takes "it's" apart, so its keyword stands in no caption.
    found = keywords(["the red street it's dog town"])
    assert found.spanning == ["street it dog"] and "dog town" in {k.text for k in found.kept}


def test_captions_of_nothing_give_no_keywords():
    assert keywords([]) == ([], []) and keywords(["", " . "]) == ([], [])
    assert join_captions(["A dog.", "  a\ncat  "]) == "A dog .\na cat .\n"


def test_subgroup_accuracy_by_hand():
    captions = ["A Dog on grass", "hot dogs", "dog-house", "the  DOG", "a cat"]
    group = subgroup_accuracy(captions, [True, True, False, False, True], "dog")
    assert (group.k, group.n, group.acc) == (1, 3, pytest.approx(1 / 3))
    assert mentioned(captions, "on grass").tolist() == [True, False, False, False, False]
    assert not mentioned(captions, "").any()


@pytest.mark.parametrize("keyword", ["c++", "a.b", "(black", "[x", "what?", "50%", "\\d"])
def test_a_keyword_is_no_regular_expression(keyword):
    captions = [f"so {keyword} it is", "so acb 7 it is"]
    assert mentioned(captions, keyword).tolist() == [True, False]


@given(st.text(min_size=1).filter(lambda t: t.strip()))
def test_any_text_is_found_in_itself(text):
    assert whole_words(text).search(text)


def test_marks_by_hand():
    found = marks(
        {
            "cat": {"snow": 1.0, "grass": 2.0, "sky": -0.1, "rug": 0.0, "toy": math.nan, "sea": 3.0},
            "dog": {"snow": 0.5, "grass": 0.0, "sky": 4.0, "rug": 1.0, "sea": math.nan},
        }
    )
    assert found["cat"] == {"snow": "M", "grass": "S", "sky": "", "rug": "M", "toy": "", "sea": "S"}
    assert found["dog"] == {"snow": "M", "grass": "M", "sky": "S", "rug": "S", "sea": ""}
