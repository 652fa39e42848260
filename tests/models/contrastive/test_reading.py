"""What is read from the structure of a question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.models.base import ImagePart, Message
from runner.models.contrastive.forms import form_of
from runner.models.contrastive.reading import MAX_LABEL, listed, names, read_question

A, B, C = (ImagePart(bytes([n])) for n in range(3))


def read(*parts, **settings):
    return read_question([Message("system", "- x\n- y"), Message("user", parts)], **settings)


def test_a_single_picture_is_the_target():
    question = read(A, "Which type of object can be seen in this photo?")
    assert (question.target, question.examples, question.own, question.classes) == (A, (), (), ())


def test_labelled_pictures_are_examples_and_the_last_one_is_the_target():
    question = read(
        "Look.", A, "label: cat", B, "current labels: dog, Hound,dog", "TARGET", C, "current labels: pet\nNow."
    )
    assert [(e.picture, e.labels) for e in question.examples] == [(A, ("cat",)), (B, ("dog", "Hound"))]
    assert question.target == C and question.own == ("pet",)


def test_questions_in_two_turns_and_conversations_are_read_as_one():
    said = [
        Message("user", ("Look.", A, "label: cat")), Message("assistant", "label: fox"), Message("user", (B, "And?")),
        Message("user", "- cat\n- dog"),
    ]  # fmt: skip
    question = read_question(said)
    assert question.target == B and question.examples[0].labels == ("cat",)
    assert question.classes == ("cat", "dog")


def test_pictures_without_a_line_of_labels_are_no_examples():
    assert read(A, B, "label: x", C).examples[0].picture == B
    assert read(A, "The label: x is wrong", C).examples == ()
    assert read(A, "", "label: x", C).examples == ()


def test_a_list_of_classes_is_read_wherever_it_stands():
    assert read("Classes:\n- cat\n- hot dog\n", A).classes == ("cat", "hot dog")
    assert read(A, "Which?\nClasses:\n- cat\n- dog\n- Cat\n\nAnswer:").classes == ("cat", "dog")
    assert listed("- only one") == ()
    assert listed("Rules:\n- " + "look at shape " * 5 + "\n- name it") == ()


def test_lettered_lines_are_choices_and_sentences_too():
    asked = "What is it?\nChoose one:\nA. Move the blocks to the left.\nB. I cannot tell.\n\nC. Dog.\nAnswer with one of them."
    assert read(A, asked).classes == ("Move the blocks to the left.", "I cannot tell.", "Dog.")
    assert listed("A. only one line of a letter") == ()
    assert listed("B. cat\nC. dog") == ()  # begins nowhere
    assert listed("A. x\nC. y") == ()  # a letter is left out
    assert listed("A. old\nB. older\nNow:\nA. new\nB. newer") == ("new", "newer")
    assert len(listed("\n".join(f"{chr(65 + n)}. thing {n}" for n in range(26)))) == 26


def test_guidelines_beside_examples_are_no_classes():
    guidelines = "Keep in mind:\n- be specific\n- look at shape"
    assert read(guidelines, A, "label: cat", B, "?").classes == ()
    assert read(guidelines, A, "label: cat", B, "- Cat\n- dog").classes == ("Cat", "dog")
    assert read(A, "label: a, b", B, "- a, b\n- c").classes == ("a, b", "c")


def test_hostile_labels_are_data():
    question = read(A, "label: cat\n- evil\n- worse", B, "What?")
    assert question.examples[0].labels == ("cat",) and question.classes == ()
    long = read(A, "label: " + "x" * 100_000, B).examples[0]
    assert len(long.labels[0]) == MAX_LABEL
    assert read(A, "label: ,, ,", B).examples == ()


def test_another_pattern_may_mark_labels():
    question = read(A, "This is: cat", B, label_pattern=r"this is: (.*)")
    assert question.examples[0].labels == ("cat",)


def test_without_a_picture_there_is_no_question():
    assert read("Hello") is None


@given(st.lists(st.one_of(st.text(max_size=30), st.sampled_from([A, B, C])), max_size=12))
def test_any_message_is_read(parts):
    question = read(*parts)
    pictures = [part for part in parts if isinstance(part, ImagePart)]
    assert (question is None) == (not pictures)
    if question is not None:
        assert question.target == pictures[-1] and len(question.examples) < len(pictures)
        found = [*question.own, *question.classes, *(label for e in question.examples for label in e.labels)]
        assert all(name.strip() and len(name.splitlines()) == 1 for name in found)


@given(st.lists(st.text(max_size=20)))
def test_names_are_distinct_and_stable(texts):
    found = names(texts)
    assert len({name.casefold() for name in found}) == len(found) and names(found) == found


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "choices", "filled"),
    [
        (None, None, "cat"),
        ({"enum": ["cat", "dog"]}, ("cat", "dog"), '"cat"'),
        ({"type": "string"}, None, '"cat"'),
        (
            {"type": "object", "properties": {"answer": {"enum": ["cat"]}}, "required": ["answer"]},
            ("cat",),
            '{"answer": "cat"}',
        ),
        (
            {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}},
            None,
            '{"a": ["cat"]}',
        ),
        ({"const": "cat"}, ("cat",), '"cat"'),
    ],
)
def test_one_answer_fills_the_form(schema, choices, filled):
    form = form_of(schema)
    assert form.choices == choices and form.fill("cat") == filled


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [0, 1]}, {"type": "integer"}, {}, {"type": "object"}, {"enum": []},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]},
        {"type": "array", "items": {"type": "string"}, "minItems": 2},
    ],
)  # fmt: skip
def test_what_one_answer_cannot_fill_is_refused(schema):
    with pytest.raises(ValueError):
        form_of(schema)
