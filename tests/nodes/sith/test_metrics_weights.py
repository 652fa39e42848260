import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sith.coding import comp, reconstruct
from runner.nodes.sith.effects import attribute_direction, direction_effects
from runner.nodes.sith.metrics import (
    ceiling,
    compare_heads,
    difference,
    fidelity,
    hit_ranks,
    jaccard,
    joint_cosine,
    recall_at,
    redirected_ranks,
    residual_direction,
)
from runner.nodes.sith.weights import HeadSvd, svd_of_product, unit

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=10, deadline=None)


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def head(seed, D=12, r=4, heads=2):
    return svd_of_product(normal(seed, heads, D, r), normal(seed + 1, heads, r, D))


# --- fidelity ----------------------------------------------------------------------------------------------------------


@few
@given(SEEDS)
def test_fidelity_is_the_cosine_through_the_pseudo_inverse(seed):
    D, d = 12, 5
    proj, v, code, mu = (
        normal(seed, D, d),
        unit(normal(seed + 1, 3, D)),
        normal(seed + 2, 3, d),
        normal(seed + 3, d) * 0.2,
    )
    found = fidelity(code, v, proj, mu)
    for row, wanted_v, value in zip(code.numpy(), v.numpy(), found.tolist(), strict=True):
        x = row / np.linalg.norm(row) + mu.numpy()
        back = (x / np.linalg.norm(x)) @ (np.linalg.inv(proj.numpy().T @ proj.numpy()) @ proj.numpy().T)
        assert value == pytest.approx(float(back @ wanted_v / np.linalg.norm(back)), abs=1e-9)
    assert bool((found.abs() <= 1).all())
    assert torch.allclose(fidelity(7 * code, v, proj, mu), found)  # the scale of a code does not matter
    assert torch.allclose(ceiling(code, v, proj, mu), found)


def test_empty_codes_have_no_fidelity_and_perfect_ones_a_joint_cosine_of_one():
    proj, v, p = normal(0, 8, 4), unit(normal(1, 2, 8)), unit(normal(2, 2, 4))
    code = torch.stack([torch.zeros(4, dtype=torch.float64), 3 * p[1]])
    assert fidelity(code, v, proj, None).isnan().tolist() == [True, False]
    cosine = joint_cosine(code, p)
    assert cosine[0].isnan() and float(cosine[1]) == pytest.approx(1)
    inside = unit(normal(3, 4) @ torch.linalg.pinv(proj))  # a vector that the projection loses nothing of
    assert float(fidelity(unit(inside @ proj), inside, proj, None)) == pytest.approx(1)
    assert torch.allclose(residual_direction(inside @ proj, proj, None), inside)


@few
@given(SEEDS, st.sampled_from([0.0, 0.3]))
def test_a_target_in_the_cone_of_all_atoms_is_met_and_one_outside_is_not(seed, coherence):
    atoms = unit(normal(seed, 16, 8)).float()
    inside = unit(normal(seed + 1, 4, 16).abs().float() @ atoms)
    opposite = unit(normal(seed + 2, 16, 8).abs().float())
    for targets, own, met in ((inside, atoms, True), (-inside.abs(), opposite, False)):
        cosine = joint_cosine(reconstruct(comp(targets, own, len(own), coherence), own), targets)
        assert bool((cosine > 1 - 1e-5).all()) if met else bool(cosine.isnan().all())


# --- two models --------------------------------------------------------------------------------------------------------


@few
@given(SEEDS)
def test_equal_reweighted_and_negated_heads(seed):
    one = head(seed)
    same = compare_heads(one, one)
    for name in ("match_cos", "mean_cos", "weighted_cos", "overlap1", "overlap5", "overlap_r", "principal"):
        assert torch.allclose(getattr(same, name), torch.ones((), dtype=torch.float64)), name
    assert torch.equal(same.match, torch.arange(4).expand(2, 4))
    assert torch.allclose(same.gain, one.s) and float(same.rel_delta.max()) < 1e-12
    weights = torch.tensor([0.1, 3.0, 1.0, 0.5], dtype=torch.float64)
    reweighted = svd_of_product(one.u * (one.s * weights)[:, None], one.vh)
    found = compare_heads(one, reweighted)
    assert torch.allclose(found.reweight_energy, torch.ones(2, dtype=torch.float64))
    assert torch.allclose(found.inspan_energy, torch.ones(2, dtype=torch.float64))
    assert torch.allclose(found.mean_cos, torch.ones(2, dtype=torch.float64))
    assert torch.allclose(found.gain / one.s, weights.expand(2, 4))
    negated = compare_heads(one, HeadSvd(-one.u, one.s, one.vh))
    assert torch.allclose(negated.match_cos, torch.ones(2, 4, dtype=torch.float64))
    assert torch.allclose(negated.rel_delta, torch.full((2,), 2.0, dtype=torch.float64))
    assert torch.allclose(negated.gain, -one.s)


@few
@given(SEEDS)
def test_comparisons_against_plain_matrices(seed):
    one, two = head(seed), head(seed + 7)
    found = compare_heads(one, two)
    for h in range(2):
        u, s, vh = (part[h].numpy() for part in one)
        u2, s2, vh2 = (part[h].numpy() for part in two)
        W, W2, C = (u * s) @ vh, (u2 * s2) @ vh2, np.abs(vh @ vh2.T)
        best = max(itertools.permutations(range(4)), key=lambda order: sum(C[i, j] for i, j in enumerate(order)))
        assert tuple(found.match[h].tolist()) == best
        cosines = np.array([C[i, j] for i, j in enumerate(best)])
        energy = (W2**2).sum()
        wanted = {
            "mean_cos": cosines.mean(),
            "weighted_cos": (s * cosines).sum() / s.sum(),
            "overlap1": C[0, 0] ** 2,
            "overlap5": np.linalg.norm(vh @ vh2.T) ** 2 / 4,
            "reweight_energy": sum((u[:, i] @ W2 @ vh[i]) ** 2 for i in range(4)) / energy,
            "inspan_energy": np.linalg.norm(u.T @ W2 @ vh.T) ** 2 / energy,
            "rel_delta": np.linalg.norm(W2 - W) / np.linalg.norm(W),
        }
        for name, value in wanted.items():
            assert float(getattr(found, name)[h]) == pytest.approx(float(value), abs=1e-9), name
        np.testing.assert_allclose(found.principal[h], np.linalg.svd(vh @ vh2.T)[1], atol=1e-9)
        delta = difference(one, two)
        np.testing.assert_allclose((delta.u[h] * delta.s[h]) @ delta.vh[h], W2 - W, atol=1e-9)
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_heads(one, head(seed, r=3))


def test_jaccard():
    assert jaccard({"a", "b"}, {"b", "c"}) == pytest.approx(1 / 3)
    assert jaccard(set(), set()) is None


# --- redirected retrieval ----------------------------------------------------------------------------------------------


@few
@given(SEEDS, st.integers(1, 4))
def test_ranks_are_places_in_a_stable_order(seed, chunk):
    rng = np.random.default_rng(seed)
    queries, gallery = rng.integers(-1, 2, (6, 3)), rng.integers(-1, 2, (9, 3))  # integers, so that ties are many
    targets = rng.integers(0, 9, 6)
    order = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")
    wanted = [list(row).index(target) for row, target in zip(order, targets, strict=True)]
    tensors = [torch.from_numpy(part) for part in (queries, gallery, targets)]
    assert hit_ranks(*tensors, chunk=chunk).tolist() == wanted


def test_the_six_settings_count_the_safe_partner_alone():
    e = torch.eye(4)
    images, unsafe_images, texts, unsafe_texts = e[:2], e[2:], e[:2], e[2:]
    ranks = redirected_ranks(images, unsafe_images, texts, unsafe_texts)
    hits = {name: recall_at(found, (1, 2, 3, 4)) for name, found in ranks.items()}
    assert [*hits] == ["T->V", "V->T", "T->VV*", "V->TT*", "T*->VV*", "V*->TT*"]
    for name in ("T->V", "V->T", "T->VV*", "V->TT*"):
        assert hits[name][1] == 2
    # an unsafe text is nearest to its own unsafe picture; among the rest, all ties, the safe partner of row 0 comes first
    assert hits["T*->VV*"] == hits["V*->TT*"] == {1: 0, 2: 1, 3: 2, 4: 2}
    turned = redirected_ranks(images, unsafe_images, texts, texts)
    assert recall_at(turned["T*->VV*"], [1]) == {1: 2}


# --- effects of an attribute (ours) ------------------------------------------------------------------------------------


def test_the_attribute_is_told_from_the_class_that_goes_along_with_it():
    e = torch.eye(3, dtype=torch.float64)
    # class 0 = e0, class 1 = e1; the value adds e2; class 1 has it three times as often
    rows = [(0, 0)] * 3 + [(0, 1)] + [(1, 0)] + [(1, 1)] * 3 + [(2, 1)]
    vectors = torch.stack([e[c % 2] + has * e[2] for c, has in rows])
    has, strata = torch.tensor([bool(h) for _, h in rows]), torch.tensor([c for c, _ in rows])
    assert torch.allclose(attribute_direction(vectors, has, strata), e[2])
    mixed = attribute_direction(vectors, has)
    assert float(mixed[1]) > 0.2  # without strata the class is counted
    with pytest.raises(ValueError, match="no class has pictures both"):
        attribute_direction(vectors[-1:], has[-1:], strata[-1:])
    with pytest.raises(ValueError, match="are equal"):
        attribute_direction(e[:1].expand(2, 3), torch.tensor([True, False]))


def test_effects_are_gain_times_what_is_written_along_the_attribute():
    s, q = torch.tensor([[2.0, 1.0]]), torch.tensor([[[3.0, 4.0], [0.0, -2.0]]])
    found = direction_effects(s, q, torch.tensor([0.0, 1.0]))
    assert torch.allclose(found.cosine, torch.tensor([[0.8, -1.0]]))
    assert torch.allclose(found.effect, torch.tensor([[8.0, -2.0]]))
    assert torch.allclose(found.share, torch.tensor([[64 / 68, 4 / 68]]))
