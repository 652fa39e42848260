"""Steps dmo.mixtures and dmo.rank on made scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from results.tables import arrow_table
from runner.artifacts import MixtureScores
from runner.context import StepContext, local_context
from runner.errors import DataError
from runner.nodes.merging.mixture_specs import GeneratorSpec, Objective
from runner.nodes.merging.ranking_steps import baselines, mixtures, rank

DOMAINS = ["object", "count"]


@pytest.fixture
def ctx(tmp_path: Path) -> StepContext:
    return local_context(tmp_path)


def generator(value: Any) -> Any:
    return TypeAdapter(GeneratorSpec).validate_python(value)


def made(kind: str, values: np.ndarray, ids: list[str] | None = None, tasks: int = 1) -> MixtureScores:
    """Scores [n mixtures, m items] of ``tasks`` equal tasks at weights i / (n + 1)."""
    n = len(values)
    ids = ids or [f"{kind}{i}" for i in range(n)]
    weights = [[(i + 1) / (n + 1), (n - i) / (n + 1)] for i in range(n)]
    rows = [
        {"mixture_id": m, "domains": DOMAINS, "weights": w, "source": "explicit", "entropy": 0.5}
        for m, w in zip(ids, weights, strict=True)
    ]
    names = [f"task{t}" for t in range(tasks)]
    scores = [
        {
            "mixture_id": m,
            "kind": kind,
            "task": t,
            "key": "exact_match",
            "value": float(v.mean()),
            "n": len(v),
            "status": "done",
        }
        for m, v in zip(ids, values, strict=True)
        for t in names
    ]
    items = [
        {"mixture_id": m, "task": t, "item_id": str(i), "group": None, "value": float(x)}
        for m, v in zip(ids, values, strict=True)
        for t in names
        for i, x in enumerate(v)
    ]
    schema = pa.schema(
        [
            ("mixture_id", pa.string()),
            ("task", pa.string()),
            ("item_id", pa.string()),
            ("group", pa.string()),
            ("value", pa.float64()),
        ]
    )
    about = [{"task": t, "key": "exact_match", "higher_is_better": True, "group": None, "scale": 1.0} for t in names]
    return MixtureScores(
        DOMAINS, kind, about, arrow_table("dmo_mixture", rows), arrow_table("dmo_merge", []),
        arrow_table("dmo_score", scores), pa.Table.from_pylist(items, schema=schema),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ({"lattice": 8}, 8), ({"lattice": 4, "interior": False}, 6), ({"dirichlet": 5}, 6), ({"sobol": 4}, 5),
        ({"corners_and_centroids": True}, 3), ({"explicit": [{"object": 1.0}, {"count": 0.25, "object": 0.75}]}, 3),
        ({"around": {"object": 0.5, "count": 0.5}, "radius": 0.2, "n": 6}, 7),
    ],
)  # fmt: skip
def test_mixtures_of_every_generator(ctx: StepContext, spec: dict[str, Any], count: int) -> None:
    found = mixtures(ctx, domains=DOMAINS, generator=generator(spec))
    rows = found.mixtures.to_pylist()
    # Eighths hold the centre already: the anchor repeats it and is left out; so do both centroids.
    expected = count - ("lattice" in spec)
    assert len(rows) == expected
    assert len({row["mixture_id"] for row in rows}) == expected
    assert all(sum(row["weights"]) == pytest.approx(1) for row in rows)


def test_anchors_stand_last(ctx: StepContext) -> None:
    found = mixtures(ctx, domains=DOMAINS, generator=generator({"sobol": 2}), add=["uniform", "one_hot"])
    assert [row["mixture_id"] for row in found.mixtures.to_pylist()] == [
        "m1",
        "m2",
        "uniform",
        "only object",
        "only count",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lattic": 0}, {"explicit": [{"object": 0.5}]}, {"explicit": []}, {"dirichlet": 3, "alpha": 0}, {"around": {"object": 2.0}},
        {"explicit": [{"object": -0.5, "count": 1.5}]}, {"explicit": [{"object": float("nan"), "count": 1.0}]}, 7,
    ],
)  # fmt: skip
def test_wrong_generators_are_refused_by_the_spec(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        generator(wrong)


def test_too_many_mixtures_and_unknown_domains(ctx: StepContext) -> None:
    with pytest.raises(DataError, match="more than max_mixtures = 100"):
        mixtures(ctx, domains=DOMAINS, generator=generator({"lattice": 200}), max_mixtures=100)
    with pytest.raises(DataError, match="no domain 'colour'"):
        mixtures(ctx, domains=DOMAINS, generator=generator({"explicit": [{"colour": 1.0}]}))
    with pytest.raises(DataError, match="two different domains"):
        mixtures(ctx, domains=["a", "a"], generator=generator({"sobol": 2}))


def test_rank_finds_the_best_and_says_how_sure_it_is(ctx: StepContext) -> None:
    chance = np.random.default_rng(0).random((1, 300))
    right = np.array([[0.2], [0.5], [0.8], [0.79]]) > chance
    true = np.array([[0.1], [0.4], [0.6], [0.7]]) > chance
    found = rank(ctx, proxy=made("proxy", right.astype(float)), true=made("true", true.astype(float)), k=2)
    assert found.chosen["mixture_id"] == "proxy2"
    assert found.chosen["value"] == pytest.approx(right[2].mean())
    assert found.indistinguishable == ["proxy2", "proxy3"]
    check = found.validity.to_pylist()[0]
    assert check["task"] == "objective"
    assert check["n"] == 4
    assert check["spearman"] == pytest.approx(0.8)  # the two best swap: 1 - 6 * 2 / (4 * 15)
    assert check["regret"] == pytest.approx(true[3].mean() - true[2].mean())
    assert check["true_rank_selected"] == 2
    assert check["topk_overlap"] == 1
    rows = {(row["kind"], row["mixture_id"]): row for row in found.objectives.to_pylist()}
    assert rows["proxy", "proxy2"]["rank"] == rows["true", "true3"]["rank"] == 1
    low, value, high = (rows["proxy", "proxy0"][name] for name in ("ci_low", "value", "ci_high"))
    assert low < value < high


def test_stand_ins_of_one_kind_are_told_apart_and_the_choice_is_marked(ctx: StepContext) -> None:
    rising, falling = np.array([[0.2], [0.4], [0.5], [0.8]]), np.array([[0.9], [0.3], [0.1], [0.0]])
    lines = [made("true", rising, [*"abcd"])] * 2
    others = [baselines(ctx, runs=runs, model="regmix_linear") for runs in lines]
    others += [made("proxy", falling, [*"abcd"]), replace(others[0], kind="regression/mixing_law")]
    found = rank(ctx, proxy=made("proxy", rising), true=lines[0], others=others, draws=100)
    kinds = {"proxy", "regression/regmix_linear", "regression/regmix_linear/2", "proxy/2", "regression/mixing_law"}
    assert {row["kind"] for row in found.validity.to_pylist()} == kinds
    rows = found.objectives.to_pylist()
    assert {row["kind"] for row in rows} == kinds | {"true"} and len(rows) == 24
    assert {row["kind"] for row in others[0].scores.to_pylist()} == {"regression/regmix_linear"}
    chosen = {row["mixture_id"]: row["chosen"] for row in rows if row["kind"] == "proxy"}
    assert chosen == {"proxy0": False, "proxy1": False, "proxy2": False, "proxy3": True}
    assert all(row["chosen"] is None for row in rows if row["kind"] != "proxy")


def test_halves_report_on_items_that_did_not_choose(ctx: StepContext) -> None:
    noise = np.random.default_rng(1).random((30, 40)) < 0.5
    scores = made("proxy", noise.astype(float))
    plain, split = (rank(ctx, proxy=scores, halves=halves) for halves in (False, True))
    assert (
        split.chosen["value"] < plain.chosen["value"]
    )  # the best of thirty coins is no better than the others elsewhere
    (marked,) = [row for row in split.objectives.to_pylist() if row["chosen"]]
    assert marked["mixture_id"] == split.chosen["mixture_id"] and marked["rank"] > 1


def test_gaps_of_halves_are_to_the_chosen_one(ctx: StepContext) -> None:
    scores = made("proxy", (np.random.default_rng(1).random((30, 40)) < 0.5).astype(float))
    found = rank(ctx, proxy=scores, halves=True)
    rows = {row["mixture_id"]: row for row in found.objectives.to_pylist()}
    own = rows[found.chosen["mixture_id"]]
    assert (own["gap"], own["gap_low"], own["gap_high"]) == (0, 0, 0)
    assert all(row["gap"] == pytest.approx(own["value"] - row["value"]) for row in rows.values())
    assert min(row["gap"] for row in rows.values()) < 0 and own["mixture_id"] in found.indistinguishable


def test_halves_of_scores_that_are_no_item_means_are_refused(ctx: StepContext) -> None:
    scores = made("proxy", np.random.default_rng(0).random((4, 10)))
    rows = [row | {"value": row["value"] ** 2} for row in scores.scores.to_pylist()]
    with pytest.raises(DataError, match="means of items; that of task0 is not"):
        rank(ctx, proxy=replace(scores, scores=arrow_table("dmo_score", rows)), halves=True)
    with pytest.raises(DataError, match="items are not known"):
        rank(ctx, proxy=replace(scores, items=scores.items.slice(0, 0)), halves=True)


def test_a_failed_mixture_has_no_rank_and_is_said(ctx: StepContext) -> None:
    scores = made("proxy", np.array([[1.0, 0], [1, 1], [0, 0]]), tasks=2)
    rows = scores.scores.to_pylist()
    rows[2] |= {"status": "failed", "value": None}
    kept = scores.items.filter(
        pa.compute.invert(
            pa.compute.and_(
                pa.compute.equal(scores.items["mixture_id"], "proxy1"), pa.compute.equal(scores.items["task"], "task0")
            )
        )
    )
    lame = MixtureScores(
        DOMAINS, "proxy", scores.tasks, scores.mixtures, scores.merges, arrow_table("dmo_score", rows), kept
    )
    found = rank(ctx, proxy=lame)
    by_id = {row["mixture_id"]: row for row in found.objectives.to_pylist()}
    assert by_id["proxy1"]["value"] is None
    assert by_id["proxy1"]["rank"] is None
    assert found.chosen["mixture_id"] == "proxy0"


def test_objective_weights_by_hand() -> None:
    tasks = [
        {"task": "mme", "higher_is_better": True, "group": "mixed", "scale": 2800.0},
        {"task": "gqa", "higher_is_better": True, "group": "general", "scale": 1.0},
        {"task": "vqa", "higher_is_better": True, "group": "general", "scale": 1.0},
        {"task": "loss/chart", "higher_is_better": False, "group": None, "scale": 1.0},
    ]
    assert Objective().weights(tasks) == pytest.approx({"mme": 1 / 3 / 2800, "gqa": 1 / 3, "vqa": 1 / 3})
    grouped = Objective(aggregate="group_mean").weights(tasks)
    assert grouped == pytest.approx({"mme": 1 / 2 / 2800, "gqa": 1 / 4, "vqa": 1 / 4})
    assert Objective(tasks="losses").weights(tasks) == {"loss/chart": -1.0}
    assert Objective(tasks={"gqa": 3, "loss/chart": 1}).weights(tasks) == {"gqa": 0.75, "loss/chart": -0.25}
    with pytest.raises(ValueError, match="no task 'gq'"):
        Objective(tasks={"gq": 1}).weights(tasks)


def test_scores_over_other_domains_are_not_compared(ctx: StepContext) -> None:
    proxy = made("proxy", np.eye(3))
    turned = replace(made("true", np.eye(3)), domains=DOMAINS[::-1])
    with pytest.raises(DataError, match="count, object"):
        rank(ctx, proxy=proxy, true=turned)


def test_scores_that_are_no_item_means_have_no_interval(ctx: StepContext) -> None:
    proxy = made("proxy", np.eye(3))
    rows = [{**row, "value": row["value"] ** 2} for row in proxy.scores.to_pylist()]
    found = rank(ctx, proxy=replace(proxy, scores=arrow_table("dmo_score", rows)))
    assert {row["ci_low"] for row in found.objectives.to_pylist()} == {None}
    assert None not in {row["ci_low"] for row in rank(ctx, proxy=proxy).objectives.to_pylist()}
