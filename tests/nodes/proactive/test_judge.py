"""Replies of judges, lists of ideas, and the judge of rules."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.proactive.judge import References, aggregate, label_of, parse_bits, references, rule_bits
from runner.nodes.proactive.records import SCENARIOS, parse_record
from runner.nodes.proactive.texts import load_texts

OPTIONS = {
    "ROD": ["Move the red blocks to the left.", "Move the red blocks to the right."],
    "VSOD": ["Rewind the video.", "Wait for the occlusion to disappear."],
    "MVP-N": ["Rotate the object."],
    "IN-C": ["Increase the brightness.", "Reduce the noise."],
    "QD": ["Add more details to the drawing."],
    "CIT": ["Rewind the video.", "Wait for the egg to appear."],
    "COCO": ["Move the camera to the left."],
}
EXTRAS = {
    "VSOD": {"strong_occlusions": True}, "MVP-N": {"valid_images": [3, 1, 2]}, "IN-C": {"quality_answer": "Increase the brightness.", "first_image": 5, "num_images": 5, "reference_image": 1},
    "CIT": {"step_size": 1, "max_steps": 3},
    "COCO": {"direction": "left", "granularity": 3, "horizontal_step": 2, "vertical_step": 2, "crop": {"top": 0, "left": 4, "height": 9, "width": 9}},
}  # fmt: skip
SLOTS = {"MVP-N": "{informative}/{image}.png", "IN-C": "{level}.png", "COCO": "a.png"}
TEXTS = load_texts()


def record(scenario, **changes):
    data = {
        "id": 7, "image_template": SLOTS.get(scenario, "{image}.png"), "first_image": 1 if scenario != "IN-C" else 5, "num_images": 3,
        "reference_image": 2, "prompt": "What is this?", "options": [*OPTIONS[scenario], "I cannot tell."],
        "categories": ["Great_pyrenees.", "Banana.", "Tea, cup.", "Owl."], "answer": "Great_pyrenees.",
    }  # fmt: skip
    return parse_record(scenario, data | EXTRAS.get(scenario, {}) | changes)


# --- replies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reply", "n", "bits"), [
    ("1, 0", 2, (1, 0)),
    ("0", 1, (0,)),
    ("I think the first one is there.\n1,0,1", 3, (1, 0, 1)),
    ("<think>0, 0 or 1, 1?</think>\n\n1 , 0\n", 2, (1, 0)),
    ("**1, 0**", 2, (1, 0)),
    ("[1, 0]", 2, (1, 0)),
    ("1, 0.", 2, (1, 0)),
    ("1, 0\n\n   \n", 2, (1, 0)),
    ("```\n1, 0\n```", 2, (1, 0)),
    ("1,0\nThat is my verdict.", 2, None),  # the last line holds something else
    ("Verdict: 1, 0", 2, None),
    ("1, 0, 1", 2, None),
    ("1 0", 2, None),
    ("1, 2", 2, None),
    ("10", 2, None),
    ("<think>still thinking\n1, 0", 2, None),
    ("", 2, None),
    ("\uff11, \uff10", 2, None),
])  # fmt: skip
def test_the_last_line_is_read(reply, n, bits):
    found = parse_bits(reply, n)
    assert found == ((bits, True) if bits else ((0,) * n, False))


@pytest.mark.parametrize(("reply", "n", "bits"), [
    ("1,0\nThat is my verdict.", 2, (1, 0)),
    ("Idea 1 is there, 0 others.\n0,1", 2, (0, 1)),
    ("1,0 then 1", 2, None),  # the last list is the lone 1
    ("<think>1,1</think>none", 2, None),
    ("no digits", 3, None),
    ("1, 0, 1", 2, None),
])  # fmt: skip
def test_as_published_the_last_list_anywhere_is_read(reply, n, bits):
    assert parse_bits(reply, n, reading="reference") == ((bits, True) if bits else ((0,) * n, False))


@given(
    st.text() | st.text("01, \n[]*<>/think\x1c\u2003", max_size=60),
    st.integers(1, 5),
    st.sampled_from(["last_line", "reference"]),
)
def test_no_reply_raises_and_what_is_not_read_is_zero(reply, n, reading):
    bits, parse_ok = parse_bits(reply, n, reading=reading)
    assert len(bits) == n and set(bits) <= {0, 1}
    assert parse_ok or not any(bits)
    if parse_ok:  # nothing is made up: the digits stand in the reply, in this order
        assert re.search(r"\s*,\s*".join(map(str, bits)), reply)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.text("abc \n.", max_size=40))
def test_both_readings_agree_on_what_the_prompt_asks_for(bits, thoughts):
    reply = f"<think>{thoughts}</think>{thoughts}\n{', '.join(map(str, bits))}"
    assert parse_bits(reply, len(bits)) == parse_bits(reply, len(bits), reading="reference") == (tuple(bits), True)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.integers(0, 6))
def test_aggregates_by_counting(bits, n_proactive):
    told = aggregate(bits, n_proactive)
    assert told.ps == (sum(bits[:n_proactive]) > 0)
    assert told.cc == (sum(bits[n_proactive:]) > 0)
    assert told.agg == (sum(bits) > 0)


# --- ideas -------------------------------------------------------------------------------------------------------------


def test_lists_of_ideas_are_the_published_ones():
    label = "Great pyrenees"
    told = {scenario: references(record(scenario), TEXTS) for scenario in SCENARIOS}
    assert {s: (len(t.texts), t.n_proactive) for s, t in told.items()} == {
        "ROD": (2, 2), "VSOD": (4, 3), "MVP-N": (2, 2), "IN-C": (2, 1), "QD": (2, 1), "CIT": (3, 2), "COCO": (3, 2),
    }  # fmt: skip
    assert told["IN-C"].texts == ("Increase the brightness", label)
    assert told["CIT"].texts == ("Wait for the egg to appear", "rewind", label)
    assert not any(label in told[scenario].texts for scenario in ("ROD", "MVP-N"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_category_can_be_looked_for_everywhere(scenario):
    plain, labelled = references(record(scenario), TEXTS), references(record(scenario), TEXTS, labelled=True)
    assert labelled.n_proactive == plain.n_proactive
    assert labelled.texts[: plain.n_proactive] == plain.texts[: plain.n_proactive]
    assert labelled.texts[plain.n_proactive :] == ("Great pyrenees",)


def test_a_comma_in_a_name_makes_no_further_idea():
    assert references(record("QD", answer="Tea, cup."), TEXTS).texts[1:] == ("Tea, cup",)


def test_names_that_look_like_slots_are_names():
    odd = record("QD", categories=["{wait}.", "{label}.", "Owl."], answer="{label}.")
    assert references(odd, TEXTS).texts[1:] == ("{label}",)
    assert label_of(odd) == "{label}"


# --- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scenario", "answer", "bits"), [
    ("ROD", "Something is hidden. Could you move the blocks away?", (1, 0)),
    ("ROD", "Let me see it from another angle.", (0, 1)),
    ("ROD", "It is a banana.", (0, 0)),
    ("VSOD", "Rewind, or wait until the person has passed.", (1, 1, 0, 0)),
    ("VSOD", "A great pyrenees.", (0, 0, 0, 1)),
    ("MVP-N", "Please rotate the object.", (1, 0)),
    ("IN-C", "It is too dark: please brighten the image. Perhaps a great pyrenees.", (1, 1)),
    ("IN-C", "Reduce the noise.", (0, 0)),
    ("QD", "I can't recognize it, please add more details.", (1, 0)),
    ("QD", "It is not a great pyrenees.", (0, 0)),
    ("CIT", "Wait a few seconds.", (1, 0, 0)),
    ("CIT", "Do not rewind the video.", (0, 0, 0)),
    ("COCO", "Could you pan the camera to the left?", (1, 0, 0)),
    ("COCO", "Zoom out, maybe it's a Great Pyrenees", (0, 1, 1)),
    ("COCO", "", (0, 0, 0)),
])  # fmt: skip
def test_rules_give_bits_as_a_person_does(scenario, answer, bits):
    assert rule_bits(answer, references(record(scenario), TEXTS)) == bits


def test_rules_against_answers_labelled_by_hand():
    """After ``revised`` the words were revised, and know all of it; ``unseen`` was written afterwards and changed nothing."""
    answers = json.loads(Path(__file__).with_name("judge_answers.json").read_text())
    told = {
        name: [
            (bit, want)
            for scenario, answer, wanted in rows
            for bit, want in zip(rule_bits(answer, references(record(scenario), TEXTS)), wanted, strict=True)
        ]
        for name, rows in answers.items()
    }  # fmt: skip
    assert len(told["revised"]) == 101 and all(bit == want for bit, want in told["revised"])
    counted = Counter(told["unseen"])
    assert counted[0, 1] <= 4 and counted[1, 0] == 0 and counted[1, 1] >= 11


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_answer_that_repeats_an_idea_expresses_it(scenario):
    ideas = references(record(scenario), TEXTS, labelled=True)
    for place, idea in enumerate(ideas.texts):
        assert rule_bits(f"{idea}.", ideas)[place] == 1


def test_an_idea_of_unknown_words_counts_where_it_is_repeated():
    ideas = References(("hand me the spectrometer",), 1)
    assert rule_bits("Please hand me the spectrometer now.", ideas) == (1,)
    assert rule_bits("Where is the spectrometer?", ideas) == (0,)


@given(st.text(), st.sampled_from(SCENARIOS))
def test_rules_read_any_answer(answer, scenario):
    ideas = references(record(scenario), TEXTS)
    bits = rule_bits(answer, ideas)
    assert len(bits) == len(ideas.texts) and set(bits) <= {0, 1}
