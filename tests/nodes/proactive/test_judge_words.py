"""Words of the judge of rules against answers that were written and labelled by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.proactive.judge_words import abstains, ideas_in, judge_words, mentions, named_action, sentences

# (answer, ideas that a person reads in it)
ANSWERS = [
    ("Could you move the blocks to the left?", {"move_occluder"}),
    ("Please slide the green blocks away so I can see.", {"move_occluder"}),
    ("I can't tell what it is unless you move the blocks.", {"move_occluder"}),
    ("The occluder in front of it should be removed.", {"move_occluder"}),
    ("Do not move the blocks.", set()),
    ("There is no need to move the blocks; it is a banana.", set()),
    ("The blocks hide the object.", set()),
    ("Take away the lego bricks.", {"move_occluder"}),
    ("I cannot identify the object without moving the camera.", {"move_camera"}),
    ("A picture from another angle would help.", {"move_camera"}),
    ("Pan the camera to the right, please.", {"move_camera"}),
    ("I don't think you should move the camera.", set()),
    ("Can you zoom out?", {"move_farther"}),
    ("Step back a little so the entire object is in view.", {"move_farther"}),
    ("Rewind the video.", {"rewind"}),
    ("Could you go back to an earlier frame?", {"rewind"}),
    ("You should wait for the person to pass.", {"wait"}),
    ("Let the video play a bit more, then show me the next frame.", {"wait"}),
    ("Please do not rewind the video, wait instead.", {"wait"}),
    ("Rotate the product so that I can read its label.", {"rotate"}),
    ("Please turn the box around.", {"rotate"}),
    ("It is a box on a table.", set()),
    ("Can you add more details to the drawing?", {"add_details"}),
    ("Keep drawing, I only see a line.", {"add_details"}),
    ("Finish the sketch first.", {"add_details"}),
    ("It is a drawing with little detail.", set()),
    ("Increase the brightness of the image.", {"brightness"}),
    ("Could you provide a brighter picture?", {"brightness"}),
    ("The image is bright.", set()),
    ("Please increase the contrast.", {"contrast"}),
    ("Try to deblur the image.", {"deblur"}),
    ("Can you share a sharper photo?", {"deblur"}),
    ("The image is blurry.", set()),
    ("Remove the noise from the picture.", {"denoise"}),
    ("I need a picture of higher resolution.", {"resolution"}),
    ("Please reduce the compression artifacts.", {"compression", "artifacts"}),
    ("Restore the saturation of the colours.", {"saturation"}),
    ("It is a dog.", set()),
    ("", set()),
]


@pytest.mark.parametrize(("answer", "ideas"), ANSWERS, ids=[answer[:40] for answer, _ in ANSWERS])
def test_ideas_as_a_person_reads_them(answer, ideas):
    assert ideas_in(answer) == ideas


@pytest.mark.parametrize(("answer", "label", "named"), [
    ("It is a Great Pyrenees.", "Great_pyrenees.", True),
    ("great pyrenees", "Great_pyrenees.", True),
    ("I see two bananas on a table", "Banana.", True),
    ("It is not a banana.", "Banana.", False),
    ("I cannot tell whether it is a banana.", "Banana.", False),
    ("I can't see it, maybe a banana?", "Banana.", True),
    ("It is a pineapple.", "Apple.", False),
    ("I count 3 people.", "Three.", True),
    ("I count three people.", "3.", True),
    ("That is a St. Bernard, I think.", "St. Bernard.", True),
    ("Cherries in a bowl", "Cherry.", True),
    ("anything", "...", False),
    ("BANANA!", "Banana.", True),
])  # fmt: skip
def test_categories_are_named_or_not(answer, label, named):
    assert mentions(answer, label) is named


@pytest.mark.parametrize(("answer", "told"), [
    ("I cannot tell.", True), ("I'm not sure what that is.", True), ("It's unclear.", True), ("I don't know", True),
    ("It's a cat.", False), ("Move the blocks.", False), ("", False),
])  # fmt: skip
def test_abstention(answer, told):
    assert abstains(answer) is told


@pytest.mark.parametrize(("answer", "actions", "action"), [
    ("Move the blocks to the right.", ("left", "right"), "right"),
    ("Not to the left, to the right!", ("left", "right"), "right"),
    ("Move the blocks.", ("left", "right"), None),
    ("Move it left or right.", ("left", "right"), "left"),
    ("Play an earlier frame", ("wait", "rewind"), "rewind"),
    ("Move up", ("left",), None),
    ("Zoom out please", ("farther",), "farther"),
])  # fmt: skip
def test_actions_are_named(answer, actions, action):
    assert named_action(answer, actions) == action


@given(st.text())
def test_any_text_is_read(text):
    assert ideas_in(text) <= judge_words().ideas.keys()
    assert abstains(text) in (True, False)
    assert mentions(text, text) in (True, False)
    assert all(word == word.lower() for part in sentences(text) for word in part if word.isascii())


@given(st.sampled_from([(a, i) for a, i in ANSWERS if i]), st.sampled_from(["A table.", "I see grass.", "Hello!"]))
def test_a_sentence_beside_it_changes_no_idea(pair, beside):
    answer, ideas = pair
    assert ideas_in(f"{beside} {answer}") == ideas_in(f"{answer}\n{beside}") == ideas


@given(
    st.sampled_from(["Move the blocks", "Rewind the video", "Rotate the object", "Zoom out", "Increase the contrast"])
)
def test_a_negated_request_is_none(request_):
    assert ideas_in(request_)
    assert ideas_in(f"Never {request_.lower()}") == ideas_in(f"Please don't {request_.lower()}") == frozenset()
