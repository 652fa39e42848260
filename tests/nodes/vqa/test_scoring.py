"""Scorers: published rules by hand, independent formulas, and replies of every kind."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.data.benchmarks.known import KNOWN, METRIC_NAMES
from runner.errors import DataError
from runner.nodes.vqa.metrics_choice import letter, yes_or_no
from runner.nodes.vqa.metrics_numbers import count_in, number, numbers_in, relaxed_match
from runner.nodes.vqa.metrics_text import CONTRACTIONS, anls, contains, vqa_accuracy, vqa_normalised
from runner.nodes.vqa.scoring import METRICS, score


def item(*answers: str, choices: list[str] | None = None, extra: Any = None) -> dict[str, Any]:
    return {"answers": list(answers), "choices": choices, "extra": extra}


def test_every_metric_that_a_benchmark_names_is_there() -> None:
    assert tuple(METRICS) == METRIC_NAMES
    assert {known.metric for known in KNOWN.values()} <= {*METRICS}
    with pytest.raises(DataError, match="no metric 'luck'"):
        score("luck", "a", item("a"))


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        ("Cat.", "cat", 1),
        (" the  cat", "the cat", 1),
        ("cats", "cat", 0),
        ("", "cat", 0),
        ("+", "+", 1),
        ("-", "+", 0),
        ("", "+", 0),
    ],
)
def test_exact_match(reply: str, answer: str, expected: float) -> None:
    assert score("exact_match", reply, item("dog", answer)).score == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog.", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("Dont know", "don't know"),
        ("red/blue", "red blue"),
        ("red, blue", "red blue"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("no. 5", "no 5"),
        ("its well", "its well"),
        ("wi-fi", "wi fi"),
        ("yes!", "yes"),
        ("The\n", ""),
    ],
)
def test_vqa_normalisation_by_hand(text: str, expected: str) -> None:
    assert vqa_normalised(text).strip() == expected


def test_words_that_mean_something_else_are_no_contractions() -> None:
    assert not {"its", "well", "were", "shell", "hell", "ill", "id", "wed", "shed"} & {*CONTRACTIONS}


@given(
    st.lists(st.sampled_from(["cat", "dog", "cow"]), min_size=4, max_size=12), st.sampled_from(["cat", "dog", "hen"])
)
def test_vqa_accuracy_is_leave_one_out(human: list[str], said: str) -> None:
    each = [min(sum(a == said for a in human[:i] + human[i + 1 :]) / 3, 1) for i in range(len(human))]
    assert vqa_accuracy(said, human) == pytest.approx(sum(each) / len(each), abs=1e-12)


def test_vqa_accuracy_known_values() -> None:
    ten = ["cat"] * 3 + ["dog"] * 7
    assert vqa_accuracy("A cat", ten) == pytest.approx(0.9)
    assert vqa_accuracy("dog", ten) == 1 and vqa_accuracy("hen", ten) == 0
    assert vqa_accuracy("cat", ["cat"] + ["dog"] * 9) == pytest.approx(0.3)
    assert vqa_accuracy("cat", ["cat"]) == 1


def test_anls_by_hand() -> None:
    assert anls("Hello  World", ["hello world"]) == 1
    assert anls("helo", ["hello"]) == pytest.approx(0.8)
    assert anls("ab", ["ax"]) == 0.5  # exactly on the threshold counts
    assert anls("abc", ["axy"]) == 0
    assert anls("", ["hello"]) == 0


@given(st.text(max_size=12), st.text(min_size=1, max_size=12))
def test_anls_by_dynamic_programming(said: str, true: str) -> None:
    a, b = (" ".join(text.split()).lower() for text in (said, true))
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (x != y)))
    longest = max(len(a), len(b))
    similarity = 1 - row[-1] / longest if longest else 1.0
    assert anls(said, [true]) == pytest.approx(similarity if similarity >= 0.5 else 0)


@pytest.mark.parametrize(
    ("reply", "truth", "lenient", "strict"),
    [
        ("105", "100", 1, 1),
        ("105.1", "100", 0, 0),
        ("96%", "100%", 1, 1),
        ("42%", "0.42", 1, 1),
        ("42%", "42", 1, 0),
        ("42", "42%", 1, 0),
        ("1,000", "1000", 1, 0),
        ("$5", "5", 1, 0),
        ("5.", "5", 1, 1),
        ("0", "0", 1, 1),
        ("0.01", "0", 0, 0),
        ("-10", "10", 0, 0),
        ("Yes", "yes", 1, 1),
        ("yes.", "Yes", 1, 0),
        ("four", "4", 0, 0),
        ("nan", "5", 0, 0),
    ],
)
def test_relaxed_accuracy(reply: str, truth: str, lenient: float, strict: float) -> None:
    assert relaxed_match(reply, truth) == lenient
    assert relaxed_match(reply, truth, strict=True) == strict
    assert score("relaxed_accuracy", reply, item(truth, extra='{"strict": true}')).score == strict


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Yes", "yes"),
        ("no, it is not", "no"),
        ("I know", None),
        ("Nothing", None),
        ("**No**", "no"),
        ("Yes. No.", "yes"),
        ("", None),
    ],
)
def test_yes_and_no(reply: str, expected: str | None) -> None:
    assert yes_or_no(reply) == expected
    assert score("yes_no", reply, item("No")).score == float(expected == "no")


OPTIONS = ["a red car", "a blue car", "a bus", "a red"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", "B"), ("b", "B"), ("(C)", "C"), ("B.", "B"), ("b) a blue car", "B"), ("A: because it is red", "A"),
        ("The answer is C.", "C"), ("Answer: (B)", "B"), ("answer is **D**", "D"), ("\\boxed{B}", "B"), ("Option A", "A"),
        ("A bus", "C"), ("It must be the (B) one", "B"), ("I see a blue car there", "B"), ("I see a red car.", "A"),
        ("either (A) or (B)", None), ("a red car or a bus", None), ("E", None), ("", None), ("A man walks", None),
        ("Sure, B seems right", "B"), ("A clear case of B", "B"), ("no idea", None), ("The answer is not clear", None),
        ("The answer is a bus", "C"), ("B\nbecause", "B"), ("Answer: A bus", "C"), ("The answer is a.", "A"), ("The answer is A because", "A"),
    ],
)  # fmt: skip
def test_letters(reply: str, expected: str | None) -> None:
    assert letter(reply, OPTIONS) == expected


@pytest.mark.parametrize(
    ("reply", "expected"), [("3.5", "A"), ("It is 35.", "B"), ("-4", "C"), ("about 4.", "D"), ("5", None)]
)
def test_numbers_among_options(reply: str, expected: str | None) -> None:
    assert letter(reply, ["3.5", "35", "-4", "4"]) == expected


@given(st.integers(2, 26), st.data())
def test_a_plain_letter_is_always_read(count: int, data: st.DataObject) -> None:
    options = [f"option number {i}" for i in range(count)]
    i = data.draw(st.integers(0, count - 1))
    named = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i]
    for form in ("{}", "({})", "{}.", "{}) ", "Answer: {}", "{}. " + options[i], "The answer is ({})."):
        assert letter(form.format(named), options) == named
    assert letter(options[i], options) == named


@pytest.mark.parametrize(
    ("text", "expected"),
    [("42", (42.0, False)), ("-1,234.5 %", (-1234.5, True)), ("\u22123", (-3.0, False)), (".5", (0.5, False)), ("1e3", (1000.0, False)),
     ("12 cm", None), ("", None), ("1,23", None), ("9" * 400, None), ("--3", None), ("inf", None)],
)  # fmt: skip
def test_one_number(text: str, expected: tuple[float, bool] | None) -> None:
    assert number(text) == expected


def test_numbers_in_a_text() -> None:
    assert numbers_in("From 3 to 5-6, about 1,000.5 (x7, 2.)") == [3, 5, 6, 1000.5, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("There are three.", 3), ("no cats", 0), ("12 cats", 12), ("someone", None), ("None", 0), ("", None)],
)
def test_counts(text: str, expected: int | None) -> None:
    assert count_in(text) == expected


def test_count_scores() -> None:
    assert score("count_exact", "four", item("4")).score == 1
    assert score("count_soft", "3", item("4")).score == pytest.approx(0.75)
    assert score("count_soft", "9", item("4")).score == 0 == score("count_soft", "9" * 299, item("4")).score
    assert score("count_soft", "0", item("0")).score == 1 and score("count_soft", "1", item("0")).score == 0
    assert score("count_exact", "(B)", item("B", choices=["0", "7", "2"])).parsed == "7"
    assert score("count_soft", "C", item("B", choices=["0", "4", "2"])).score == 0.5


@pytest.mark.parametrize(
    ("reply", "kind", "precision", "truth", "expected"),
    [
        ("The answer is 7 apples of 9", "integer", None, "7", 1),
        ("First 3, then 4", "integer", None, "4", 1),
        ("3.14159", "float", 2, "3.14", 1),
        ("1/2", "float", 1, "0.5", 1),
        ("1/0", "float", 1, "0.5", 0),
        ("[1, 2.0]", "list", None, "[1, 2]", 1),
        ("[2, 1]", "list", None, "[1, 2]", 0),
        ("Answer: Blue.", "text", None, "blue", 1),
        ("no number", "float", 2, "3.14", 0),
    ],
)
def test_mathvista(reply: str, kind: str, precision: int | None, truth: str, expected: float) -> None:
    assert score("mathvista", reply, item(truth, extra={"answer_type": kind, "precision": precision})).score == expected


def test_open_questions_of_mmmu() -> None:
    assert score("multiple_choice", "It is 3.14 m", item("3.14", "pi")).score == 1
    assert score("multiple_choice", "a transformer is used", item("Transformer")).score == 1
    assert score("multiple_choice", "transformers", item("Transformer")).score == 0


def test_substring() -> None:
    assert contains("It says  Hello\nWorld.", ["hello world"]) == 1
    assert contains("a + b", ["a+b"]) == 0 and contains("a + b", ["a+b"], spaces=False) == 1
    assert score("substring", "A+B", item("a+b", extra={"spaces": False})).score == 0


@settings(max_examples=150)
@given(
    st.text(max_size=60),
    st.sampled_from(METRIC_NAMES),
    st.booleans(),
    st.sampled_from(["integer", "float", "list", "text"]),
)
def test_any_reply_scores_between_0_and_1(reply: str, metric: str, lettered: bool, kind: str) -> None:
    asked = item("A", choices=["1", "2"]) if lettered else item("3", "x", extra={"answer_type": kind})
    found = score(metric, reply, asked)
    assert 0 <= found.score <= 1 and (found.parsed is None or isinstance(found.parsed, str))


@given(st.integers(0, 10**6), st.sampled_from(METRIC_NAMES))
def test_the_truth_itself_scores_1(value: int, metric: str) -> None:
    value_text = ("yes" if value % 2 else "no") if metric == "yes_no" else str(value)
    assert score(metric, value_text, item(value_text, extra={"answer_type": "integer"})).score == 1


def test_long_replies_are_read_in_bounded_time() -> None:
    for metric, part in itertools.product(METRIC_NAMES, ("1,", "(A", "answer is ", "- ", "\u2212")):
        found = score(
            metric, part * 50_000, item("A", choices=["x", "y"]) if metric == "multiple_choice" else item("x")
        )
        assert 0 <= found.score <= 1
