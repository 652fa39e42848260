"""Text inclusion: the published facts, and that it is a substring test and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.inclusion import text_inclusion
from runner.nodes.openworld import metrics


@pytest.mark.parametrize(
    ("reference", "prediction", "included"),
    [
        ("crab", "A hermit crab.", True),
        ("can", "a trash CAN", True),
        ("yo yo", "a yo-yo", False),
        ("  Lighthouse ", "the lighthouse", True),
        ("golden_retriever", "golden retriever", False),
        ("707-320", "Boeing 707-320", True),
        ("dog", "", False),
        ("dog", None, False),
        ("", "anything", True),
    ],
)
def test_facts(reference, prediction, included):
    assert text_inclusion([reference], [prediction]).tolist() == [included]


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
def test_what_is_put_into_a_sentence_is_included(before, label, after):
    assert text_inclusion([label], [f"{before}{label.strip()}{after}"]).tolist() == [
        label.strip().lower() in f"{before}{label.strip()}{after}".strip().lower()
    ]
    if label.strip() and label.isascii():
        assert text_inclusion([label], [f"{before} {label.strip()} {after}"]).all()


def test_one_value_an_answer():
    result = text_inclusion(["a", "b", "c"], ["xa", "x", "C"])
    assert result.dtype == np.bool_ and result.tolist() == [True, False, True]
    assert text_inclusion([], []).shape == (0,)
    with pytest.raises(ValueError, match="2 references but 1 predictions"):
        text_inclusion(["a", "b"], ["a"])


def test_both_rooms_have_the_same_function():
    assert metrics.text_inclusion is text_inclusion
