"""Identities that merges must obey, whatever the tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import DataError
from runner.nodes.merging import deltas, methods, sparsify, spherical
from runner.nodes.merging.methods import merge_state, merge_tensor
from runner.nodes.merging.specs import METHODS, PAIRED, RANDOM, WEIGHTLESS, MergeSpec

NAME = "model.layers.1.self_attn.q_proj.weight"
FISHER = {"fisher": {str(k): __file__ for k in range(3)}}

shapes = st.sampled_from([(7, 9), (13,), (2, 3, 4)])
seeds = st.integers(0, 10_000)


def world(seed: int, shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float32) -> Any:
    made = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=made, dtype=dtype)
    return base, [base + 0.2 * torch.randn(shape, generator=made, dtype=dtype) for _ in range(count)]


def spec(method: str, **settings_: Any) -> MergeSpec:
    return MergeSpec(method=method, **{**(FISHER if method == "fisher" else {}), **settings_})  # type: ignore[arg-type]


def merge(how: MergeSpec, base: Any, experts: Any, weights: Any, **rest: Any) -> torch.Tensor:
    count = len(experts)
    if how.method == "fisher":
        how = how.model_copy(update={"fisher": {str(k): "file" for k in range(count)}})
        rest.setdefault(
            "fishers", [torch.rand(base.shape, generator=torch.Generator().manual_seed(k)) for k in range(count)]
        )
    return merge_tensor(how, NAME, base, experts, weights, **rest)


@given(seeds, shapes)
@settings(max_examples=6, deadline=None)
def test_one_hot_is_the_expert(seed: int, shape: tuple[int, ...]) -> None:
    base, experts = world(seed, shape, 2)
    for method in sorted(set(METHODS) - WEIGHTLESS - {"iso"}):
        found = merge(spec(method), base, experts, [0.0, 1.0])
        torch.testing.assert_close(found, experts[1], rtol=2e-6, atol=2e-6, msg=method)
    assert torch.equal(merge(spec("linear"), base, experts, [0.0, 1.0]), experts[1])


@given(seeds, shapes, st.integers(2, 4))
@settings(max_examples=6, deadline=None)
def test_equal_experts_give_that_expert(seed: int, shape: tuple[int, ...], count: int) -> None:
    base, [expert] = world(seed, shape, 1)
    weights = [1 / count] * count
    for method in sorted(set(METHODS) - {"iso"} - (PAIRED if count > 2 else set())):
        found = merge(spec(method), base, [expert] * count, weights)
        torch.testing.assert_close(found, expert, rtol=5e-6, atol=5e-6, msg=method)


@given(seeds, shapes)
@settings(max_examples=5, deadline=None)
def test_order_of_experts_changes_nothing(seed: int, shape: tuple[int, ...]) -> None:
    base, experts = world(seed, shape, 3, torch.float64)
    weights, names = [0.2, 0.5, 0.3], ["a", "b", "c"]
    values = [torch.rand(shape, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    for method in sorted(set(METHODS) - PAIRED):
        how = spec(method, **({"density": 0.5} if method in RANDOM | {"ties", "breadcrumbs", "sce"} else {}))
        how = how.model_copy(update={"fisher": dict.fromkeys(names, "file")}) if method == "fisher" else how
        results = [
            merge_tensor(
                how, NAME, base, [experts[i] for i in order], [weights[i] for i in order],
                names=[names[i] for i in order], fishers=[values[i] for i in order],
            )
            for order in ((0, 1, 2), (2, 0, 1), (1, 0, 2))
        ]  # fmt: skip
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], msg=method)


@given(seeds, shapes, st.lists(st.floats(0.05, 1), min_size=6, max_size=6))
@settings(max_examples=25, deadline=None)
def test_linear_is_task_arithmetic_and_affine_in_the_weights(
    seed: int, shape: tuple[int, ...], raw: list[float]
) -> None:
    base, experts = world(seed, shape, 3, torch.float64)
    w, v = ([x / sum(part) for x in part] for part in (raw[:3], raw[3:]))
    for method in ("linear", "task_arithmetic", "dare_linear"):
        how = spec(method, **({"density": 0.4} if method == "dare_linear" else {}))
        middle = merge(how, base, experts, [(a + b) / 2 for a, b in zip(w, v, strict=True)])
        torch.testing.assert_close(middle, (merge(how, base, experts, w) + merge(how, base, experts, v)) / 2)
    torch.testing.assert_close(
        merge(spec("linear"), base, experts, w), merge(spec("task_arithmetic"), base, experts, w)
    )


@given(seeds, shapes)
@settings(max_examples=15, deadline=None)
def test_ties(seed: int, shape: tuple[int, ...]) -> None:
    base, experts = world(seed, shape, 3, torch.float64)
    w = [0.2, 0.5, 0.3]
    steps = [(x - base).abs() for x in experts]
    agreeing = deltas.ties(base, [base + s for s in steps], w, 1.0)
    torch.testing.assert_close(agreeing, base + sum(a * s for a, s in zip(w, steps, strict=True)))
    mean = deltas.ties(base, [base + s for s in steps], w, 1.0, "reference")
    torch.testing.assert_close(mean, base + sum(steps) / 3)
    for convention in ("mergekit", "reference"):
        there = deltas.ties(base, experts, w, 0.4, convention) - base  # type: ignore[arg-type]
        back = deltas.ties(base, [2 * base - x for x in experts], w, 0.4, convention) - base  # type: ignore[arg-type]
        torch.testing.assert_close(back, -there)


def test_ties_by_hand_in_both_conventions() -> None:
    base = torch.zeros(5)
    experts = [torch.tensor([4.0, -3, 2, 1, 0.5]), torch.tensor([-1.0, -5, 3, -2, 0.25])]
    # density 0.6: mergekit keeps 3 entries, the reference 4 (from the second smallest on).
    # weighted, kept: (2, -1.5, 1, 0, 0), (0, -2.5, 1.5, -1, 0): the signs of the sums are + - + - +.
    found = deltas.ties(base, experts, [0.5, 0.5], 0.6)
    torch.testing.assert_close(found, torch.tensor([4.0, -4, 2.5, -2, 0]))
    # kept: (4, -3, 2, 1, 0), (-1, -5, 3, -2, 0); signs of the sums + - + - 0, and the tensor's majority is 0 + 0.
    found = deltas.ties(base, experts, [0.5, 0.5], 0.6, "reference")
    torch.testing.assert_close(found, torch.tensor([4.0, -4, 2.5, -2, 0]))
    plain = deltas.ties(base, experts, [0.5, 0.5], 0.6, normalize=False, scale=2.0)
    torch.testing.assert_close(plain, torch.tensor([4.0, -8, 5, -2, 0]))


def test_conventions_of_ties_differ() -> None:
    base, experts = world(5, (64, 68), 2)
    w = [0.3, 0.7]
    assert not torch.allclose(deltas.ties(base, experts, w, 0.2), deltas.ties(base, experts, w, 0.2, "reference"))
    kept = [int(f(experts[0] - base, 0.2).count_nonzero()) for f in (sparsify.keep_largest, sparsify.keep_at_threshold)]
    assert kept == [int(0.2 * 64 * 68), 64 * 68 - int(0.8 * 64 * 68) + 1]


@given(st.integers(1, 60), st.floats(0.01, 1), seeds)
@settings(max_examples=40, deadline=None)
def test_largest_are_kept_also_among_equal_entries(n: int, density: float, seed: int) -> None:
    delta = torch.randint(-3, 4, (n,), generator=torch.Generator().manual_seed(seed)).float() + 0.5
    kept = sparsify.keep_largest(delta, density)
    count = n if density >= 1 else max(1, int(density * n))
    assert int(kept.count_nonzero()) == count
    dropped = delta[kept == 0].abs()
    assert not len(dropped) or dropped.max() <= kept[kept != 0].abs().min()


def test_random_drops_keep_shares_and_lengths() -> None:
    delta = torch.randn(200, 500, generator=torch.Generator().manual_seed(0))
    for rescale, kept_length in (("paper", None), ("mergekit", delta.abs().sum()), ("none", None)):
        found = sparsify.drop_random(delta, 0.3, sparsify.stream(1, "a", "t"), rescale)  # type: ignore[arg-type]
        share = found.count_nonzero() / delta.numel()
        assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / delta.numel())
        factor = (found / delta)[found != 0]
        torch.testing.assert_close(factor, factor[0].expand_as(factor))
        assert abs(factor[0] - {"paper": 1 / 0.3, "mergekit": 1 / 0.3, "none": 1}[rescale]) < 0.05
        if kept_length is not None:
            torch.testing.assert_close(found.abs().sum(), kept_length)


def test_drops_by_rank_follow_the_rank() -> None:
    delta = torch.randn(4000, 11, generator=torch.Generator().manual_seed(0))
    found = sparsify.drop_by_rank(delta, 0.5, 0.3, sparsify.stream(1, "a", "t"), "none")
    order = delta.abs().argsort(1)
    share = (found != 0).gather(1, order).float().mean(0)
    torch.testing.assert_close(share, torch.linspace(0.2, 0.8, 11), atol=0.035, rtol=0)


def test_seeds_follow_names_alone() -> None:
    base, experts = world(3, (20, 30), 2)
    how = MergeSpec(method="dare_linear", density=0.5, seed=3)

    def dropped(names: list[str], tensor: str = NAME, **change: Any) -> torch.Tensor:
        spec_ = how.model_copy(update=change)
        return merge_tensor(spec_, tensor, base, experts, [0.5, 0.5], names=names)

    assert torch.equal(dropped(["a", "b"]), dropped(["a", "b"]))
    for other in (dropped(["a", "c"]), dropped(["a", "b"], NAME + "2"), dropped(["a", "b"], seed=4)):
        assert not torch.equal(dropped(["a", "b"]), other)


@given(seeds, shapes, st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_slerp(seed: int, shape: tuple[int, ...], t: float) -> None:
    base, [a, b] = world(seed, shape, 2, torch.float64)
    assert torch.equal(spherical.slerp(a, b, 0.0), a)
    torch.testing.assert_close(spherical.slerp(a, b, 1.0), b)
    torch.testing.assert_close(spherical.slerp(a, 3 * a, t), (1 - t) * a + t * 3 * a)
    torch.testing.assert_close(spherical.nuslerp(a, 3 * a, t), (1 - t) * a + t * 3 * a)
    p, q = (x / x.norm() for x in (base, b - (b * base).sum() / base.square().sum() * base))
    torch.testing.assert_close(spherical.slerp(p, q, t), math.cos(t * math.pi / 2) * p + math.sin(t * math.pi / 2) * q)
    rows = spherical.nuslerp(a, b, t, axis=-1).reshape(-1, shape[-1])
    first = spherical.nuslerp(a.reshape(-1, shape[-1])[0], b.reshape(-1, shape[-1])[0], t)
    torch.testing.assert_close(rows[0], first)


@given(seeds, st.floats(0.05, 0.95))
@settings(max_examples=15, deadline=None)
def test_karcher_of_two_is_the_great_circle_and_keeps_small_angles(seed: int, t: float) -> None:
    _, [a, b] = world(seed, (11,), 2, torch.float64)
    a, b = a / a.norm(), b / b.norm()
    torch.testing.assert_close(
        spherical.karcher([a, b], [1 - t, t]), spherical.slerp(a, b, t, parallel=1.0), rtol=1e-4, atol=1e-5
    )
    near = (a + 1e-3 * b) / (a + 1e-3 * b).norm()
    exact = spherical.slerp(a, near, t, parallel=1.0)
    single = spherical.karcher([a.float(), near.float()], [1 - t, t])
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=3e-7)


def test_spherical_of_directions_that_cancel() -> None:
    a = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(spherical.multislerp([a, -a], [0.5, 0.5]), torch.zeros(2))
    with pytest.raises(DataError, match="cancel"):
        spherical.multislerp([a, -a, torch.zeros(2)], [0.5, 0.5, 0.0])
    assert torch.equal(spherical.karcher([torch.zeros(2), a], [1.0, 0.0]), torch.zeros(2))


def test_model_stock_by_hand() -> None:
    base = torch.tensor([1.0, 1.0])
    experts = [torch.tensor([2.0, 1.0]), torch.tensor([2.0, 2.0])]
    cosine = 1 / math.sqrt(2)
    t = 2 * cosine / (1 + cosine)
    torch.testing.assert_close(methods.model_stock(base, experts), base + t * torch.tensor([1.0, 0.5]))
    apart = methods.model_stock(base, [base + torch.tensor([1.0, 0.1]), base + torch.tensor([-0.9, 0.1])])
    assert (apart - base)[1] < 0, "differences that point apart: t is negative"
    opposite = methods.model_stock(base, [base + 1, base - 1])
    assert torch.equal(opposite, base)
    tiny = methods.model_stock(base.double(), [base.double() + 1e-6 * torch.ones(2)] * 3)
    torch.testing.assert_close(tiny - base, torch.full((2,), 1e-6, dtype=torch.float64), rtol=1e-6, atol=0)


def test_fisher_by_hand() -> None:
    tensors = [torch.tensor([0.0, 0.0]), torch.tensor([4.0, 4.0])]
    values = [torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])]
    found = methods.fisher(tensors, values, [0.5, 0.5], floor=0.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 4.0]))
    scaled = methods.fisher(tensors, [10 * values[0], values[1]], [0.5, 0.5], norms=[10.0, 1.0], floor=0.0)
    torch.testing.assert_close(scaled, found)
    equal = methods.fisher(tensors, [torch.zeros(2)] * 2, [0.25, 0.75])
    torch.testing.assert_close(equal, torch.tensor([3.0, 3.0]))


def test_iso_flattens_the_spectrum() -> None:
    base, experts = world(9, (6, 4), 3, torch.float64)
    step = methods.iso(base, experts, [1.0] * 3, scale=0.5) - base
    total = sum(x - base for x in experts)
    values = torch.linalg.svdvals(total)
    torch.testing.assert_close(
        torch.linalg.svdvals(step), torch.full((4,), 0.5 * values.mean().item(), dtype=torch.float64)
    )
    # U V^T is the polar factor of the sum: step^T sum = c V diag(sigma) V^T is symmetric and positive.
    product = step.T @ total
    torch.testing.assert_close(product, product.T)
    assert torch.linalg.eigvalsh(product).min() > 0
    vector, [other] = world(9, (5,), 1)
    torch.testing.assert_close(methods.iso(vector, [other], [1.0]), other)
    assert torch.equal(methods.iso(base, [base, base], [0.5, 0.5]), base)


def test_mixtures_of_quadratic_worlds_are_optimal() -> None:
    """Losses 0.5 (x - t_k)^T H (x - t_k) with one H: the merge of the minimisers minimises the mixture's loss."""
    made = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=made, dtype=torch.float64)
    hessian, targets = root @ root.T + torch.eye(6), torch.randn(3, 6, generator=made, dtype=torch.float64)
    w = [0.2, 0.5, 0.3]
    found = merge(spec("linear"), torch.zeros(6, dtype=torch.float64), list(targets), w)
    gradient = sum(a * hessian @ (found - t) for a, t in zip(w, targets, strict=True))
    torch.testing.assert_close(gradient, torch.zeros(6, dtype=torch.float64))


def test_precision_and_dtype() -> None:
    base = torch.full((64,), 1.0, dtype=torch.bfloat16)
    experts = [base + 2**-7, base.clone()]
    quarter = merge(spec("task_arithmetic", dtype="float32"), base, experts, [0.25, 0.75])
    assert quarter.dtype == torch.float32
    torch.testing.assert_close(quarter, torch.full((64,), 1 + 2**-9))
    assert merge(spec("linear"), base, experts, [0.5, 0.5]).dtype == torch.bfloat16


def test_tensors_that_take_no_part_are_copies_of_the_base() -> None:
    base, experts = world(1, (3, 3), 2)
    counts = torch.arange(4)
    assert torch.equal(merge_tensor(MergeSpec(), NAME, counts, [counts + 1, counts + 2], [0.5, 0.5]), counts)
    left = merge_tensor(MergeSpec(include="lora"), "model.norm.weight", base, experts, [0.5, 0.5])
    assert torch.equal(left, base) and left.data_ptr() != base.data_ptr()


def test_states_count_missing_tensors_as_the_base() -> None:
    base, [one, two] = world(1, (3, 3), 2)
    found = merge_state(MergeSpec(), {"x": base, "y": base}, {"a": {"x": one}, "b": {"x": two, "y": two}}, [0.5, 0.5])
    torch.testing.assert_close(found, {"x": (one + two) / 2, "y": (base + two) / 2})


def test_bad_tensors_are_named() -> None:
    base, experts = world(1, (3, 3), 2)
    with pytest.raises(DataError, match=r"q_proj.weight: expert 'ocr' has the shape \[3\], the base \[3, 3\]"):
        merge_tensor(MergeSpec(), NAME, base, [base, base[0]], [0.5, 0.5], names=["general", "ocr"])
    experts[1][0, 0] = torch.nan
    with pytest.raises(DataError, match="expert 'ocr' holds values that are not finite"):
        merge_tensor(MergeSpec(), NAME, base, experts, [0.5, 0.5], names=["general", "ocr"])
    with pytest.raises(DataError, match="fisher needs one tensor"):
        merge_tensor(spec("fisher"), NAME, base, [base] * 3, [0.2, 0.2, 0.6])
