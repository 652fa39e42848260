"""Samples in the published layout: reading, writing, files, and every way in which one sample can be wrong."""

import json
import math
from typing import Any

import pytest
from hypothesis import given

from runner.errors import DataError
from runner.nodes.proactive.records import (
    SCENARIOS,
    Record,
    actions_named,
    frame_uri,
    frame_uris,
    parse_record,
    record_json,
)
from tests.nodes.proactive.material import ABSTAIN, published, record, records

LEFT = "Move the camera to the left."


@given(records())
def test_a_record_written_and_read_again_is_the_same(one: Record) -> None:
    assert parse_record(one.scenario, json.loads(json.dumps(record_json(one)))) == one


@given(records())
def test_every_frame_of_a_sample_has_a_file_of_its_own(one: Record) -> None:
    uris = frame_uris(one)
    assert len(set(uris)) == len(uris) == (1 if one.scenario == "COCO" else one.num_images)
    assert not any("{" in uri or uri.startswith("/") for uri in uris)


def test_files_are_named_as_published() -> None:
    assert frame_uris(record("VSOD", 4, 3)) == ("VSOD/4/0000.jpg", "VSOD/4/0001.jpg", "VSOD/4/0002.jpg")
    assert frame_uris(record("MVP-N", 4, 3)) == ("MVPN/4/0/0003.jpg", "MVPN/4/0/0005.jpg", "MVPN/4/1/0007.jpg")
    assert frame_uris(record("IN-C", 4, 3)) == ("INC/1/4.jpg", "INC/2/4.jpg", "INC/3/4.jpg")
    assert frame_uris(record("CIT", 4, 3)) == ("CIT/4/0.jpg", "CIT/4/1.jpg", "CIT/4/2.jpg")
    assert frame_uri(record("QD", 4, 3), 12) == "QD/4/0012.png"


def test_a_reference_view_beside_the_listed_ones_comes_last() -> None:
    assert frame_uris(record("MVP-N", 4, 2, reference_image=9))[-1] == "MVPN/4/1/0009.jpg"


def test_identifiers_keep_their_writing() -> None:
    assert [record_json(record("QD", id=value))["id"] for value in (7, "7", "007", "a b")] == [7, 7, "007", "a b"]


def test_actions_are_read_as_whole_words() -> None:
    assert actions_named("ROD", "Move the LEFT-most block to the right.") == ("left", "right")
    assert actions_named("ROD", "Move the leftover block to the right.") == ("right",)
    assert actions_named("COCO", "Move farther from the object.") == ("farther",)
    assert actions_named("QD", "Rewind, wait, go left.") == ("next",)


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("QD", {"answer": "Spoon."}, "answer", "one of the categories"),
    ("QD", {"categories": ["Cup."], "answer": "Cup."}, "categories", "at least two"),
    ("QD", {"categories": ["Tea pot.", "TeaPot.", "Cup."], "answer": "Cup."}, "categories[1]", "differs from all others"),
    ("QD", {"categories": ["Vitamin C.", "Cup."], "answer": "Cup."}, "categories[0]", "strict matching leaves"),
    ("QD", {"options": ["Add more details."]}, "options", "abstention"),
    ("QD", {"options": ["I cannot answer."]}, "options", "a request"),
    ("QD", {"options": ["I cannot answer.", "Turn it to side B."]}, "options[1]", "strict matching leaves"),
    ("QD", {"options": ["I cannot answer.", "Add ink.", "Add Ink."]}, "options[2]", "differs from all others"),
    ("QD", {"options": ["I cannot answer.", "cup."]}, "options[1]", "differs from all others"),
    ("QD", {"options": ["I cannot answer.", *(f"More {i}." for i in range(25))]}, "options", "at most 26"),
    ("QD", {"options": "I cannot answer."}, "options", "a list of texts"),
    ("QD", {"options": ["I cannot answer.", "Add\ndetails."]}, "options[1]", "line breaks"),
    ("QD", {"options": ["I cannot answer.", "x" * 301]}, "options[1]", "1 to 300"),
    ("QD", {"prompt": " "}, "prompt", "one line of text"),
    ("QD", {"first_image": 5}, "first_image", "from 0 to 4"),
    ("QD", {"first_image": True}, "first_image", "whole number"),
    ("QD", {"reference_image": 1.5}, "reference_image", "whole number"),
    ("QD", {"num_images": 0}, "num_images", "from 1 on"),
    ("QD", {"num_images": math.inf}, "num_images", "whole number"),
    ("QD", {"image_template": "a/b.png"}, "image_template", "{image}"),
    ("QD", {"image_template": "a/{image.__class__}"}, "image_template", "{image}"),
    ("QD", {"image_template": "../{image}.png"}, "image_template", "inside the data folder"),
    ("QD", {"id": "a/b"}, "id", "without a slash"),
    ("QD", {"id": None}, "id", "one line of text"),
    ("IN-C", {"quality_answer": "Turn it."}, "quality_answer", "one of the requests"),
    ("IN-C", {"quality_answer": ABSTAIN[0]}, "quality_answer", "one of the requests"),
    ("IN-C", {"first_image": 4}, "first_image", "from 5 on"),
    ("IN-C", {"reference_image": 0}, "reference_image", "from 1 to 5"),
    ("MVP-N", {"valid_images": [1, 2]}, "valid_images", "5 views"),
    ("MVP-N", {"valid_images": [1, 2, 3, 4, -1]}, "valid_images[4]", "whole number"),
    ("MVP-N", {"first_image": 77}, "first_image", "from 0 to 4"),
    ("VSOD", {"strong_occlusions": "yes"}, "strong_occlusions", "true or false"),
    ("VSOD", {"options": ["I cannot answer.", "Rewind or wait."]}, "options[1]", "exactly one of rewind, wait"),
    ("VSOD", {"options": ["I cannot answer.", "Turn it."]}, "options[1]", "exactly one of rewind, wait"),
    ("CIT", {"step_size": 5}, "step_size", "from 1 to 4"),
    ("CIT", {"step_size": 0}, "step_size", "from 1"),
    ("CIT", {"max_steps": -1}, "max_steps", "from 1"),
    ("COCO", {"direction": "north", "options": [LEFT, ABSTAIN[0]]}, "direction", "one of left"),
    ("COCO", {"direction": "right", "options": [LEFT, ABSTAIN[0]]}, "options[0]", "a request for right"),
    ("COCO", {"granularity": 0}, "granularity", "from 1"),
    ("COCO", {"horizontal_step": -1}, "horizontal_step", "from 0"),
    ("COCO", {"vertical_step": math.nan}, "vertical_step", "a number"),
    ("COCO", {"crop": {"top": 0, "left": 0, "height": 9}}, "crop.width", "a number"),
    ("COCO", {"crop": {"top": 5, "left": 9, "height": 9, "width": 9}}, "crop", "no area"),
    ("COCO", {"crop": [0, 0, 1, 1]}, "crop", "top, left"),
    ("COCO", {"crop": {"top": 0, "left": 0, "height": 9, "width": 1e9}}, "crop.width", "1000000 pixels"),
    ("COCO", {"horizontal_step": 1e300}, "horizontal_step", "1000000 pixels"),
    ("ROD", {"image_template": "a/{{image}}.png"}, "image_template", "{image}"),
    ("MVP-N", {"valid_images": [1, 1, 1, 1, 1]}, "valid_images", "views that differ"),
]  # fmt: skip


@pytest.mark.parametrize(("scenario", "changes", "field", "expected"), WRONG)
def test_what_is_wrong_is_named_with_its_place(
    scenario: str, changes: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(DataError) as error:
        parse_record(scenario, published(scenario, **changes), "test.jsonl:12")
    assert error.value.message.startswith(f"test.jsonl:12: field {field!r}: expected ")
    assert expected in error.value.message and "\n" not in error.value.message and error.value.hint


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_field_is_needed(scenario: str) -> None:
    whole = published(scenario)
    for field in whole:
        with pytest.raises(DataError, match=f"field '{field}'"):
            parse_record(scenario, {key: value for key, value in whole.items() if key != field})


def test_unknown_scenarios_and_lists_are_refused() -> None:
    with pytest.raises(DataError, match="no scenario 'ABC'"):
        parse_record("ABC", {})
    with pytest.raises(DataError, match="expected an object"):
        parse_record("QD", [1])  # type: ignore[arg-type]


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(DataError) as error:
        parse_record("QD", published("QD", answer="x" * 300))
    assert len(error.value.message) < 600
