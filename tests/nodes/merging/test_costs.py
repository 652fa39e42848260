"""Accounts of costs, fits beside rankings, and projections of trained models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from results.tables import arrow_table
from runner.artifacts import Experts, MixtureScores
from runner.context import local_context
from runner.nodes.merging.adapter_files import LoraAdapter, read_adapter, write_adapter
from runner.nodes.merging.costs import account, cost_rows
from runner.nodes.merging.lora import concatenate_adapters
from runner.nodes.merging.mixtures import lattice
from runner.nodes.merging.projecting import projection_rows
from runner.nodes.merging.ranking_steps import rank
from tests.nodes.merging.test_ranking_steps import made
from tests.nodes.merging.tiny_experts import write_base


def models(seconds: list[Any]) -> Experts:
    listed = [{"name": str(i), "summary": {"seconds": one}} for i, one in enumerate(seconds)]
    empty = arrow_table("dmo_expert", [])
    return Experts(
        {}, ["a", "b"], listed, Path(), empty, arrow_table("dmo_geometry", []), arrow_table("recovery_step", [])
    )


def scores(n: int, seconds: float | None = 2.0) -> MixtureScores:
    found = made("proxy", np.ones((n, 3)))
    merges = [
        {"mixture_id": f"proxy{i}", "method": "linear", "execution": "resident", "n_merged": 1, "n_copied": 0, "seconds": 0.5,
         "bytes_written": 10} for i in range(n)
    ]  # fmt: skip
    rows = [row | {"seconds": seconds} for row in found.scores.to_pylist()]
    return replace(found, merges=arrow_table("dmo_merge", merges), scores=arrow_table("dmo_score", rows))


def test_an_account_with_all_seconds_known() -> None:
    found = account(scores(7), models([10.0, 14]), models([20.0] * 7))
    assert found["proxy"] == {
        "training_runs": 2, "training_seconds": 24.0, "merges": 7, "merge_seconds": 3.5, "bytes_written": 70, "evaluations": 7,
        "items": 21, "evaluation_seconds": 14.0,
    }  # fmt: skip
    assert found["direct"] == {"training_runs": 7, "training_seconds": 140.0, "training_estimated": False}
    assert found["saved_seconds"] == 140 - 24 - 3.5


def test_an_account_is_two_rows_of_its_table() -> None:
    proxy, direct = arrow_table("dmo_cost", cost_rows(account(scores(7), models([10.0, 14])))).to_pylist()
    assert (proxy["training_seconds"], proxy["merges"], proxy["training_estimated"]) == (24.0, 7, None)
    assert (direct["training_seconds"], direct["training_estimated"], direct["saved_seconds"]) == (84.0, True, 56.5)


def test_what_is_not_known_is_not_made_up() -> None:
    guessed = account(scores(7), models([10.0, 14]))
    assert guessed["direct"] == {"training_runs": 7, "training_seconds": 84.0, "training_estimated": True}
    bare = account(scores(7, None))
    assert bare["saved_seconds"] is None and bare["direct"]["training_seconds"] is None
    assert bare["proxy"]["evaluation_seconds"] is None and bare["proxy"]["training_runs"] == 2
    assert account(scores(2), models([10.0, None]))["proxy"]["training_seconds"] is None


def test_a_ranking_holds_quadratics_of_its_tasks(tmp_path: Path) -> None:
    """A known quadratic: 1 - |w - (0.4, 0.6)|^2 over two domains; its maximum lies at (0.4, 0.6) with the value 1."""
    weights = lattice(2, 10)
    table = made("proxy", np.tile(1 - ((weights - [0.4, 0.6]) ** 2).sum(1, keepdims=True), (1, 4)))
    ctx = local_context(tmp_path)
    found = rank(ctx, proxy=table, draws=100)
    rows = {row["task"]: row for row in found.surrogates.to_pylist()}
    assert rows.keys() == {"objective", "task0"}
    assert rows["objective"]["argmax"] == pytest.approx([0.4, 0.6], abs=1e-3)
    assert rows["objective"]["value"] == pytest.approx(1, abs=1e-4) and rows["objective"]["n"] == 9
    assert rows["objective"]["loo_r2"] > 0.99 and rows["objective"]["model"] == "scheffe2"
    sides = {row["side"]: row for row in found.costs.to_pylist()}
    assert sides["proxy"]["training_runs"] == 2 and sides["direct"]["training_runs"] == 9
    assert sides["direct"]["merges"] is None and sides["direct"]["saved_seconds"] is None
    assert not any("coefficients" in row["text"] for row in ctx.journal.messages)  # type: ignore[attr-defined]
    assert not rank(ctx, proxy=table, draws=100, surrogate=False).surrogates.num_rows
    rank(ctx, proxy=made("proxy", np.ones((3, 4))), draws=100)
    assert any("3 coefficients and 3 mixtures" in row["text"] for row in ctx.journal.messages)  # type: ignore[attr-defined]


def test_losses_are_fitted_so_that_the_maximum_is_the_best(tmp_path: Path) -> None:
    weights = lattice(2, 10)
    table = made("proxy", np.tile(((weights - [0.4, 0.6]) ** 2).sum(1, keepdims=True), (1, 4)))
    falling = replace(table, tasks=[{**table.tasks[0], "higher_is_better": False}])
    rows = rank(local_context(tmp_path), proxy=falling, draws=100).surrogates.to_pylist()
    assert all(row["argmax"] == pytest.approx([0.4, 0.6], abs=1e-3) for row in rows)


def test_projections_find_the_weights_of_merges_and_what_lies_beside(tmp_path: Path) -> None:
    import torch

    base = write_base(tmp_path / "base")
    paths: dict[str, Path] = {}
    generator = torch.Generator().manual_seed(0)
    modules = [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
    for name in ("a", "b", "beside"):
        # Three blocks of rows: experts and the third direction are orthogonal to each other.
        rows = torch.zeros(32)
        rows[10 * len(paths) : 10 * len(paths) + 10] = 1
        factors = {
            module: (torch.randn(2, 32, generator=generator), rows[:, None] * torch.randn(32, 2, generator=generator)) for module in modules
        }  # fmt: skip
        write_adapter(LoraAdapter(factors, dict.fromkeys(factors, 0.5), {}), tmp_path / name, "base")
        paths[name] = tmp_path / name
    adapters = {name: read_adapter(path) for name, path in paths.items()}
    write_adapter(concatenate_adapters([adapters["a"], adapters["b"]], [0.3, 0.7]), tmp_path / "inside")
    write_adapter(concatenate_adapters(list(adapters.values()), [0.3, 0.7, 1.0]), tmp_path / "outside")
    write_adapter(concatenate_adapters([adapters["a"]], [0.0]), tmp_path / "zero")
    trained = {name: tmp_path / name for name in ("inside", "outside", "zero")}
    experts = {name: paths[name] for name in ("a", "b")}
    rows_of = {(row["mixture_id"], row["domain"]): row for row in projection_rows(
        base, experts, trained, {name: [0.3, 0.7] for name in trained}
    )}  # fmt: skip
    for name in ("inside", "outside"):
        for domain, weight in (("a", 0.3), ("b", 0.7)):
            assert rows_of[name, domain]["coefficient"] == pytest.approx(weight, abs=1e-6)
            assert rows_of[name, domain]["weight"] == weight
    assert rows_of["inside", "a"]["residual"] == pytest.approx(0, abs=1e-6)
    norms = {
        name: sum(float((0.5 * b @ a).square().sum()) for a, b in one.factors.values())
        for name, one in adapters.items()
    }
    share = norms["beside"] / (0.09 * norms["a"] + 0.49 * norms["b"] + norms["beside"])
    assert rows_of["outside", "b"]["residual"] == pytest.approx(share, rel=1e-5)
    assert rows_of["zero", "a"]["residual"] is None and rows_of["zero", "a"]["coefficient"] == 0
