"""WordNet on its real files, and outputs of classifiers that stand for a target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.assets import ensure
from runner.errors import DataError
from runner.nodes.wordnet import (
    ImageNet,
    exclusive,
    imagenet,
    in_usual_order,
    label_senses,
    meaning_of,
    parse_wordnet,
    read_wordnet,
)

pytestmark = pytest.mark.assets

# Two lines of the licence, then an animal with two kinds, one of which is also a machine's name.
DATA = """\
  1 This line belongs to the licence.
00000010 03 n 01 animal 0 002 ~ 00000020 n 0000 ~ 00000030 n 0000 | living
00000020 05 n 02 dog 0 house_dog 1 002 @ 00000010 n 0000 #m 00000010 n 0000 | barks
00000030 05 n 01 mouse 0 001 @ 00000010 n 0000 | squeaks
00000040 06 n 01 mouse 1 000 | points
00000050 18 n 01 Rex 0 001 @i 00000020 n 0000 | one dog
""".splitlines()
INDEX = """\
  1 This line belongs to the licence.
animal n 1 1 ~ 1 1 00000010
dog n 1 2 @ #m 1 0 00000020
house_dog n 1 2 @ #m 1 0 00000020
mouse n 2 1 @ 2 1 00000030 00000040
rex n 1 1 @ 1 0 00000050
""".splitlines()


@pytest.fixture(scope="module")
def wordnet():
    return read_wordnet(ensure("wordnet", lambda line: None).path)


@pytest.fixture(scope="module")
def classes():
    return imagenet()


def test_the_file_format_by_hand():
    small = parse_wordnet(DATA, INDEX, ["mice mouse"])
    assert small.words[20] == ("dog", "house dog")
    assert small.above(50) == {50, 20, 10}
    assert small.lookup("mice") == small.lookup("a mouse") == (30, 40)
    assert small.lookup("House_Dogs") == (20,)
    assert small.lookup("unicorn") == ()
    found = meaning_of(["mouse"], [40, 30, None, 50], small)
    assert found.outputs == (1,)
    assert found.sense == "mouse (a kind of animal)"
    assert found.others == ("mouse",)
    assert meaning_of(["n00000010"], [40, 30, None, 50], small).outputs == (1, 3)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="WordNet"):
        read_wordnet(tmp_path)
    for name in ("data.noun", "index.noun", "noun.exc"):
        (tmp_path / name).write_text("<html> not WordNet\n")
    with pytest.raises(DataError, match="WordNet"):
        read_wordnet(tmp_path)


# Numbers of the ImageNet classes below each: dogs n02085620 to n02113978, birds in six runs of the list.
@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("dog", 118, "chihuahua"), ("bird", 59, "cock"), ("feline", 13, "tabby"), ("cat", 7, "tabby"),
        ("domestic cat", 5, "tabby"), ("frogs", 3, "bullfrog"), ("horse", 1, "sorrel"), ("airplane", 1, "airliner"),
        ("jeans", 1, "jean"), ("geese", 1, "goose"), ("deer", 0, ""), ("woman", 0, ""), ("xyzzy", 0, ""),
    ],
)  # fmt: skip
def test_imagenet_classes_of_a_name(name, count, first, wordnet, classes):
    found = meaning_of([name], classes.senses, wordnet)
    assert len(found.outputs) == count
    assert [classes.names[i][0] for i in found.outputs[:1]] == ([first] if first else [])


def test_dogs_are_one_run_and_cats_are_cats(wordnet, classes):
    assert meaning_of(["dog"], classes.senses, wordnet).outputs == tuple(range(151, 269))
    assert meaning_of(["domestic cat"], classes.senses, wordnet).outputs == tuple(range(281, 286))


def test_other_senses_are_told(wordnet, classes):
    assert meaning_of(["dog"], classes.senses, wordnet).others == ()
    crane = meaning_of(["crane"], classes.senses, wordnet)
    assert "lifting device" in crane.sense
    assert ["wading bird" in other for other in crane.others] == [True]
    assert "big cat" in meaning_of(["cat"], classes.senses, wordnet).others[0]


def test_the_second_name_counts_where_the_first_is_unknown(wordnet, classes):
    assert len(meaning_of(["target 3", "a dog"], classes.senses, wordnet).outputs) == 118


def test_labels_in_the_usual_order_are_known_by_place(wordnet, classes):
    shown = [names[-1] for names in classes.names]
    assert in_usual_order(shown, classes)
    assert label_senses(shown, wordnet, classes) == list(classes.senses)
    assert not in_usual_order(shown[::-1], classes)
    assert not in_usual_order(shown[:10], classes)


def test_labels_in_another_order_are_known_by_name(wordnet, classes):
    labels = ["tabby, tabby cat", "n02099712 a Labrador", "crane", "moose", "fire engine", "qwzx"]
    senses = label_senses(labels, wordnet, classes)
    assert senses[:2] == [2123045, 2099712]
    assert senses[2] is None  # two classes are called so
    assert wordnet.words[senses[3]][-1] == "Alces alces"  # no ImageNet-1k class; WordNet knows one sense
    assert senses[5] is None
    assert meaning_of(["deer"], senses, wordnet).outputs == (3,)
    assert meaning_of(["truck"], senses, wordnet).outputs == (4,)


def test_shared_outputs():
    # A minivan (3) is a car and a truck: neither's. A beagle is a dog, and a class of its own here.
    assert exclusive({"car": (1, 3), "truck": (2, 3)}) == {"car": (1,), "truck": (2,)}
    assert exclusive({"dog": (5, 6, 7), "beagle": (6,), "cat": (8,)}) == {"dog": (5, 7), "beagle": (6,), "cat": (8,)}
    assert exclusive({"car": (1, 2), "auto": (1, 2)}) == {"car": (), "auto": ()}


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.integers(0, 12))))
def test_no_output_stands_for_two_targets(meanings):
    done = exclusive({target: tuple(outputs) for target, outputs in meanings.items()})
    given_out = [i for outputs in done.values() for i in outputs]
    assert len(given_out) == len(set(given_out))
    assert all(set(outputs) <= meanings[target] for target, outputs in done.items())


def test_a_list_of_a_thousand_other_labels_is_not_imagenet(wordnet):
    other = ImageNet((30,), (("mouse",),))
    assert in_usual_order(["Mouse 2"], other)
    assert not in_usual_order(["cat"], other)
