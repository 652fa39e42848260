"""Which option an answer names: the published rules with their quirks, the robust reading, hostile answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.proactive.env import Option
from runner.nodes.proactive.matching import (
    MAX_READ,
    Match,
    match,
    normal_form,
    strict_problems,
    verdicts,
    without_reasoning,
)

TEXTS = ("Rewind the video.", "Wait for the occlusion to disappear.", "I cannot answer.", "Dog.", "Great_pyrenees.", "Hot dog.", "Ursula von der leyen.")  # fmt: skip
OPTIONS = (
    Option(TEXTS[0], "ask", True, "rewind"), Option(TEXTS[1], "ask", True, "wait"), Option(TEXTS[2], "abstain", False, None),
    *(Option(text, "category", text == "Hot dog.", None) for text in TEXTS[3:]),
)  # fmt: skip
WORDS = st.text("abcdefghij ", min_size=2, max_size=12).map(str.strip).filter(lambda word: len(word) > 1)


def told(answer, mode="strict"):
    found = verdicts(answer, OPTIONS, mode)
    return found.action, found.category, found.match.index


@pytest.mark.parametrize(
    "answer", ["B", "b.", "B. rewind and so on", "Answer: B. Wait for the occlusion to disappear.", " b .", "B.\nno"]
)
def test_strict_takes_these_as_the_second_option(answer):
    expected = 1
    assert told(answer)[0] == "correct"
    assert told(answer)[2] == expected


@pytest.mark.parametrize(
    "answer", ["Rewind the video", "(B)", "B)", "B:", "**B**", "Option B", "The answer is B.", "", "Z", "REWIND THE VIDEO.", None]
)  # fmt: skip
def test_strict_reads_nothing_in_these(answer):
    assert told(answer) == ("mismatch", "mismatch", None)


def test_strict_text_goes_before_letter_among_options_of_one_kind():
    assert verdicts("C. Rewind the video.", OPTIONS, "strict").match == Match(0, "text")
    assert verdicts("A. Rewind the video.", OPTIONS, "strict").match == Match(0, "both")


def test_strict_text_feeds_one_verdict_and_letter_the_other():
    """The sixth option is the right category: its letter counts although the text says to rewind."""
    assert told("F. Rewind the video.") == ("correct", "correct", 5)
    assert told("D. Rewind the video.") == ("correct", "wrong", 0)
    assert told("A. Dog.") == ("correct", "wrong", 0)


def test_strict_erases_capitals_at_the_end_of_the_first_line_only():
    assert normal_form("REWIND THE VIDEO.") == ""
    assert normal_form("A. B. Rewind it.") == "rewindit."
    assert normal_form("Take this\nB. Rewind it.") == "takethis\nb.rewindit."
    assert normal_form("D.   \n Dog.") == "dog."


def test_strict_an_option_that_ends_in_a_capital_swallows_bare_letters():
    vitamin = (Option("Eat vitamin C.", "ask", False, None), Option("Wait.", "ask", True, "wait"), Option("Cup.", "category", True, None))  # fmt: skip
    assert verdicts("B.", vitamin, "strict").match == Match(0, "text")
    assert verdicts("B", vitamin, "strict").match == Match(1, "letter")


def test_strict_prefers_the_valid_one_of_options_of_one_form():
    alike = (Option("Wait .", "ask", False, None), Option("wait.", "ask", True, "wait"))
    assert verdicts("Wait.", alike, "strict").match.index == 1
    assert match("Wait.", ["Wait .", "wait."], "strict").index == 0


def test_strict_problems_names_what_cannot_be_told_apart():
    found = strict_problems(["Eat vitamin C.", "Wait.", "W ait.", "b.", "Cup."])
    assert [word in text for word, text in zip(("empty", "same", "letter B"), found, strict=True)] == [True] * 3
    assert strict_problems(TEXTS) == []


@pytest.mark.parametrize(
    ("answer", "index", "kind"),
    [
        ("B", 1, "letter"), ("b", 1, "letter"), ("(b).", 1, "letter"), ("**B**", 1, "letter"), ("B)", 1, "letter"), ("[B]", 1, "letter"),
        ("B:", 1, "letter"), ("Option B", 1, "letter"), ("option (B): that one", 1, "letter"), ("B - Wait", 1, "letter"),
        ("The answer is B.", 1, "letter"), ("So the correct answer is:\n\n**B**", 1, "letter"), ("I'd choose (b)", 1, "letter"),
        ("A or C? Both may be. Final answer: B", 1, "letter"), ('{"answer": "B"}', 1, "letter"), ("$\\boxed{\\text{B}}$", 1, "letter"),
        ("<answer>B</answer>", 1, "letter"), ("\uff22", 1, "letter"), ("\u24b7", 1, "letter"), ("B\u200b", 1, "letter"),
        ("B. because A helps nothing", 1, "letter"), ("B, because the dog is hidden", 1, "letter"), ("(b) since a dog is no help", 1, "letter"),
        ("Dog. F.", None, "conflict"), ("Dog.\n(F)", None, "conflict"), ("Hot dog. F", 5, "both"), ("Dog. Z.", 3, "text"),
        ("Z, because of the dog", 3, "text"), ("B, because ... no, the answer is F", 5, "letter"), ("A dog.", 3, "text"), ("It is a hot dog", 5, "text"), ("GREAT PYRENEES", 4, "text"),
        ("rewind   the video!", 0, "text"), ("Not sure. Rewind the video.", 0, "text"), ("I cannot answer the question", 2, "text"),
        ("B. wait for the occlusion to disappear", 1, "both"), ("The answer is F: hot dog.", 5, "both"), ("D. dog", 3, "both"),
        ("<think>A? B? Dog.</think>\n\nF", 5, "letter"), ("so D it is </think> F", 5, "letter"), ("F <think>or D", 5, "letter"),
        ("The answer is B. No, wait: the answer is F.", 5, "letter"), ("It is not a dog but a great pyrenees", 4, "text"),
        ("A. Hot dog.", None, "conflict"), ("Answer: B. Dog", None, "conflict"), ("B or F? The answer is B or F", None, "ambiguous"),
        ("A. Rewind the video.\nB. Wait for the occlusion to disappear.", None, "ambiguous"), ("a hot dog, or a dog", None, "ambiguous"),
        ("I cannot answer yet. Rewind the video.", None, "ambiguous"),
        ("it is not a dog", None, "mismatch"), ("The answer is not B", None, "mismatch"), ("Z", None, "mismatch"), ("", None, "mismatch"),
        ("\u0412", None, "mismatch"), ("d\u043eg", None, "mismatch"), ("<think>B", None, "mismatch"), ("A person stands there", None, "mismatch"),
        (None, None, "mismatch"), ("hotdogs", None, "mismatch"),
    ],
)  # fmt: skip
def test_robust_reads_what_a_person_reads(answer, index, kind):
    assert match(answer, TEXTS, "robust") == Match(index, kind)
    assert match(answer, OPTIONS, "robust") == Match(index, kind)


def test_robust_tells_options_apart_that_differ_in_signs_only():
    options = ["C++.", "C#.", "Python."]
    assert [match(text, options).index for text in ("C#.", "C++", "B", "c#")] == [1, 0, 1, 1]
    assert match("I mean c# or so", options).kind == "ambiguous"


def test_robust_verdicts_follow_from_the_one_option():
    assert told("wait for the occlusion to disappear", "robust") == ("correct", "mismatch", 1)
    assert told("C", "robust") == ("wrong", "mismatch", 2)
    assert told("dog", "robust") == ("mismatch", "wrong", 3)
    assert told("hot dog", "robust") == ("mismatch", "correct", 5)
    assert told("F. Rewind the video.", "robust") == ("mismatch", "mismatch", None)


def test_constrained_takes_the_text_the_letter_or_the_line_exactly():
    assert [match(text, TEXTS, "constrained") for text in ("Dog.", "D", "D. Dog.")] == [Match(3, "constrained")] * 3
    assert [match(text, TEXTS, "constrained").index for text in ("dog.", "d", "D.", "A. Dog.", "", None)] == [None] * 6
    assert match("Dog.", ["Dog.", "Dog."], "constrained").kind == "ambiguous"


@given(st.lists(WORDS, min_size=2, max_size=8, unique_by=lambda word: word.replace(" ", "")), st.data())
def test_strict_and_robust_agree_on_well_formed_answers(words, data):
    options = [f"{word.capitalize()}." for word in words]
    i = data.draw(st.integers(0, len(options) - 1))
    letter = "ABCDEFGH"[i]
    form = data.draw(st.sampled_from([letter, f"{letter}.", letter.lower(), options[i], f"{letter}. {options[i]}"]))
    assert match(form, options, "strict").index == match(form, options, "robust").index == i
    assert match(f"<think>{options[0]} A or B</think>{form}", options, "robust").index == i


@given(st.lists(WORDS, min_size=3, max_size=6, unique_by=lambda word: "".join(word.split())), st.data())
def test_order_of_options_changes_nothing_for_an_answer_in_words(words, data):
    options = [f"{word.capitalize()}." for word in words]
    answer = data.draw(st.sampled_from(options))
    turned = data.draw(st.permutations(options))
    for mode in ("strict", "robust", "constrained"):
        assert options[match(answer, options, mode).index] == turned[match(answer, turned, mode).index] == answer


@given(st.text(max_size=300), st.lists(st.text(max_size=30), max_size=9))
def test_any_text_gets_a_match_within_the_options(answer, options):
    for mode in ("strict", "robust", "constrained"):
        found = match(answer, options, mode)
        assert found.index is None or 0 <= found.index < len(options)
        assert (found.index is None) == (found.kind in ("mismatch", "conflict", "ambiguous"))


@pytest.mark.parametrize(
    "piece", ["(", "A. ", "<think>", "[/think]", "answer is ", "option ", " ", "not ", "dog ", "_", "\\text", "\u200b", "\ufdfa", "A\nB\n", "**"]
)  # fmt: skip
def test_a_megabyte_of_anything_is_read_in_one_go(piece):
    """A pattern that backtracks would not come back from these."""
    long = piece * (10**6 // len(piece))
    for mode in ("strict", "robust", "constrained"):
        assert match(long, TEXTS, mode).kind in ("mismatch", "ambiguous", "letter", "text")
    assert match(f"{long}\n</think>\nThe answer is F.", TEXTS, "robust") == Match(5, "letter")


def test_robust_reads_the_end_of_a_long_answer():
    assert match("B. " + "x " * MAX_READ + "\nThe answer is F", TEXTS) == Match(5, "letter")


def test_reasoning_ends_with_the_first_mark_of_its_end():
    assert without_reasoning("a<think>b<think>c</think>d") == "ad"
    assert without_reasoning("a[THINK]b[/THINK]c") == "ac"
    assert without_reasoning("a</think>b</thinking>c<thought>d") == "c"


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="strict, robust or constrained"):
        match("A", TEXTS, "loose")
