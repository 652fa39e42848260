"""CaSED: candidate words worked out by hand, and what must hold of the probabilities."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import DataError
from runner.nodes.classify import cased_scores
from runner.nodes.classify.cased import centroid
from runner.nodes.classify.words import candidate_words, plain_words, read_lexicon, singular

SMALL = {"quickly": "RB", "eat": "VB", "running": "VBG", "red": "JJ", "the": "DT"}


def tags(word):
    """Everything is a noun but what stands above."""
    return frozenset({SMALL.get(word, "NN")})


def nothing_known(word):
    return frozenset({"NN", "UNKNOWN"})


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (
            ["A photo of two dogs on grass.", "my DOG running in grass <PERSON>", "Dog-house.jpg www.x.y/dog.png"],
            ["dog", "grass"],
        ),
        (["a red car"], ["red", "car"]),  # none twice: the most frequent, and "a" is too short
        (["photo photo photo, dog"], ["dog"]),  # media words leave before words are counted
        (["the the dog"], ["object"]),  # parts of speech come after the count
        (["cats eat quickly", "a cat can eat quickly"], ["cat"]),
        (["running running 123 4x4"], ["running"]),
        (["black_bird", "black-bird"], ["black", "bird"]),
        (["glass bus iris pony ponies tomatoes"] * 2, ["glass", "bus", "iris", "pony", "ponies", "tomatoes"]),
        (["a street.The lamp", "street. lamp"], ["street", "lamp"]),  # a dot with what follows it is a file ending
        (["boat.", "boat.Big car big"], ["boat"]),
        (["café", "Café"], ["café"]),  # accented letters are letters
        (["cat/dog catdog"], ["catdog"]),  # odd characters are dropped, not turned into spaces
        (["a photo, a picture"], ["object"]),
        ([""], ["object"]),
        ([], ["object"]),
    ],
)
def test_candidate_words_by_hand(captions, expected):
    assert candidate_words(captions, tags) == expected


def test_the_least_count_can_be_raised_and_falls_back_to_the_highest():
    captions = ["cat dog", "cat dog", "cat bird"]
    assert candidate_words(captions, tags, min_count=3) == ["cat"]
    assert candidate_words(captions, tags, min_count=2) == ["cat", "dog"]
    assert candidate_words(captions, tags, min_count=9) == ["cat"]


def test_an_unknown_plural_loses_its_s_and_a_known_one_goes_to_its_lemma():
    known = {"box", "lens", "horse", "glass"}

    def lexicon(word):
        return frozenset({"NN"} if word in known else {"NN", "UNKNOWN"})

    assert [singular(w, lexicon) for w in ("boxes", "lens", "horses", "glasses", "bmws", "gas", "audis")] == [
        "box", "lens", "horse", "glass", "bmw", "gas", "audis",
    ]  # fmt: skip


def test_a_singular_is_a_noun_that_is_known_and_not_rare():
    nouns = {"wolf", "knife", "cave", "cafe", "save", "safe", "lens", "lense", "clothes", "cloth", "leaf", "leave"}

    def lexicon(word):
        return frozenset({"NN"} | (set() if word in nouns else {"UNKNOWN"}) | ({"RARE"} if word in rare else set()))

    rare = {"lense", "save"}
    plurals = ("wolves", "knives", "caves", "saves", "lenses", "clothes", "leaves", "zarves")
    assert [singular(word, lexicon) for word in plurals] == [
        "wolf", "knife", "cave", "save", "lens", "clothes", "leave", "zarve",
    ]  # fmt: skip
    irregular = {"leaves": ("leaf", "leave"), "caves": ("unknown",)}
    assert singular("leaves", lexicon, irregular) == "leaf"
    assert singular("caves", lexicon, irregular) == "cave"
    assert candidate_words(["leaves of a leaf"], lexicon, irregular=irregular) == ["leaf"]


@given(st.lists(st.text(max_size=60), max_size=5))
@settings(deadline=None)
def test_any_captions_give_lower_case_letters_or_the_fallback(captions):
    words = candidate_words(captions, nothing_known)
    assert words and len(set(words)) == len(words)
    assert all(word.isalpha() and word == word.lower() for word in words if word != "object")


@given(st.text(max_size=200))
def test_words_are_the_same_in_one_caption_or_cut_at_a_blank(text):
    halves = text.split(" ", 1)
    if not any(c in text for c in "<>"):  # a token may span the blank
        joined = list(plain_words(text, nothing_known))
        assert joined == [word for half in halves for word in plain_words(half, nothing_known)]


# --- probabilities ---------------------------------------------------------------------------------------------------


def unit(rng, *shape):
    values = rng.normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


@given(st.integers(0, 10**6), st.integers(1, 7), st.floats(0, 1), st.sampled_from([1.0, 20.0, 100.0]))
@settings(deadline=None, max_examples=60)
def test_probabilities_sum_to_one_over_own_words_and_are_nothing_elsewhere(seed, n, alpha, scale):
    rng = np.random.default_rng(seed)
    images, words, captions = unit(rng, 4, 6), unit(rng, n, 6), unit(rng, 4, 3, 6)
    own = rng.random((4, n)) < 0.5
    own[:, 0] = True
    p = cased_scores(images, words, captions, logit_scale=scale, alpha=alpha, own=own)
    assert p.dtype == np.float32 and p.shape == (4, n)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert (p[~own] == 0).all() and (p >= 0).all()
    for i in range(4):  # one by one, over the own words alone
        alone = cased_scores(images[i], words[own[i]], captions[i], logit_scale=scale, alpha=alpha)
        np.testing.assert_allclose(p[i, own[i]], alone, atol=1e-5)


def test_alpha_one_ignores_the_captions_and_alpha_nought_the_picture():
    rng = np.random.default_rng(3)
    image, other, words = unit(rng, 5), unit(rng, 5), unit(rng, 4, 5)
    told, told_otherwise = unit(rng, 3, 5), unit(rng, 3, 5)

    def p(v, captions, alpha):
        return cased_scores(v, words, captions, logit_scale=100.0, alpha=alpha)

    np.testing.assert_array_equal(p(image, told, 1.0), p(image, told_otherwise, 1.0))
    np.testing.assert_array_equal(p(image, told, 0.0), p(other, told, 0.0))
    assert not np.allclose(p(image, told, 0.7), p(image, told_otherwise, 0.7))
    assert not np.allclose(p(image, told, 0.7), p(other, told, 0.7))


def test_two_words_by_hand():
    image, words = np.array([1, 0], np.float32), np.eye(2, dtype=np.float32)
    captions = np.array([[0, 1], [0, 1]], np.float32)
    seen = math.exp(2) / (math.exp(2) + 1)  # scale 2, cosines 1 and 0
    expected = [0.7 * seen + 0.3 * (1 - seen), 0.7 * (1 - seen) + 0.3 * seen]
    p = cased_scores(image, words, captions, logit_scale=2.0, alpha=0.7)
    np.testing.assert_allclose(p, expected, atol=1e-6)


def test_captions_that_cancel_out_say_nothing():
    captions = np.array([[1, 0], [-1, 0]], np.float32)
    np.testing.assert_array_equal(centroid(captions), [0, 0])
    p = cased_scores(np.array([0, 1], np.float32), np.eye(2, dtype=np.float32), captions, logit_scale=9.0, alpha=0.0)
    np.testing.assert_allclose(p, [0.5, 0.5])


def test_what_makes_no_sense_is_refused():
    words, captions = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    with pytest.raises(ValueError, match="alpha"):
        cased_scores(words[0], words, captions, logit_scale=1.0, alpha=1.5)
    with pytest.raises(ValueError, match="candidate word"):
        cased_scores(words[0], words, captions, logit_scale=1.0, alpha=0.5, own=np.zeros(2, bool))


# --- the lexicon -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lexicon():
    from runner.assets import resolve

    return read_lexicon(Path(resolve("asset:wordnet", lambda line: None)))


@pytest.mark.assets
@pytest.mark.parametrize(
    ("word", "tag"),
    [("dog", "NN"), ("dogs", "NNS"), ("red", "JJ"), ("better", "JJR"), ("tallest", "JJS"), ("running", "VBG"),
     ("painted", "VBN"), ("broken", "VBN"), ("audi", "NN")],
)  # fmt: skip
def test_the_lexicon_knows_what_a_word_can_be(lexicon, word, tag):
    assert tag in lexicon(word)


@pytest.mark.assets
def test_function_words_adverbs_and_plain_verbs_name_nothing(lexicon):
    captions = ["who are with the quickly eat but has dog"] * 2
    assert candidate_words(captions, lexicon) == ["dog"]


@pytest.mark.assets
@pytest.mark.parametrize(
    ("plural", "lemma"),
    [("knives", "knife"), ("wolves", "wolf"), ("shelves", "shelf"), ("loaves", "loaf"), ("scarves", "scarf"),
     ("lenses", "lens"), ("leaves", "leaf"), ("clothes", "clothes"), ("caves", "cave"), ("gloves", "glove"),
     ("horses", "horse"), ("houses", "house"), ("buses", "bus"), ("gases", "gas"), ("boxes", "box"), ("roses", "rose"),
     ("doses", "dose"), ("glasses", "glass"), ("lures", "lure"), ("churches", "church"), ("bases", "base"),
     ("ponies", "ponies"), ("axes", "ax"), ("broadleaves", "broadleaf"), ("candlefishes", "candlefish")],
)  # fmt: skip
def test_plurals_are_led_back_by_wordnet(lexicon, plural, lemma):
    assert list(plain_words(plural, lexicon, lexicon.irregular_nouns)) == [lemma]


@pytest.mark.assets
def test_nouns_that_look_like_function_words_count_and_function_words_do_not(lexicon):
    captions = ["a tin can and a human being", "the past, the will, the might", "out off may must who would"] * 2
    assert candidate_words(captions, lexicon) == ["tin", "can", "human", "being", "past", "will", "might"]


@pytest.mark.assets
def test_real_captions(lexicon):
    captions = [
        "Two Siamese cats sleeping on the sofa", "siamese kitten - stock photo.jpg", "A cat sitting on a red sofa!",
        "cat and kitten playing with boxes", "The box is empty <end>",
    ]  # fmt: skip
    assert candidate_words(captions, lexicon) == ["siamese", "cat", "sofa", "kitten", "box"]


def test_a_folder_without_word_lists_is_named(tmp_path):
    with pytest.raises(DataError, match="word lists"):
        read_lexicon(tmp_path)
