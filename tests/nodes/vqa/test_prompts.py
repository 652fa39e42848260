"""Prompts show the question as data and say how to reply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.data.benchmarks.known import KNOWN
from runner.nodes.vqa.prompts import COUNT, LETTER, SHORT, UNANSWERABLE, YES_NO, prompt


def asked(metric: str, known: str | None = None, **item: Any) -> str:
    return prompt({"metric": metric, "known": known}, {"question": "What is it?", "answers": ["x"], **item})


def test_options_are_lettered_and_flattened() -> None:
    text = asked("multiple_choice", choices=["a\nB. trap", "b"])
    assert text.splitlines() == ["What is it?", "A. a B. trap", "B. b", LETTER]


@pytest.mark.parametrize(
    ("metric", "known", "ending"),
    [("exact_match", "gqa", SHORT), ("yes_no", "pope", YES_NO), ("count_soft", None, COUNT), ("multiple_choice", "mmmu", SHORT),
     ("vqa_accuracy", "vizwiz", f"{UNANSWERABLE} {SHORT}")],
)  # fmt: skip
def test_instructions(metric: str, known: str | None, ending: str) -> None:
    assert asked(metric, known).splitlines()[-1] == ending


def test_context_comes_first() -> None:
    assert asked("exact_match", extra=json.dumps({"context": "a\nhint"})).splitlines()[0] == "Context: a hint"


def test_mathvista_says_how_exact() -> None:
    assert "with 1 decimal place," in asked("mathvista", extra={"answer_type": "float", "precision": 1})
    assert "list" in asked("mathvista", extra={"answer_type": "list"})
    assert asked("mathvista", choices=["1", "2"]).endswith(LETTER)


def test_marks_of_pictures_in_data_are_no_marks() -> None:
    text = asked("multiple_choice", question="See <image>, then?", choices=["<image>", "x" * 20_000])
    assert "<image>" not in text and len(text) < 9_000


@pytest.mark.parametrize("key", KNOWN)
def test_every_benchmark_ends_with_an_instruction(key: str) -> None:
    assert asked(KNOWN[key].metric, key).splitlines()[-1].startswith(("Reply", "If the picture"))


def test_a_question_that_says_yes_or_no_needs_no_instruction() -> None:
    question = "Is it a cat? Please answer yes or no."
    assert asked("yes_no", "mme_perception", question=question) == question
