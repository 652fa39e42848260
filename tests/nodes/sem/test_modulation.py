"""Modulation: the published form written out, query by query, and the identities it must keep."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sem.modulation import (
    bias_sensitivity,
    group_medians,
    lower_median,
    midpoint_median,
    modulate,
    percentile_scores,
    sort_reference,
)

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=30, deadline=None)


def activations(rng, rows, latents=24):
    """Like a sparse autoencoder's: many zeros, many ties, never negative."""
    h = np.maximum(rng.normal(size=(rows, latents)), 0)
    return torch.tensor(np.round(h, 1) if rng.random() < 0.5 else h, dtype=torch.float32)


def material(seed, *, diverse=15, classes=(6, 5, 7), queries=4, paraphrases=(3, 5, 4, 5)):
    rng = np.random.default_rng(seed)
    return {
        "diverse": activations(rng, diverse),
        "classes": [activations(rng, n) for n in classes],
        "query": activations(rng, queries),
        "paraphrases": [activations(rng, n) for n in paraphrases],
    }


def pct(reference, x):
    return np.array([[(reference[:, j] < row[j]).mean() for j in range(len(row))] for row in x])


def low_median(h):
    return np.sort(h, axis=0)[(len(h) - 1) // 2]


def written_out(m, variant, exponent=2.0):
    """Section 3 of the method in numpy, one query and one class at a time."""
    diverse = m["diverse"].double().numpy()
    query = m["query"].double().numpy()
    median = low_median(diverse)
    told = query if variant == "b" else np.array([low_median(p.double().numpy()) for p in m["paraphrases"]])
    s_concept = pct(diverse, told)
    s_bias = np.zeros(diverse.shape[1])
    for c, h in enumerate(m["classes"]):
        centre = low_median(h.double().numpy())[None]
        others = np.concatenate([k.double().numpy() for i, k in enumerate(m["classes"]) if i != c])
        s_bias = np.maximum(s_bias, np.minimum(pct(diverse, centre)[0], pct(others, centre)[0]))
    if variant == "i":
        base, multiplier = told, s_concept**exponent
    else:
        base, multiplier = query, (1 + s_concept - s_bias) ** exponent
    return base * multiplier + (1 - multiplier) * median, multiplier, s_concept, s_bias


def modulated(m, variant, **switches):
    bias = bias_sensitivity(m["diverse"], m["classes"]) if variant != "i" else None
    paraphrases = m["paraphrases"] if variant != "b" else None
    return modulate(m["query"], diverse=m["diverse"], bias=bias, paraphrases=paraphrases, variant=variant, **switches)


@given(SEEDS, st.sampled_from(["i", "b", "bi"]), st.sampled_from([1.0, 2.0, 3.5]))
@few
def test_every_variant_is_the_published_form(seed, variant, exponent):
    m = material(seed)
    latents, multiplier, s_concept, s_bias = written_out(m, variant, exponent)
    got = modulated(m, variant, exponent=exponent)
    np.testing.assert_allclose(got.s_concept, s_concept, atol=1e-6)
    np.testing.assert_allclose(got.multiplier, multiplier, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.latents, latents, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bias_sensitivity(m["diverse"], m["classes"]), s_bias, atol=1e-6)


def test_golden_numbers_of_one_latent():
    # diverse 0, 1, 2, 3 (lower median 1); classes {2, 2} and {0, 4, 5} (lower medians 2 and 4); query 3.
    diverse = torch.tensor([[3.0], [0.0], [2.0], [1.0]])
    classes = [torch.tensor([[2.0], [2.0]]), torch.tensor([[5.0], [0.0], [4.0]])]
    # class 1: general 2/4, specific 1/3 -> 1/3; class 2: general 1, specific 1 -> 1.
    bias = bias_sensitivity(diverse, classes)
    assert bias.tolist() == [1.0]
    got = modulate(torch.tensor([[3.0]]), diverse=diverse, bias=bias, variant="b")
    # S_concept 3/4, M = (3/4)^2 = 9/16, h' = 3 * 9/16 + 7/16 * 1.
    assert got.s_concept.item() == 0.75
    assert got.multiplier.item() == pytest.approx(9 / 16)
    assert got.latents.item() == pytest.approx(27 / 16 + 7 / 16)
    assert bias_sensitivity(diverse, classes[:1] * 2).item() == 0.0
    assert bias_sensitivity(diverse, classes, which="general").item() == 1.0
    assert bias_sensitivity(diverse, [classes[0], torch.tensor([[1.0]])], which="specific").item() == 1.0


@given(SEEDS, st.sampled_from(["i", "b", "bi"]))
@few
def test_exponent_zero_changes_nothing_but_what_the_base_is(seed, variant):
    m = material(seed)
    got = modulated(m, variant, exponent=0.0)
    expected = group_medians(m["paraphrases"]) if variant == "i" else m["query"]
    torch.testing.assert_close(got.latents, expected, atol=1e-6, rtol=0)


@given(SEEDS)
@few
def test_scores_are_shares_of_prompts_and_multipliers_keep_their_range(seed):
    m = material(seed)
    for variant, top in (("i", 1), ("b", 4), ("bi", 4)):
        got = modulated(m, variant)
        steps = got.s_concept.double() * len(m["diverse"])
        assert (steps - steps.round()).abs().max() < 1e-5
        assert got.s_concept.min() >= 0 and got.s_concept.max() <= 1
        assert got.multiplier.min() >= 0 and got.multiplier.max() <= top
        assert modulated(m, variant, clamp_max=1.0).multiplier.max() <= 1
    assert (percentile_scores(m["diverse"], m["query"])[m["query"] == 0] == 0).all()


@given(SEEDS, st.integers(2, 4))
@few
def test_orders_and_repeated_diverse_prompts_change_nothing(seed, times):
    m, rng = material(seed), np.random.default_rng(seed)
    shuffled = {
        "diverse": m["diverse"][rng.permutation(len(m["diverse"]))].repeat(times, 1),
        "classes": [m["classes"][i][rng.permutation(len(m["classes"][i]))] for i in rng.permutation(3)],
        "query": m["query"],
        "paraphrases": [p[rng.permutation(len(p))] for p in m["paraphrases"]],
    }
    for variant in ("i", "b", "bi"):
        torch.testing.assert_close(
            modulated(m, variant).latents, modulated(shuffled, variant).latents, atol=1e-6, rtol=1e-6
        )


@given(SEEDS, st.integers(1, 12))
@few
def test_two_equal_bias_classes_are_hardly_sensitive(seed, size):
    m = material(seed, classes=(size,))
    assert bias_sensitivity(m["diverse"], m["classes"] * 2).max() < 0.5


@given(SEEDS)
@few
def test_variant_i_does_not_see_the_query(seed):
    m = material(seed)
    other = {**m, "query": m["query"].flip(0) + 1}
    assert torch.equal(modulated(m, "i").latents, modulated(other, "i").latents)
    assert not torch.equal(modulated(m, "b").latents, modulated(other, "b").latents)


@given(SEEDS)
@few
def test_a_batch_equals_its_queries_one_by_one(seed):
    m = material(seed)
    together = modulated(m, "bi").latents
    reference, bias = sort_reference(m["diverse"]), bias_sensitivity(m["diverse"], m["classes"])
    for i in range(len(m["query"])):
        one = modulate(
            m["query"][i : i + 1], diverse=reference, bias=bias, paraphrases=m["paraphrases"][i : i + 1], variant="bi"
        )
        torch.testing.assert_close(one.latents[0], together[i], atol=1e-6, rtol=1e-6)


@given(SEEDS, st.integers(1, 9))
@few
def test_medians_are_those_of_sorted_columns(seed, n):
    h = activations(np.random.default_rng(seed), n)
    assert torch.equal(lower_median(h), torch.tensor(low_median(h.numpy())))
    np.testing.assert_allclose(midpoint_median(h), np.median(h.numpy(), axis=0), atol=1e-6)


def test_targets_and_midpoint_median():
    m = material(3, diverse=16)
    diverse, bias = m["diverse"], bias_sensitivity(m["diverse"], m["classes"])
    nothing = torch.zeros_like(m["query"])
    for target, expected in (
        ("diverse_median", lower_median(diverse)),
        ("diverse_mean", diverse.mean(0)),
        ("zero", torch.zeros(diverse.shape[1])),
    ):
        got = modulate(nothing, diverse=diverse, bias=bias, variant="b", target=target)
        torch.testing.assert_close(got.latents, (1 - got.multiplier) * expected)
    got = modulate(nothing, diverse=diverse, bias=bias, variant="b", median="midpoint")
    torch.testing.assert_close(got.latents, (1 - got.multiplier) * midpoint_median(diverse))


def test_content_says_what_is_relevant_while_the_query_is_moved():
    m = material(5)
    bias, content = bias_sensitivity(m["diverse"], m["classes"]), m["query"].flip(0)
    got = modulate(m["query"], diverse=m["diverse"], bias=bias, content=content, variant="b")
    assert torch.equal(got.s_concept, percentile_scores(m["diverse"], content))
    expected = m["query"] * got.multiplier + (1 - got.multiplier) * lower_median(m["diverse"])
    torch.testing.assert_close(got.latents, expected)
    alone = modulate(m["query"], diverse=m["diverse"], content=content, variant="i")
    torch.testing.assert_close(
        alone.latents,
        modulate(m["query"], diverse=m["diverse"], paraphrases=list(content[:, None]), variant="i").latents,
    )


def test_raw_coordinates_below_zero_are_scored_too():
    rng = np.random.default_rng(0)
    reference, x = (torch.tensor(rng.normal(size=(n, 5))) for n in (9, 3))
    np.testing.assert_allclose(percentile_scores(reference, x), pct(reference.numpy(), x.numpy()))


def test_half_precision_counts_exactly_beyond_its_whole_numbers():
    reference = torch.arange(3001, dtype=torch.float32)[:, None] / 4096
    got = percentile_scores(reference, torch.tensor([[0.5]], dtype=torch.float16))
    assert got.item() == pytest.approx(2048 / 3001, abs=1e-7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 1}, "at least 2"),
        ({"classes": "empty"}, "at least one row"),
        ({"diverse": "empty"}, "at least one row"),
        ({"diverse": "nan"}, "NaN"),
        ({"query": "wide"}, "wide"),
        ({"query": "nan"}, "NaN"),
        ({"paraphrases": 3}, "each of 4 queries"),
        ({"paraphrases": "empty"}, "at least one row"),
    ],
)
def test_bad_inputs_are_named(change, words):
    m = material(1)
    if change.get("classes") == 1:
        m["classes"] = m["classes"][:1]
    elif change.get("classes") == "empty":
        m["classes"][1] = m["classes"][1][:0]
    if change.get("diverse"):
        m["diverse"] = m["diverse"][:0] if change["diverse"] == "empty" else m["diverse"] / 0
    if change.get("query"):
        m["query"] = m["query"][:, :-1] if change["query"] == "wide" else m["query"] / 0
    if change.get("paraphrases") == 3:
        m["paraphrases"] = m["paraphrases"][:3]
    elif change.get("paraphrases") == "empty":
        m["paraphrases"][0] = m["paraphrases"][0][:0]
    with pytest.raises(ValueError, match=words):
        modulated(m, "bi")


def test_what_a_variant_needs_is_asked_for():
    m = material(1)
    with pytest.raises(ValueError, match="bias sensitivity"):
        modulate(m["query"], diverse=m["diverse"], variant="b")
    with pytest.raises(ValueError, match="paraphrases"):
        modulate(m["query"], diverse=m["diverse"], variant="i")
    with pytest.raises(ValueError, match="negative"):
        modulate(m["query"], diverse=m["diverse"], paraphrases=m["paraphrases"], variant="i", exponent=-1)
    with pytest.raises(ValueError, match="unknown variant"):
        modulate(m["query"], diverse=m["diverse"], variant="c")
