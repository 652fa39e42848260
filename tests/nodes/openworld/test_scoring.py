"""Scores of answers: the protocol's identities on generated answers, joins with judgements, and embedding each text once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_material import Letters, row

from runner.nodes.openworld.chunks import open_chunker
from runner.nodes.openworld.concepts import concepts_of
from runner.nodes.openworld.scoring import Judged, Verdict, score_answers, segments

CELLS = {"hit_close": "cs", "hit_far": "cg", "miss_close": "ws", "miss_far": "w"}
WORDS = st.lists(
    st.sampled_from(
        ["a", "the", "dog", "cat", "red", "photo", "is", "of", "lighthouse", ",", "and", "two", "Boeing", "707"]
    ),
    max_size=8,
)
PREDICTIONS = st.one_of(st.none(), WORDS.map(" ".join))
ANSWERS = st.lists(
    st.tuples(st.sampled_from(["dog", "lighthouse", "Boeing 707"]), PREDICTIONS), min_size=1, max_size=10
)
SIMILARITIES = ("semantic_similarity", "semantic_similarity_first", "bcs", "mcs", "ccs_mean", "ccs_min")


def scored(answers, encode=None, **fields):
    rows = [row(target, prediction, str(i), **fields) for i, (target, prediction) in enumerate(answers)]
    return score_answers(
        rows, open_chunker("rules"), encode or Letters().encode, Judged(), threshold=0.6, thresholds=[0.5, 0.9], cells=CELLS
    )  # fmt: skip


@settings(deadline=None)
@given(ANSWERS)
def test_identities(answers):
    values = scored(answers).values
    failed = np.array([prediction is None for _, prediction in answers])
    for name in SIMILARITIES:
        np.testing.assert_array_equal(np.isnan(values[name]), failed)
    v = {name: values[name][~failed] for name in (*SIMILARITIES, "n_concepts")}
    assert (
        (v["ccs_min"] <= v["mcs"]).all()
        and (v["mcs"] <= v["bcs"]).all()
        and (v["bcs"] >= v["semantic_similarity"]).all()
    )
    assert (v["ccs_min"] <= v["ccs_mean"] + 1e-12).all() and (v["ccs_mean"] <= v["bcs"] + 1e-12).all()
    assert (v["n_concepts"] >= 1).all()
    for name in ("text_inclusion", "exact_match", "text_inclusion_first"):
        assert (values[name][failed] == 0).all()


@settings(deadline=None)
@given(ANSWERS, st.randoms(use_true_random=False))
def test_duplicates_change_no_mean_and_order_no_score(answers, random):
    once, twice = scored(answers).values, scored(answers + answers).values
    order = random.sample(range(len(answers)), len(answers))
    mixed = scored([answers[i] for i in order]).values
    for name, column in once.items():
        np.testing.assert_array_equal(twice[name], np.concatenate([column, column]))
        np.testing.assert_array_equal(mixed[name], column[order])


@settings(deadline=None)
@given(ANSWERS)
def test_each_distinct_text_once_is_as_good_as_one_by_one(answers):
    encoder, chunker = Letters(), open_chunker("rules")
    values = scored(answers, encode=encoder.encode).values
    assert len(encoder.seen) == len(set(encoder.seen))
    for i, (target, prediction) in enumerate(answers):
        if prediction is None:
            continue
        (label,) = encoder.encode([target])
        (spans,) = chunker.spans([prediction])
        cosines = sorted(float(encoder.encode([c.text])[0] @ label) for c in concepts_of(prediction, spans))
        assert values["bcs"][i] == pytest.approx(cosines[-1], abs=1e-5)
        assert values["mcs"][i] == pytest.approx(cosines[(len(cosines) - 1) // 2], abs=1e-5)
        assert values["ccs_mean"][i] == pytest.approx(np.mean(cosines), abs=1e-5)
        assert values["semantic_similarity"][i] == pytest.approx(
            float(encoder.encode([prediction])[0] @ label), abs=1e-5
        )


@settings(deadline=None)
@given(ANSWERS)
def test_case_changes_neither_similarity_nor_inclusion(answers):
    shouted = [(target, prediction and prediction.upper()) for target, prediction in answers]
    once, loud = scored(answers).values, scored(shouted).values
    for name in ("semantic_similarity", "text_inclusion"):
        np.testing.assert_allclose(loud[name], once[name], atol=1e-12)


def test_the_label_among_the_concepts_makes_bcs_one():
    values = scored([("lighthouse", "a tower by the sea"), ("lighthouse", "a tower, a lighthouse, a house")]).values
    assert values["bcs"][0] < 0.99 and values["bcs"][1] == pytest.approx(1, abs=1e-6)


def test_one_answer_an_empty_answer_and_no_answer():
    one = scored([("dog", "dog")])
    assert one.values["semantic_similarity"] == pytest.approx(1, abs=1e-6) and one.rows[0]["n_concepts"] == 2
    empty = scored([("dog", "")])
    assert empty.rows[0]["n_concepts"] == 1 and empty.values["bcs"] == empty.values["semantic_similarity"]
    assert empty.rows[0]["n_items"] == 0 and not empty.unscored["semantic_similarity"][0]
    missing = scored([("dog", None)])
    assert missing.concepts == [] and missing.rows[0]["semantic_similarity"] is None
    assert missing.rows[0]["text_inclusion"] is False and missing.unscored["text_inclusion"][0]


def test_first_items():
    values = scored([("cat", "dog, cat"), ("dog", "dog, cat"), ("dog", " , dog")]).values
    assert values["text_inclusion"].tolist() == [1, 1, 1] and values["text_inclusion_first"].tolist() == [0, 1, 1]
    assert values["n_items"].tolist() == [2, 2, 1]
    assert values["semantic_similarity_first"][1] == pytest.approx(1, abs=1e-6)
    told = scored([("cat", "the cat; a dog")], n_items=2, first_item="the cat").values
    assert told["n_items"].tolist() == [2] and told["semantic_similarity_first"] > told["semantic_similarity"]


VERDICTS = {
    ("dog", "one of: dog, cat"): Verdict(1, "1"),
    ("dog", "dog"): Verdict(1, "1"),
    ("cat", "a feline"): Verdict(None, "Yes"),
    ("cat", "a rock"): Verdict(0, "0"),
}


def judged_scores(verdicts=VERDICTS):
    rows = [
        row("dog", "dog, cat", "0", judged="one of: dog, cat"),
        row("cat", "a feline", "1"),
        row("cat", "a rock", "2"),
        row("cat", None, "3"),
    ]
    judged = Judged(verdicts, {("dog", "dog, cat"): "wrong", ("cat", "a rock"): "wrong", ("cat", "a feline"): None})
    return score_answers(
        rows, open_chunker("comma"), Letters().encode, judged, threshold=0.6, thresholds=[0.5], cells=CELLS
    )


def test_as_published_a_verdict_that_took_two_questions_is_none_and_what_was_never_judged_does_not_count():
    judged = Judged({("cat", "a feline"): Verdict(1, "1", at_once=False), ("cat", "a rock"): Verdict(None, "Yes")})
    rows = [row("cat", "a feline", "0"), row("cat", "a rock", "1"), row("cat", "a tiger", "2")]
    values = score_answers(
        rows, open_chunker("comma"), Letters().encode, judged, threshold=0.6, thresholds=[0.5], cells=CELLS
    ).values
    np.testing.assert_array_equal(values["llama_inclusion"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(values["llama_inclusion_official"], [0, 0, np.nan])


def test_verdicts_are_joined_by_label_and_judged_text():
    scores = judged_scores()
    np.testing.assert_array_equal(scores.values["llama_inclusion"], [1, np.nan, 0, 0])
    np.testing.assert_array_equal(scores.values["llama_inclusion_official"], [1, 0, 0, 0])
    np.testing.assert_array_equal(scores.values["llama_inclusion_first"], [1, np.nan, 0, 0])
    for name in ("llama_inclusion", "llama_inclusion_official"):
        assert scores.unscored[name].tolist() == [False, True, False, True]
    assert [r["judge_reply"] for r in scores.rows] == ["1", "Yes", "0", None]
    assert [r["error_cell"] for r in scores.rows] == ["cs", None, "w", None]
    assert [r["six_way"] for r in scores.rows] == ["wrong", None, "wrong", None]
    assert [r["llama_inclusion"] for r in scores.rows] == [1, None, 0, 0]


def test_first_items_that_were_never_judged_have_no_mean():
    lists_only = {pair: verdict for pair, verdict in VERDICTS.items() if pair != ("dog", "dog")}
    scores = judged_scores(lists_only)
    assert "llama_inclusion" in scores.values and "llama_inclusion_first" not in scores.values
    assert scores.rows[0].get("llama_inclusion_first") is None


def test_without_a_judge_there_is_no_judged_metric():
    scores = scored([("dog", "a dog")])
    assert not any(name.startswith("llama") for name in scores.values) and scores.rows[0]["error_cell"] is None


def test_thresholds_have_their_own_metrics():
    values = scored([("dog", "dog"), ("dog", "lighthouse")]).values
    assert values["semantic_similarity_at_0.5"].tolist() == [1, 0] and values[
        "semantic_similarity_at_0.9"
    ].tolist() == [1, 0]
    assert values["mean_average_similarity"].tolist() == [1, 0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=6))
def test_segments(parts):
    starts, counts = (np.array([part[i] for part in parts], np.int64) for i in (0, 1))
    assert segments(starts, counts).tolist() == [n for start, count in parts for n in range(start, start + count)]
