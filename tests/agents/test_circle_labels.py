"""Cleaning, joined labels and order of the examples: pure functions, checked against tables made by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.circle import (
    blocks_to_prefill,
    clean_answer,
    clean_refinement,
    final_label,
    joined_labels,
    refinement_order,
)
from agents.circle_labels import fixed_order, label_row, next_label

SIZES = st.integers(1, 40)


def blocks(order):
    """Blocks of the prompts of one round; the target is another block than an example."""
    return [[*examples, ("target", target)] for target, examples in order]


@given(SIZES)
def test_each_prompt_holds_the_same_examples_as_in_the_fixed_order(m):
    tree = refinement_order(m)
    assert sorted(target for target, _ in tree) == list(range(m))
    assert {t: sorted(e) for t, e in tree} == {t: sorted(e) for t, e in fixed_order(m)}
    assert all(target not in examples and len(examples) == m - 1 for target, examples in tree)


@pytest.mark.parametrize("m", [1, 2, 4, 8, 16, 32, 64])
def test_powers_of_two_prefill_m_log2_m_plus_m_blocks(m):
    assert blocks_to_prefill(blocks(refinement_order(m))) == m * int(math.log2(m)) + m
    assert blocks_to_prefill(blocks(fixed_order(m))) == m * (m - 1) // 2 + 2 * m - 1


@given(SIZES)
def test_the_tree_never_reads_more_than_the_fixed_order(m):
    tree, fixed = blocks_to_prefill(blocks(refinement_order(m))), blocks_to_prefill(blocks(fixed_order(m)))
    assert tree <= fixed <= m * m
    assert tree <= m * math.ceil(math.log2(m)) + m if m > 1 else tree == 1


@given(SIZES)
def test_a_cache_that_holds_one_prompt_suffices_in_the_order_of_sending(m):
    """Sent one after the other, each prompt shares with the one before all that any prompt before shares with it."""
    sent = blocks(refinement_order(m))

    def common(a, b):
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))

    for place in range(1, m):
        best = max(common(sent[place], earlier) for earlier in sent[:place])
        assert common(sent[place], sent[place - 1]) == best


@pytest.mark.parametrize("order", [refinement_order, fixed_order])
def test_a_round_needs_a_picture(order):
    with pytest.raises(ValueError, match="at least one picture"):
        order(0)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("airliner", "airliner"),
        (" airliner\n", " airliner\n"),  # without a comma: as it is
        ('"airliner"', '"airliner"'),
        ("plane, airliner", "airliner"),
        ("plane, airliner , ", "airliner"),
        ('plane, "MD-80"', "MD-80"),
        ("a,b,,", "b"),
        (",", ""),
        (" , ,", " ".strip()),
        ("", ""),
    ],
)
def test_refinements_keep_the_last_part(reply, label):
    assert clean_refinement(reply) == label


@pytest.mark.parametrize(
    ("reply", "sane", "official"),
    [
        ("lighthouse", "lighthouse", "lighthouse"),
        ("lighthouse, lighthouse, coast", "lighthouse, coast", "lighthouse, lighthouse, coast"),
        ("lighthouse, lighthouse, lighthouse", "lighthouse", "lighthouse, lighthouse"),
        ("a,a,a", "a", "a"),
        ("Crab, crab", "Crab", "Crab, crab"),
        (' "crab" ,, hermit crab ', "crab, hermit crab", "crab, hermit crab"),
        ('"crab", crab', "crab", "crab, crab"),
        (", ,", "", ""),
        ("", "", ""),
    ],
)
def test_answers_in_both_modes(reply, sane, official):
    assert clean_answer(reply) == clean_answer(reply, "sane") == sane
    assert clean_answer(reply, "official") == official


@given(st.lists(st.text(alphabet='aB" ', max_size=4), max_size=6))
def test_a_clean_answer_stays_as_it_is(parts):
    clean = clean_answer(",".join(parts))
    assert clean_answer(clean) == clean and '"' not in clean
    listed = clean.split(", ") if clean else []
    assert len({item.casefold() for item in listed}) == len(listed)


def test_labels_are_joined_and_the_context_leaves_the_pseudo_label_out():
    assert joined_labels(["plane ", " airliner"]) == "plane, airliner"
    assert final_label(["plane", "airliner", "MD-80"]) == "airliner, MD-80"
    assert final_label(["plane"]) == "plane"


@pytest.mark.parametrize(
    ("reply", "cut", "history", "expected"),
    [
        ("bird", False, [], ("bird", None)),
        ("a, b", False, [], ("a, b", None)),  # pseudo-labels are not taken apart
        ("a, b", False, ["x"], ("b", None)),
        (None, False, ["x"], ("x", "failed")),
        (None, False, [], (None, "failed")),
        (" ,", False, [], (None, "failed")),
        (", ,", False, ["x", "y"], ("y", "kept_previous")),
        ("", True, ["x"], ("x", "kept_previous")),
        ("long tale", True, ["x"], ("long tale", "cut")),
        ("one\nlabel: two\u2028three <|im_end|>", False, ["x"], ("one label: two three < |im_end|>", None)),
    ],
)
def test_what_a_reply_makes_of_a_label(reply, cut, history, expected):
    assert next_label(reply, cut, history) == expected


def test_labels_are_bounded_and_rows_say_what_changed():
    row = label_row(2, 0, "w" * 5000, False, ["a", "b"])
    assert len(row["label"]) == 200 and row["joined"] == f"a, b, {row['label']}" and row["changed"]
    assert not label_row(2, 0, "b", False, ["a", "b"])["changed"]
    lost = label_row(0, 0, None, False, [])
    assert (lost["label"], lost["joined"], lost["changed"], lost["flag"]) == (None, None, False, "failed")


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_whatever_is_replied_labels_are_short_lines_and_nothing_blank_is_shown(replies):
    history = []
    for round_, reply in enumerate(replies):
        row = label_row(round_, 0, reply, False, history)
        if row["label"] is None:
            assert not history and row["flag"] == "failed"
            continue
        assert row["label"].strip(" ,") and len(row["label"]) <= 200 and len(row["label"].splitlines()) == 1
        assert row["changed"] == (not history or row["label"] != history[-1])
        history.append(row["label"])
        assert row["joined"] == ", ".join(history) == joined_labels(history)
