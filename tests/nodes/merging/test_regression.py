"""Regressions as stand-ins, and records by quota."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from results.tables import arrow_table
from runner.artifacts import Conversations, MixtureRanking
from runner.context import local_context
from runner.errors import DataError
from runner.nodes.merging import mixtures, regression
from runner.nodes.merging.ranking_steps import quota
from runner.nodes.merging.validity import ScoreTable


def runs(points: np.ndarray, values: np.ndarray) -> ScoreTable:
    ids = [str(i) for i in range(len(points))]
    return ScoreTable(
        "true", ids, points, [{"task": "gqa", "key": "exact_match", "higher_is_better": True}], values[:, None], {}
    )


def test_a_run_does_not_predict_itself() -> None:
    points = mixtures.dirichlet(3, 10)
    values = points @ np.array([0.1, 0.5, 0.3])
    spoiled = values.copy()
    spoiled[4] += 5
    found = regression.predictions(runs(points, spoiled), points, "regmix_linear")
    assert found[4, 0] == pytest.approx(values[4])  # the others lie on a plane and know nothing of its jump
    new = regression.predictions(runs(points, values), mixtures.uniform(3), "regmix_linear")
    assert new[0, 0] == pytest.approx(0.3)


def test_laws_and_trees_predict_every_mixture() -> None:
    points = mixtures.dirichlet(3, 8)
    losses = 1 + np.exp(points @ np.array([-1.0, 0.5, 0.2]))
    law = regression.predictions(runs(points, losses), points, "mixing_law")
    np.testing.assert_allclose(law[:, 0], losses, atol=0.02)
    trees = regression.predictions(runs(points, losses), points, "regmix_boosting")
    assert np.isfinite(trees).all()


def data(counts: dict[str, int]) -> Conversations:
    rows = [
        {"record_id": f"{d}{i}", "domain": d, "split": split}
        for split, share in (("train", 1), ("eval", 2))
        for d, n in counts.items()
        for i in range(n // share)
    ]
    return Conversations({"name": "made", "notes": []}, [], pa.Table.from_pylist(rows))


def ranked(weights: list[float]) -> MixtureRanking:
    nothing = [arrow_table(f"dmo_{name}", []) for name in ("objective", "validity", "surrogate", "cost")]
    return MixtureRanking(["a", "b"], {"mixture_id": "m1", "weights": weights, "value": 0.5}, [], *nothing)


def test_quota_draws_exactly_and_keeps_the_other_split(tmp_path: Path) -> None:
    found = quota(local_context(tmp_path), ranking=ranked([0.7, 0.3]), data=data({"a": 50, "b": 50}), n=20)
    rows = found.records.to_pylist()
    assert Counter((row["split"], row["domain"]) for row in rows) == {
        ("train", "a"): 14, ("train", "b"): 6, ("eval", "a"): 25, ("eval", "b"): 25,
    }  # fmt: skip
    assert len({row["record_id"] for row in rows if row["split"] == "train"}) == 20
    assert found.about["notes"] == ["mixture m1: a 14, b 6"]


def test_too_few_records_are_refused_or_repeated(tmp_path: Path) -> None:
    ctx = local_context(tmp_path)
    with pytest.raises(DataError, match="domain 'a' has 5 records, the mixture wants 14"):
        quota(ctx, ranking=ranked([0.7, 0.3]), data=data({"a": 5, "b": 50}), n=20)
    found = quota(ctx, ranking=ranked([0.7, 0.3]), data=data({"a": 5, "b": 50}), n=20, repeat=True)
    times = Counter(
        row["record_id"] for row in found.records.to_pylist() if row["split"] == "train" and row["domain"] == "a"
    )
    assert sorted(times.values()) == [2, 3, 3, 3, 3]
    with pytest.raises(DataError, match="lacks this domain"):
        quota(ctx, ranking=ranked([0.7, 0.3]), data=data({"b": 50}), n=20, repeat=True)
