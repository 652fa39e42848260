"""Equality with mergekit 0.1.5, called on the same tensors through its own public call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup

from runner.nodes.merging.methods import merge_tensor
from runner.nodes.merging.sparsify import stream
from runner.nodes.merging.specs import MergeSpec

NAME = "model.layers.0.mlp.up_proj.weight"
SHAPES = [(6, 17), (23,), (1,), (3, 5, 2)]


def world(
    seed: int, shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float64, spread: float = 0.3
) -> Any:
    made = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=made, dtype=dtype)
    experts = [base + spread * torch.randn(shape, generator=made, dtype=dtype) for _ in range(count)]
    weights = torch.rand(count, generator=made, dtype=torch.float64) + 0.05
    return base, experts, (weights / weights.sum()).tolist()


def theirs(method: str, base: torch.Tensor | None, experts: list[torch.Tensor], **parameters: Any) -> torch.Tensor:
    names = [str(k) for k in range(len(experts))]
    tensors, ids = (experts, names) if base is None else ([base, *experts], ["base", *names])
    group = TensorGroup.from_tensors(tensors, ids=ids, base_index=None if base is None else 0)
    by_expert = {"weight", "density", "gamma", "epsilon"}
    given = {
        key: dict(zip(names, value if isinstance(value, list) else [value] * len(names), strict=True))
        if key in by_expert
        else value
        for key, value in parameters.items()
    }
    return registry.get(method)([group], parameters=given)[0]


def ours(spec: MergeSpec, base: torch.Tensor, experts: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return merge_tensor(spec, NAME, base, experts, weights)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", [101, 202])
def test_linear_and_differences(seed: int, count: int, shape: tuple[int, ...]) -> None:
    base, experts, weights = world(seed, shape, count)
    twice = [2 * w for w in weights]
    cases = [
        (MergeSpec(), "linear", None, weights, {"weight": weights}),
        (MergeSpec(normalize=True), "linear", None, twice, {"weight": twice}),
        (MergeSpec(method="task_arithmetic", scale=0.7), "task_arithmetic", base, twice, {"weight": twice, "lambda": 0.7}),
        (MergeSpec(method="task_arithmetic", normalize=True), "task_arithmetic", base, twice,
         {"weight": twice, "normalize": True}),
    ]  # fmt: skip
    for spec, method, origin, given, parameters in cases:
        torch.testing.assert_close(ours(spec, base, experts, given), theirs(method, origin, experts, **parameters))


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("density", [1.0, 0.5, 0.13])
@pytest.mark.parametrize("normalize", [None, True, False])
def test_sparse_and_signed(method: Any, density: float, normalize: bool | None) -> None:
    for seed, shape in enumerate(SHAPES):
        base, experts, weights = world(300 + seed, shape, 3)
        spec = MergeSpec(method=method, density=density, normalize=normalize, scale=1.3)
        chosen = {} if normalize is None else {"normalize": normalize}
        found = theirs(method, base, experts, weight=weights, density=density, **{"lambda": 1.3}, **chosen)
        torch.testing.assert_close(ours(spec, base, experts, weights), found, msg=f"{method} {shape}")


def test_densities_by_expert_and_gamma() -> None:
    base, experts, weights = world(41, (9, 31), 3)
    shares = [0.2, 1.0, 0.6]
    by_expert = {str(k): share for k, share in enumerate(shares)}
    found = ours(MergeSpec(method="ties", density=by_expert), base, experts, weights)
    torch.testing.assert_close(found, theirs("ties", base, experts, weight=weights, density=shares))
    spec = MergeSpec(method="breadcrumbs", density=0.7, gamma=0.1)
    found = theirs("breadcrumbs", base, experts, weight=weights, density=0.7, gamma=0.1)
    torch.testing.assert_close(ours(spec, base, experts, weights), found)


@pytest.mark.parametrize("seed", [51, 52, 53])
def test_negative_weights_elect_their_own_signs(seed: int) -> None:
    base, experts, _ = world(seed, (8, 8), 3)
    weights = [1.2, -0.5, 0.3]
    spec = MergeSpec(method="ties", density=0.4, allow_negative=True)
    torch.testing.assert_close(
        ours(spec, base, experts, weights), theirs("ties", base, experts, weight=weights, density=0.4)
    )


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
@pytest.mark.parametrize("shape", [(6, 17), (23,), (3, 5, 2)], ids=str)
def test_random_drops(method: Any, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules agree where mergekit is given our random numbers; its own stream has no seed by tensor.

    Rows of one entry are left out: there its rule divides zero by zero.
    """
    base, experts, weights = world(61, shape, 3, torch.float32)
    streams: Iterator[torch.Generator] = iter(stream(7, str(k), NAME) for k in range(3))

    def drawn(probability: torch.Tensor) -> torch.Tensor:
        draw = torch.rand(probability.shape, generator=next(streams)).view_as(probability)
        return (draw < probability).to(probability.dtype)

    monkeypatch.setattr(torch, "bernoulli", drawn)
    spec = MergeSpec(method=method, density=0.6, seed=7)
    found = theirs(method, base, experts, weight=weights, density=0.6)
    torch.testing.assert_close(ours(spec, base, experts, weights), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spherical(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    near = {"rtol": 2e-5, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-7}
    for seed in (71, 72, 73):
        base, experts, weights = world(seed, shape, 4, dtype, spread=1.0)
        pair, two = experts[:2], [0.3, 0.7]
        cases = [
            ("slerp", pair, two, theirs("slerp", pair[0], pair[1:], t=0.7)),
            ("nuslerp", pair, two, theirs("nuslerp", base, pair, weight=two)),
            ("multislerp", experts, weights, theirs("multislerp", base, experts, weight=weights)),
            ("karcher", experts, [0.25] * 4, theirs("karcher", None, experts)),
        ]
        for method, tensors, given, found in cases:
            torch.testing.assert_close(ours(MergeSpec(method=method), base, tensors, given), found, **near)


def test_nuslerp_by_rows_is_theirs_along_the_last_axis() -> None:
    base, experts, _ = world(81, (6, 17), 2)
    found = theirs("nuslerp", base, experts, weight=[0.4, 0.6], nuslerp_flatten=False, nuslerp_row_wise=False)
    torch.testing.assert_close(ours(MergeSpec(method="nuslerp", rows=True), base, experts, [0.4, 0.6]), found)


@pytest.mark.parametrize(("shape", "rows"), [*((s, False) for s in SHAPES), *((s, True) for s in SHAPES[:3])], ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_model_stock(shape: tuple[int, ...], rows: bool, count: int) -> None:
    for seed in (91, 92):
        base, experts, _ = world(seed, shape, count)
        found = theirs("model_stock", base, experts, filter_wise=rows)
        torch.testing.assert_close(
            ours(MergeSpec(method="model_stock", rows=rows), base, experts, [1.0] * count), found
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
def test_sce(shape: tuple[int, ...], density: float) -> None:
    for seed in (111, 112):
        base, experts, weights = world(seed, shape, 3)
        found = theirs("sce", base, experts, select_topk=density)
        torch.testing.assert_close(ours(MergeSpec(method="sce", density=density), base, experts, weights), found)


def test_sce_scales_with_small_differences_where_theirs_does_not() -> None:
    base, experts, weights = world(121, (12, 12), 3)
    experts[0] = base + 3 * (experts[0] - base)
    small = [base + 1e-4 * (x - base) for x in experts]
    step = ours(MergeSpec(method="sce"), base, experts, weights) - base
    tiny = ours(MergeSpec(method="sce"), base, small, weights) - base
    torch.testing.assert_close(tiny, 1e-4 * step, rtol=1e-6, atol=1e-12)
    assert (theirs("sce", base, small) - base - 1e-4 * step).abs().max() > 0.1 * (1e-4 * step).abs().max()


def test_untouched_tensors_merge_to_the_base_where_theirs_fails() -> None:
    base, _, weights = world(131, (4, 4), 3)
    with pytest.raises(ValueError, match="zero"):
        theirs("multislerp", base, [base] * 3, weight=weights)
    assert torch.equal(ours(MergeSpec(method="multislerp"), base, [base] * 3, weights), base)
