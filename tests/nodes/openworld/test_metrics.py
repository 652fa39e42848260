"""Metrics of free text: hand-made lists, identities, and independent formulas."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.openworld import metrics as m

COSINES = st.floats(-1, 1, allow_nan=False)
ANSWERS = st.lists(st.lists(COSINES, min_size=1, max_size=6), min_size=1, max_size=8)


def unit(rng, n, d=16):
    vectors = rng.normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("reference", "prediction", "equal"),
    [
        ("Boeing 707", "boeing 707", True),
        ("1,000 $", "1000 ", True),
        ("dog", "dog ", False),
        ("dog", "dog.", False),
        ("dog", None, False),
        ("", "", True),
        ("", ",$", True),
    ],
)
def test_exact_match(reference, prediction, equal):
    assert m.exact_match([reference], [prediction]).tolist() == [equal]


@pytest.mark.parametrize("mode", ["strict", "first_digit", "constrained"])
@pytest.mark.parametrize(
    ("reply", "verdicts"),
    [  # strict, first_digit, constrained
        ("1", (1, 1, 1)),
        ("0", (0, 0, 0)),
        ("1.", (None, 1, None)),
        (" 1", (None, 1, 1)),
        ("1\n", (None, 1, 1)),
        ('"0"', (None, 0, 0)),
        ("Yes", (None, None, None)),
        ("", (None, None, None)),
        ("The answer is 0, not 1", (None, 0, None)),
        ("7 of 10", (None, None, None)),
        ("\u0661", (None, None, None)),  # a digit, but not one of ours
        ("10", (None, 1, None)),
    ],
)
def test_replies_of_judges(reply, verdicts, mode):
    expected = dict(zip(("strict", "first_digit", "constrained"), verdicts, strict=True))[mode]
    assert m.parse_judge_reply(reply, mode) is expected or m.parse_judge_reply(reply, mode) == expected


def test_strict_is_the_default_and_unknown_modes_are_refused():
    assert m.parse_judge_reply("1 ") is None
    with pytest.raises(ValueError, match="lenient"):
        m.parse_judge_reply("1", "lenient")


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        (
            "lighthouse",
            "The object in the photo is a lighthouse.",
            1 / 7,
        ),  # the (twice), object in photo is a lighthouse
        ("golden retriever", "dog, golden retriever", 2 / 3),
        ("Golden Retriever", "golden retriever", 0.0),  # the reference keeps its case
        ("dog", "'Dog',", 1.0),
        ("dog", "5 dog", 1 / 2),  # the word of a digit is the empty word
        ("md", "MD-80", 1.0),
        ("a b", "a\nb", 0.0),  # a line break is no space: one word "ab"
        ("a b", "a  b", 2 / 3),  # two spaces make an empty word
        ("café", "café", 0.0),  # only a to z are letters in the prediction
        ("dog", "", 0.0),
        ("", "", 1.0),
    ],
)
def test_words_in_common(reference, prediction, expected):
    assert m.textual_iou([reference], [prediction])[0] == pytest.approx(expected, abs=1e-15)


@settings(deadline=None)
@given(st.lists(st.text("abc XY", max_size=12), min_size=1))
def test_words_in_common_are_all_where_the_texts_agree(texts):
    lower = [text.lower() for text in texts]
    np.testing.assert_array_equal(m.textual_iou(lower, lower), 1.0)
    assert np.isnan(m.textual_iou(texts, [None] * len(texts))).all()


def test_semantic_similarity():
    rng = np.random.default_rng(0)
    a, b = unit(rng, 40), unit(rng, 40)
    expected = [float(np.dot(x.astype(float), y.astype(float))) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(m.semantic_similarity(a, b), expected, atol=1e-12)
    np.testing.assert_array_equal(m.semantic_similarity(a, b), m.semantic_similarity(b, a))
    np.testing.assert_allclose(m.semantic_similarity(a, a), 1, atol=1e-6)
    assert np.abs(m.semantic_similarity(a, b)).max() <= 1 + 1e-6
    assert m.semantic_similarity(-a, a).max() < 0  # never clipped
    with pytest.raises(ValueError, match="differ in shape"):
        m.semantic_similarity(a, b[:3])


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(1)
    vectors, left, right = unit(rng, 9), rng.integers(9, size=100), rng.integers(9, size=100)
    whole = m.indexed_similarity(vectors, left, right)
    monkeypatch.setattr(m, "_ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(m.indexed_similarity(vectors, left, right), whole, atol=1e-15)


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), max_size=20))
def test_each_string_is_embedded_once_in_order_of_length(texts):
    calls = []

    def encode(batch):
        calls.append(list(batch))
        return np.array([[len(text), sum(map(ord, text))] for text in batch], np.float32).reshape(-1, 2)

    embedded = m.embed_distinct(texts, encode)
    assert len(calls) == 1 and sorted(calls[0]) == sorted(set(texts))
    assert [len(text) for text in calls[0]] == sorted(len(text) for text in calls[0])
    np.testing.assert_array_equal(embedded.gathered(), encode(texts))


def test_median_is_the_lower_of_the_middle_two():
    values = [1.0, 0.779, 0.1, 0.4, 0.3, 0.9, 0.5]
    result = m.concept_similarity(values, [2, 4, 1])
    np.testing.assert_allclose(result.best, [1.0, 0.9, 0.5])
    np.testing.assert_allclose(result.median, [0.779, 0.3, 0.5])
    np.testing.assert_allclose(result.least, [0.779, 0.1, 0.5])
    np.testing.assert_allclose(result.mean, [0.8895, 0.425, 0.5])


@settings(deadline=None)
@given(ANSWERS)
def test_reductions_agree_with_torch(answers):
    result = m.concept_similarity([v for own in answers for v in own], [len(own) for own in answers])
    tensors = [torch.tensor(own, dtype=torch.float64) for own in answers]
    np.testing.assert_array_equal(result.median, [t.median().item() for t in tensors])
    np.testing.assert_array_equal(result.best, [t.max().item() for t in tensors])
    np.testing.assert_array_equal(result.least, [t.min().item() for t in tensors])
    np.testing.assert_allclose(result.mean, [t.mean().item() for t in tensors], atol=1e-12)
    assert (result.least <= result.median).all() and (result.median <= result.best).all()


@settings(deadline=None)
@given(ANSWERS)
def test_the_exact_label_as_one_more_concept_makes_the_best_one(answers):
    before = m.concept_similarity([v for own in answers for v in own], [len(own) for own in answers])
    after = m.concept_similarity([v for own in answers for v in (*own, 1.0)], [len(own) + 1 for own in answers])
    assert (after.best == 1).all() and (after.best >= before.best).all()


def test_concepts_must_belong_to_answers():
    for values, counts in (([0.1, 0.2], [1]), ([0.1], [1, 0]), ([], [0])):
        with pytest.raises(ValueError, match="at least 1 each"):
            m.concept_similarity(values, counts)
    assert m.concept_similarity([], []).best.shape == (0,)


def test_mean_average_similarity():
    reached, mean = m.mean_average_similarity([0.5, 0.65, 0.95, -0.1, np.nan])
    np.testing.assert_array_equal(reached[:4], [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    np.testing.assert_allclose(mean[:4], [0.2, 0.4, 1.0, 0.0])
    assert np.isnan(mean[4]) and np.isnan(reached[4]).all()
    for wrong in ([], [1.5], [-2.0]):
        with pytest.raises(ValueError, match="thresholds"):
            m.mean_average_similarity([0.5], wrong)


def test_error_quadrants():
    verdicts, closeness = [1, 1, 0, 0, 1, np.nan, 0], [0.6, 0.59, 0.9, 0.1, np.nan, 0.9, 0.6]
    assert m.error_quadrants(verdicts, closeness, 0.6).tolist() == [0, 1, 2, 3, -1, -1, 2]


def test_agents_import_replies_without_anything_heavy():
    code = (
        "import sys, runner.nodes.openworld.metrics\n"
        "print([n for n in ('torch', 'transformers', 'spacy', 'scipy', 'pyarrow', 'faiss', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
