import pytest

from retrieval.contrast import contrast_texts, display_names, swap_target


def caption(number, target, attribute, value, text, resample=0):
    return {
        "resample": resample, "caption_id": f"c{number:02d}", "target": target, "attribute": attribute,
        "value": value, "text": text, "is_neutral": attribute is None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "names", "other", "expected"),
    [
        ("a photo of a cat in the dark", ["cat"], "dog", "a photo of a dog in the dark"),
        ("A cat", ["cat"], "otter", "An otter"),
        ("an airplane at night", ["airplane"], "ship", "a ship at night"),
        ("many cats", ["cat"], "dog", "many dogs"),
        ("a category of cat", ["cat"], "dog", "a category of dog"),
        ("a Polar  Bear", ["polar bear"], "fox", "a fox"),
        ("a photo of a cat", ["a cat", "cat"], "a dog", "a photo of a dog"),
        ("the cat sits", ["a cat", "cat"], "a dog", "the dog sits"),
        ("a (tabby) c++ cat", ["c++"], "x", "a (tabby) x cat"),
        ("nothing here", ["cat"], "dog", None),
        ("nothing here", [""], "dog", None),
    ],
)
def test_a_caption_with_another_target(text, names, other, expected):
    assert swap_target(text, names, other) == expected


def test_contrasts_are_the_other_values_and_the_other_targets():
    captions = [
        caption(0, "cat", "light", "dark", "a cat in the dark"),
        caption(1, "cat", "light", "bright", "a cat in the sun"),
        caption(2, "cat", "pose", "asleep", "a sleeping cat"),
        caption(3, "cat", None, None, "a photo of a cat"),
        caption(4, "dog", "light", "dark", "a dog at night"),
    ]
    assert contrast_texts(captions, {"cat": "cat", "dog": "dog"}) == [
        ["a cat in the sun", "a dog in the dark"],
        ["a cat in the dark", "a dog in the sun"],
        ["a sleeping dog"],
        ["a photo of a dog"],
        ["a cat at night"],
    ]


def test_several_captions_of_a_value_are_compared_number_by_number_and_draws_are_apart():
    captions = [
        caption(0, "cat", "light", "dark", "d0"), caption(1, "cat", "light", "dark", "d1"),
        caption(2, "cat", "light", "bright", "b0"), caption(3, "cat", "light", "bright", "b1"),
        caption(4, "cat", "light", "bright", "other draw", resample=1),
    ]  # fmt: skip
    assert contrast_texts(captions, {"cat": "cat"}) == [["b0"], ["b1"], ["d0"], ["d1"], []]


def test_targets_with_one_display_name_are_no_contrast():
    captions = [caption(0, "crane", None, None, "a photo of a crane")]
    assert contrast_texts(captions, {"crane": "crane", "crane_2": "crane"}) == [[]]


def test_display_names_come_from_the_task():
    task = {"outputs": [{"name": "x", "values": ["cat", "No_Beard"], "caption_names": {"No_Beard": "shaved face"}}]}
    names = display_names(task, ["cat", "No_Beard", "polar_bear"])
    assert names == {"cat": "cat", "No_Beard": "shaved face", "polar_bear": "polar bear"}
