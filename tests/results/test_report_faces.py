"""The report on generated faces: association and effect side by side, in words that do not confuse them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from results.report.page import templates
from results.report.sections import faces

Row = dict[str, Any]


def bins(gap: float, low: float, high: float) -> list[Row]:
    base = {
        "variant": "", "step": "association", "classifier": "dlib", "outcome": "female", "circumstance": "hair", "n": 50,
        "k": 10, "rate": 0.2, "wilson_low": 0.1, "wilson_high": 0.3, "difference": -gap, "difference_low": -high,
        "difference_high": -low, "fisher_p": 0.01, "q_bh": 0.02,
    }  # fmt: skip
    none = {"gap": None, "gap_low": None, "gap_high": None}
    first = {**base, **none, "bin": 0, "low_edge": 0.0, "high_edge": 0.2}
    return [first, {**base, "bin": 1, "low_edge": 0.2, "high_edge": 0.5, "gap": gap, "gap_low": low, "gap_high": high}]


def edit(effect: float | None, q: float | None, kind: str = "edit") -> Row:
    return {
        "variant": "", "step": "effect", "classifier": "dlib", "outcome": "female", "circumstance": "hair", "kind": kind,
        "people": 40, "pairs": 30, "both_yes": 5, "gained": 9, "lost": 1, "neither": 15, "effect": effect, "low": -0.1,
        "high": 0.4, "mcnemar_p": q, "q_bh": q, "score_change": 0.1, "score_low": 0.0, "score_high": 0.2,
        "wanted_change": 2.0, "measured_change": 1.6, "measured_low": 1.4, "measured_high": 1.8, "fit": 0.6,
        "side_effects": json.dumps({"skin": [-0.3, -0.5, -0.1], "hat": [0.9, None, None], "neck": [None, None, None]}),
        "step_length": 3.0, "identity_cosine": 0.7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gap", "effect", "words"),
    [
        ((0.5, 0.3, 0.7), (0.4, 0.001), "Goes along with the answer and changes it."),
        ((0.5, 0.3, 0.7), (0.1, 0.4), "Goes along with the answer; the effect of changing it alone cannot be told"),
        ((0.5, 0.3, 0.7), (0.01, 0.9), "Goes along with the answer; the effect of changing it alone is small"),
        ((0.1, -0.1, 0.3), (0.4, 0.001), "Changes the answer, although"),
        ((0.5, 0.3, 0.7), (-0.4, 0.001), "opposite directions"),
        ((0.1, -0.1, 0.3), (0.1, 0.4), "No evidence of either"),
        ((0.5, 0.3, 0.7), (None, None), "not known"),
    ],
)
def test_association_and_effect_in_words(
    gap: tuple[float, float, float], effect: tuple[float | None, float | None], words: str
) -> None:
    assert words in faces.in_words(bins(*gap)[-1], edit(*effect))


def test_the_page_holds_both_numbers_the_placebo_and_escaped_pictures() -> None:
    pair = {
        "variant": "", "step": "effect", "classifier": "dlib", "circumstance": "hair", "kind": "edit", "uri": "<x>.jpg",
        "kept": True, "outcome_less": False, "outcome_more": True, "score_less": 0.1, "score_more": 0.9,
        "thumbnail_less": b"less", "thumbnail_more": b"more",
    }  # fmt: skip
    measured = [{"measure": "hair", "n": 50, "mean": 0.3, "deviation": 0.1, "low": 0.0, "high": 0.6}]
    effects = [edit(0.27, 0.01), edit(0.02, 1.0, "placebo")]
    found = faces.parts(faces.Found(bins(0.55, 0.3, 0.7), effects, [pair], measured))
    assert [part.anchor for part in found] == ["faces", "faces-pairs", "faces-rates", "faces-edits", "faces-measured"]
    page = "".join(
        templates().get_template(part.template).render(part=part, run={}, **part.variables) for part in found
    )
    for text in ("do not exist", "FFHQ", "+55", "+27", "+2", "bGVzcw==", "bW9yZQ==", "The answer flipped", "hat"):
        assert text in page


def test_side_effects_are_sorted_and_unknown_ones_left_out() -> None:
    assert [name for name, _ in faces.side_effects(edit(0.1, 0.1))] == ["hat", "skin"]


def test_a_run_with_effects_alone_has_a_report() -> None:
    rows = faces.comparisons(faces.Found([], [edit(0.3, 0.01)], [], []))
    assert rows[0]["words"] == "No association was looked at."
    assert rows[0]["outcome"] == "female"
