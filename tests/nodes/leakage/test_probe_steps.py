"""The step ``leakage.probe`` on vectors whose contents are known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_features import part_features
from sklearn.metrics import average_precision_score, roc_auc_score

from runner.artifacts import PartFeatures
from runner.context import local_context
from runner.errors import DataError, Interrupted, SpecError
from runner.nodes.leakage import probing
from runner.nodes.leakage.outputs import ProbeScores
from runner.nodes.leakage.probe_material import material
from runner.nodes.leakage.probe_steps import Bootstrap, probe
from runner.spec import compile_text

PARTS = ["wing", "beak"]
N = 400
SPLIT = ["train"] * 200 + ["test"] * 200
QUICK = Bootstrap(resamples=40)


def bits(seed: int = 0, attributes: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (N, attributes))


def vectors(value: np.ndarray, share: float, seed: int = 0, noise: float = 1.0) -> np.ndarray:
    """[N, 2, 6]: part p holds its bit, and ``share`` of the other's, in noise."""
    rng = np.random.default_rng(seed)
    found = noise * rng.standard_normal((N, 2, 6))
    found[:, 0, 0] += 3 * value[:, 0]
    found[:, 1, 0] += 3 * value[:, 1]
    found[:, 0, 1] += 3 * share * value[:, 1]
    found[:, 1, 1] += 3 * share * value[:, 0]
    return found


def leaky(folder: Path, **other: Any) -> PartFeatures:
    value = bits()
    by_name = {
        "single": {0: vectors(value, 0), 3: vectors(value, 1)},
        "two_stage": {0: vectors(value, 0), 3: vectors(value, 0)},
    }
    return part_features(folder, by_name, value, SPLIT, parts=PARTS, **other)


def run(folder: Path, features: list[PartFeatures], **params: Any) -> tuple[ProbeScores, Any]:
    ctx = local_context(folder / "run")
    return probe(ctx, features=features, **{"bootstrap": QUICK, **params}), ctx


def summary(found: ProbeScores, **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in found.summary.to_pylist() if all(r[k] == v for k, v in wanted.items())]


def one(found: ProbeScores, measure: str, extractor: str = "single", versus: str | None = None, layer: int = 3) -> Any:
    (row,) = summary(found, measure=measure, extractor=extractor, versus=versus, layer=layer, metric="auroc")
    return row


def test_rows_are_what_a_plain_ridge_regression_gives(tmp_path: Path) -> None:
    features = leaky(tmp_path)
    found, ctx = run(tmp_path, [features], controls=[])
    rows = {(r["extractor"], r["layer"], r["source_part"], r["attribute"]): r for r in found.probes.to_pylist()}
    assert len(rows) == 2 * 2 * 2 * 2
    x = np.load(features.vectors / "single" / "L3.npy")[:, 0].astype(float)
    y = features.labels["value"][:, 1].astype(float)
    z = (x - x[:200].mean(0)) / x[:200].std(0)
    w = np.linalg.solve(z[:200].T @ z[:200] / 200 + 0.01 * np.eye(6), z[:200].T @ (y[:200] - y[:200].mean()) / 200)
    row = rows["single", 3, "wing", "beak bit"]
    assert row["auroc"] == pytest.approx(roc_auc_score(y[200:], z[200:] @ w), abs=1e-9)
    assert row["ap"] == pytest.approx(average_precision_score(y[200:], z[200:] @ w), abs=1e-9)
    assert row["base_rate"] == pytest.approx(y[200:].mean())
    assert (row["n_train"], row["n_test"], row["penalty"], row["probe"]) == (200, 200, 0.01, "ridge")
    assert (row["owner_part"], row["is_own"], row["averaged"], row["skipped_reason"]) == ("beak", False, True, None)
    assert ctx.journal.messages == []


def test_summary_and_pairs_are_means_of_the_probes(tmp_path: Path) -> None:
    found, _ = run(tmp_path, [leaky(tmp_path)], controls=[])
    auc = {
        (r["extractor"], r["source_part"], r["attribute"]): r["auroc"]
        for r in found.probes.to_pylist()
        if r["layer"] == 3
    }
    cross = {e: [auc[e, "wing", "beak bit"], auc[e, "beak", "wing bit"]] for e in ("single", "two_stage")}
    excess = one(found, "excess_leakage", versus="two_stage")
    assert excess["value"] == pytest.approx(np.mean(cross["single"]) - np.mean(cross["two_stage"]))
    assert excess["ci_low"] < excess["value"] < excess["ci_high"]
    assert (excess["n_attributes"], excess["n_test"], excess["resamples"]) == (2, 200, 40)
    assert one(found, "cross")["value"] == pytest.approx(np.mean(cross["single"]))
    ap = [
        r["ap"] - r["base_rate"]
        for r in found.probes.to_pylist()
        if (r["extractor"], r["layer"], r["is_own"]) == ("single", 3, True)
    ]
    (own,) = summary(found, metric="ap", measure="own", extractor="single", layer=3)
    assert own["value"] == pytest.approx(np.mean(ap))
    pairs = {(r["extractor"], r["layer"], r["source_part"], r["owner_part"]): r for r in found.pairs.to_pylist()}
    pair = pairs["single", 3, "wing", "beak"]
    assert pair["auroc_mean"] == pytest.approx(auc["single", "wing", "beak bit"])
    assert pair["ci_low"] < pair["auroc_mean"] < pair["ci_high"]


def test_the_same_vectors_have_no_excess_and_no_width(tmp_path: Path) -> None:
    for form in ("exact", "projected"):
        found, _ = run(tmp_path, [leaky(tmp_path)], controls=[], bootstrap=Bootstrap(resamples=40, form=form))
        for measure in ("excess_leakage", "own_delta"):
            row = one(found, measure, versus="two_stage", layer=0)
            assert (row["value"], row["ci_low"], row["ci_high"]) == (0, 0, 0)


def test_absent_parts_unlabelled_and_rare_attributes_are_skipped_with_a_reason(tmp_path: Path) -> None:
    value = bits(attributes=5)
    value[:, 3] = 0
    value[:5, 3] = 1
    valid = np.ones_like(value)
    valid[:, 4] = 0
    made = vectors(value, 1)
    made[:, 1] = np.nan
    made[:150, 0] = np.nan
    owners = {"a": "wing", "b": "beak", "c": "wing", "rare": "wing", "unknown": "wing"}
    features = part_features(tmp_path, {"single": {1: made}}, value, SPLIT, parts=PARTS, owners=owners, valid=valid)
    found, ctx = run(tmp_path, [features], controls=[])
    rows = {(r["source_part"], r["attribute"]): r for r in found.probes.to_pylist()}
    assert rows["wing", "a"]["auroc"] is not None
    assert (rows["wing", "a"]["n_train"], rows["wing", "a"]["n_test"]) == (50, 200)
    assert {r["skipped_reason"] for (s, _), r in rows.items() if s == "beak"} == {rows["beak", "a"]["skipped_reason"]}
    assert "absent in every picture" in rows["beak", "a"]["skipped_reason"]
    assert "valid label and the part" in rows["wing", "b"]["skipped_reason"]
    assert "fewer than 10" in rows["wing", "rare"]["skipped_reason"]
    assert "valid label" in rows["wing", "unknown"]["skipped_reason"]
    for row in rows.values():
        assert (row["auroc"] is None) == (row["ap"] is None) == (row["skipped_reason"] is not None)
        assert not row["averaged"], "no attribute has a score of another part, so that own and cross average nothing"
    assert {r["n_test"] for r in found.summary.to_pylist()} == {0}
    assert not found.pairs.filter(np.array(found.pairs["n_attributes"]) == 0)["auroc_mean"].drop_null()
    assert [m["level"] for m in ctx.journal.messages] == []


def test_both_extractors_are_probed_on_the_pictures_where_both_have_the_part(tmp_path: Path) -> None:
    value = bits()
    lacking = vectors(value, 0)
    lacking[::4, 0] = np.nan
    features = part_features(
        tmp_path, {"single": {1: vectors(value, 0)}, "two_stage": {1: lacking}}, value, SPLIT, parts=PARTS
    )
    found, _ = run(tmp_path, [features], controls=[])
    counts = {(r["source_part"], r["attribute"]): (r["n_train"], r["n_test"]) for r in found.probes.to_pylist()}
    assert counts == {("wing", "wing bit"): (150, 150), ("wing", "beak bit"): (150, 150),
                      ("beak", "wing bit"): (150, 150), ("beak", "beak bit"): (200, 200)}  # fmt: skip
    common, _ = run(tmp_path / "common", [features], controls=[], rows="common")
    assert {(r["n_train"], r["n_test"]) for r in common.probes.to_pylist()} == {(150, 150)}


def test_attributes_of_no_part_of_several_and_excluded_ones_are_probed_but_not_averaged(tmp_path: Path) -> None:
    value = bits(attributes=5)
    owners = {"w": "wing", "b": "beak", "all": "global", "both": ["wing", "beak"], "given": "wing"}
    given = {"given": "defines the mask"}
    features = part_features(
        tmp_path, {"single": {1: vectors(value, 1)}}, value, SPLIT, parts=PARTS, owners=owners, excluded=given
    )
    found, _ = run(tmp_path, [features], controls=[])
    rows = {(r["source_part"], r["attribute"]): r for r in found.probes.to_pylist()}
    assert {a for (_, a), r in rows.items() if r["averaged"]} == {"w", "b"}
    assert all(r["auroc"] is not None for r in rows.values())
    assert rows["wing", "both"]["owner_part"] == "wing+beak"
    assert [rows["wing", a]["is_own"] for a in owners] == [True, False, False, True, True]
    assert {r["n_attributes"] for r in summary(found, measure="cross")} == {2}


def test_whole_and_background_stand_under_their_own_names(tmp_path: Path) -> None:
    value = bits()
    part, whole = vectors(value, 0), vectors(value, 1)[:, :1]
    single, two = np.concatenate([part, whole], 1), np.concatenate([part, part[:, :1]], 1)
    features = part_features(
        tmp_path, {"single": {3: single}, "two_stage": {3: two}}, value, SPLIT, parts=PARTS, sources=[*PARTS, "whole"]
    )
    found, _ = run(tmp_path, [features], controls=[])
    assert one(found, "cross", "whole")["value"] > 0.9
    assert one(found, "excess_leakage", "whole", "two_stage_whole")["ci_low"] > 0.05
    assert abs(one(found, "excess_leakage", versus="two_stage")["value"]) < 1e-9
    rows = [r for r in found.probes.to_pylist() if r["source_part"] == "whole"]
    assert not any(r["averaged"] or r["is_own"] for r in rows)


def test_what_follows_the_donor_comes_from_outside_the_part(tmp_path: Path) -> None:
    """Single-stage vectors of a pasted part hold the part's own bit and the bits around it, which are the donor's."""
    value = bits()
    donors = np.r_[np.roll(np.arange(200), 1), 200 + np.roll(np.arange(200), 1)]
    pasted = vectors(value, 0)
    pasted[:, 0, 1] += 3 * value[donors, 1]
    pasted[:, 1, 1] += 3 * value[donors, 0]
    features = part_features(
        tmp_path, {"single": {3: vectors(value, 1)}, "swap": {3: pasted}}, value, SPLIT, parts=PARTS, donors=donors
    )
    found, _ = run(tmp_path, [features], controls=[])
    assert one(found, "own", "swap")["value"] > 0.95
    assert one(found, "cross", "swap")["value"] == pytest.approx(0.5, abs=0.1)
    assert one(found, "cross", "swap_donor")["value"] > 0.95
    assert one(found, "own", "swap_donor")["value"] == pytest.approx(0.5, abs=0.1)
    donors[200:] = -1
    features = dataclasses.replace(features, present=features.present | {"swap_donor": donors})
    found, _ = run(tmp_path / "none", [features], controls=[])
    rows = [r for r in found.probes.to_pylist() if r["extractor"] == "swap_donor"]
    assert all("valid label" in r["skipped_reason"] for r in rows)


def test_label_controls(tmp_path: Path) -> None:
    value = bits()
    value[:, 1] = np.where(np.random.default_rng(1).random(N) < 0.85, value[:, 0], 1 - value[:, 0])
    part = vectors(value, 0)
    made = np.concatenate([part, part[:, :1], np.full_like(part[:, :1], np.nan)], 1)
    by_name = {"single": {3: made}, "two_stage": {3: made}}
    features = part_features(tmp_path, by_name, value, SPLIT, parts=PARTS, sources=[*PARTS, "whole", "background"])
    found, _ = run(tmp_path, [features], controls=["label_only", "label_shuffle", "decorrelate"])
    agree = float(np.mean([roc_auc_score(value[200:, 1 - a], value[200:, a]) for a in (0, 1)]))
    assert one(found, "cross", "label_only", layer=-1)["value"] == pytest.approx(agree)
    assert not summary(found, extractor="label_only", measure="own")
    rows = [r for r in found.probes.to_pylist() if r["extractor"] == "label_only"]
    assert {r["probe"] for r in rows} == {"logreg"}
    assert [r["skipped_reason"] is None for r in rows] == [False, True, True, False] + 4 * [False]
    assert {r["skipped_reason"] for r in rows[4:]} == {"the part has no attribute of its own"}
    assert one(found, "cross")["value"] > 0.7
    for name in ("decorrelate", "decorrelate_two_stage"):
        assert one(found, "cross", name)["value"] == pytest.approx(0.5, abs=0.1)
    assert one(found, "cross", "label_shuffle")["value"] == pytest.approx(0.5, abs=0.1)


def test_test_labels_that_enter_a_fit_are_noticed_by_shuffled_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide vectors learn labels by heart; where test rows are fitted on, shuffled labels are read."""
    value = bits()
    wide = np.random.default_rng(0).standard_normal((N, 2, 150))
    features = part_features(tmp_path, {"single": {1: wide}}, value, SPLIT, parts=PARTS)
    made = run(tmp_path, [features], controls=["label_shuffle"])[1].journal.messages
    assert made == []
    original = probing._there

    def overlapping(material: Any, job: Any, extractor: str, rows: torch.Tensor, source: int) -> torch.Tensor:
        return original(material, job, extractor, material.test if torch.equal(rows, material.train) else rows, source)

    monkeypatch.setattr(probing, "_there", overlapping)
    (message,) = run(tmp_path / "overlap", [features], controls=["label_shuffle"])[1].journal.messages
    assert "with shuffled labels" in message["text"]


@pytest.mark.parametrize("sources", [PARTS, [*PARTS, "whole"]])
def test_pictures_in_both_splits_are_counted(tmp_path: Path, sources: list[str]) -> None:
    """Shuffled labels cannot see them: each split is shuffled by itself."""
    value = bits()
    wide = np.random.default_rng(0).standard_normal((N, len(sources), 150))
    wide[200:210], wide[:200:50, -1] = wide[100:110], np.nan
    wide[210:220, 0] = wide[110:120, 0]  # one part alone does not make it the same picture
    features = part_features(tmp_path, {"single": {1: wide}}, value, SPLIT, parts=PARTS, sources=sources)
    (message,) = run(tmp_path, [features], controls=["label_shuffle"])[1].journal.messages
    assert message["text"].startswith("9 of 200 test pictures")


def test_extractors_are_compared_on_the_pictures_where_both_have_the_part(tmp_path: Path) -> None:
    """Without high-norm tokens a part may vanish; with vectors that are the same elsewhere there must be no difference at all."""
    value = bits()
    made = vectors(value, 1, noise=4.0)
    lacking = made.copy()
    lacking[np.random.default_rng(1).permutation(N)[:150], 0] = np.nan
    by_name = {"single": {3: made}, "two_stage": {3: vectors(value, 0)}, "no_artefacts": {3: lacking}}
    features = part_features(tmp_path, by_name, value, SPLIT, parts=PARTS)
    found, _ = run(tmp_path, [features], controls=[])
    for measure in ("excess_leakage", "own_delta"):
        row = one(found, measure, versus="no_artefacts")
        assert (row["value"], row["ci_low"], row["ci_high"]) == (0, 0, 0)
    auc = {(r["extractor"], r["source_part"], r["attribute"]): r["auroc"] for r in found.probes.to_pylist()}
    assert {extractor for extractor, _, _ in auc} == {"single", "two_stage", "no_artefacts"}
    there = np.flatnonzero(np.isfinite(lacking[:, 0, 0]))
    x = by_name["two_stage"][3][there, 0].astype(np.float32).astype(float)
    train, y = there < 200, value[there, 1]
    z = (x - x[train].mean(0)) / x[train].std(0)
    w = np.linalg.solve(
        z[train].T @ z[train] / train.sum() + 0.01 * np.eye(6), z[train].T @ (y - y[train].mean())[train] / train.sum()
    )
    again = roc_auc_score(y[~train], z[~train] @ w)
    beak = auc["no_artefacts", "beak", "wing bit"] - auc["two_stage", "beak", "wing bit"]
    excess = (auc["no_artefacts", "wing", "beak bit"] - again + beak) / 2
    assert one(found, "excess_leakage", "no_artefacts", "two_stage")["value"] == pytest.approx(excess, abs=1e-6)
    again = found.settings["studies"][0]["fitted_again"]
    assert again == ["two_stage where no_artefacts is present", "single where no_artefacts is present"]


def test_originals_are_resampled_whole(tmp_path: Path) -> None:
    """Ten copies of each picture's vectors and labels tell no more than one of each: intervals stay as wide."""
    rng = np.random.default_rng(0)
    few = {k: np.repeat(v, 5, 0) for k, v in (("value", bits()[:80]), ("made", vectors(bits(), 0.3, noise=2.0)[:80]))}
    few["made"] = few["made"] + 1e-3 * rng.standard_normal(few["made"].shape)
    features = part_features(tmp_path, {"single": {3: few["made"]}}, few["value"], SPLIT, parts=PARTS)
    alone, _ = run(tmp_path, [features], controls=[], bootstrap=Bootstrap(resamples=400))
    grouped = dataclasses.replace(
        features, labels=features.labels | {"group": np.repeat(np.arange(80), 5).astype(np.int32)}
    )
    found, ctx = run(tmp_path / "grouped", [grouped], controls=[], bootstrap=Bootstrap(resamples=400))
    wide, narrow = one(found, "cross"), one(alone, "cross")
    assert wide["value"] == narrow["value"]
    ratio = (wide["ci_high"] - wide["ci_low"]) / (narrow["ci_high"] - narrow["ci_low"])
    assert 1.7 < ratio < 2.8, "sqrt(5) for five copies"
    assert (wide["n_groups"], narrow["n_groups"], wide["n_test"], wide["bootstrap"]) == (40, None, 200, "exact")
    (message,) = ctx.journal.messages
    assert "only 40 originals behind the 200 test pictures" in message["text"]
    assert alone.summary["bootstrap"].unique().to_pylist() == ["exact"]


def test_originals_are_held_out_whole(tmp_path: Path) -> None:
    features = leaky(tmp_path)
    grouped = dataclasses.replace(features, labels=features.labels | {"group": np.arange(N) // 8})
    one_ = material(grouped, "pairwise", True, 0, "cpu")
    held, rest = (set(grouped.labels["group"][rows.numpy()].tolist()) for rows in (one_.val, one_.train))
    assert len(held) == 2 and len(one_.val) == 16 and not held & rest and len(one_.train) == 184
    plain = material(features, "pairwise", True, 0, "cpu")
    assert (len(plain.val), len(plain.train), plain.n_groups, one_.n_groups) == (20, 180, None, 25)
    wrong = dataclasses.replace(features, labels=features.labels | {"group": np.arange(7)})
    with pytest.raises(DataError, match="groups have shape"):
        material(wrong, "pairwise", True, 0, "cpu")


@pytest.mark.parametrize("kind", ["logreg", "mlp"])
def test_other_probes(tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.nodes.leakage.mlp_probe.EPOCHS", 8)
    found, _ = run(tmp_path, [leaky(tmp_path)], kind=kind, layers=[3], controls=[])
    assert {(r["probe"], r["penalty"]) for r in found.probes.to_pylist()} == {(kind, 1.0 if kind == "logreg" else None)}
    assert one(found, "own")["value"] > 0.9
    assert one(found, "excess_leakage", versus="two_stage")["ci_low"] > 0.2
    pictures = {"train": 180, "val": 20, "test": 200} if kind == "mlp" else {"train": 200, "val": 0, "test": 200}
    assert found.settings["studies"][0]["pictures"] == pictures


def test_grid_says_which_penalty_each_attribute_took(tmp_path: Path) -> None:
    found, _ = run(tmp_path, [leaky(tmp_path)], penalty_grid=[0.001, 5.0], layers=[-1], controls=[])
    assert {r["penalty"] for r in found.probes.to_pylist()} <= {0.001, 5.0}
    assert {r["layer"] for r in found.probes.to_pylist()} == {3}


def test_a_killed_step_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = leaky(tmp_path)
    whole, _ = run(tmp_path / "whole", [features])
    ctx = local_context(tmp_path / "run")
    done: list[probing.Job] = []
    original = probing.run_job

    def dying(study: probing.Study, job: probing.Job) -> Any:
        if len(done) == 3:
            raise Interrupted("killed")
        done.append(job)
        return original(study, job)

    monkeypatch.setattr(probing, "run_job", dying)
    with pytest.raises(Interrupted):
        probe(ctx, features=[features], bootstrap=QUICK)
    finished = list(done)
    done.clear()
    monkeypatch.setattr(probing, "run_job", lambda study, job: done.append(job) or original(study, job))
    found = probe(ctx, features=[features], bootstrap=QUICK)
    assert len(finished) == 3
    assert not {(j.extractor, j.layer, j.views[0].name) for j in finished} & {
        (j.extractor, j.layer, j.views[0].name) for j in done
    }
    for name in ("probes", "summary", "pairs"):
        assert getattr(found, name).equals(getattr(whole, name))


def test_several_models_and_datasets_in_one_step(tmp_path: Path) -> None:
    several = [leaky(tmp_path, model="a"), leaky(tmp_path, model="b"), leaky(tmp_path, model="a", dataset="other")]
    found, _ = run(tmp_path, several, controls=[], layers=[0], metrics=["auroc"])
    assert {(r["model"], r["dataset"]) for r in found.summary.to_pylist()} == {
        ("a", "made"),
        ("b", "made"),
        ("a", "other"),
    }
    with pytest.raises(DataError, match=r"(?s)a on made are given twice.*as: NAME"):
        run(tmp_path, [*several, leaky(tmp_path, model="a")])


@pytest.mark.parametrize(
    ("change", "params", "said"),
    [
        ({}, {"layers": [7]}, "layer 7 is not among"),
        ({}, {"layers": [-3]}, "layer -3"),
        ({}, {"kind": "mlp", "penalty": 1.0}, "penalty has no meaning"),
        ({}, {"kind": "logreg", "penalty_grid": [1.0]}, "penalty_grid is for ridge"),
        ({"owners": {"x": "wing", "y": "tail"}}, {}, "'y' is owned by"),
        ({"split": ["train"] * N}, {}, "no picture is in the split test"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, change: dict[str, Any], params: dict[str, Any], said: str
) -> None:
    split = change.pop("split", SPLIT)
    value = bits()
    features = part_features(
        tmp_path, {"single": {0: vectors(value, 0), 3: vectors(value, 0)}}, value, split, parts=PARTS, **change
    )
    with pytest.raises(DataError, match=said):
        run(tmp_path, [features], **params)


def test_vectors_that_are_not_finite_or_not_there_are_named(tmp_path: Path) -> None:
    features = leaky(tmp_path)
    path = features.vectors / "two_stage" / "L3.npy"
    array = np.load(path)
    array[17, 1, 2] = math.inf
    np.save(path, array)
    with pytest.raises(DataError, match=r"beak of picture-17 is not finite in two_stage, layer 3"):
        run(tmp_path, [features], controls=[])
    np.save(path, array[:30])
    with pytest.raises(DataError, match="has shape"):
        run(tmp_path, [features], controls=[])
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        run(tmp_path, [features], controls=[])


def test_few_pictures_and_nothing_to_score_are_said(tmp_path: Path) -> None:
    value = bits()
    split = ["train"] * 380 + ["test"] * 20
    features = part_features(tmp_path, {"single": {0: vectors(value, 0)}}, value, split, parts=PARTS)
    found, ctx = run(tmp_path, [features], controls=[], min_pos=15)
    texts = " ".join(m["text"] for m in ctx.journal.messages)
    assert "only 20 test pictures" in texts
    assert "no probe could be scored" in texts
    assert {r["value"] for r in found.summary.to_pylist()} == {None}
    without, _ = run(tmp_path / "none", [features], controls=[], min_pos=3, bootstrap=Bootstrap(resamples=0))
    assert {r["ci_low"] for r in without.summary.to_pylist()} == {None}
    assert one(without, "own", layer=0)["value"] > 0.8


SPEC = """
name: t
models:
  vit: {{provider: timm, name: tiny_planted}}
steps:
  images: {{uses: parts.planted}}
  features: {{uses: leakage.features, backbone: $vit, images: $images}}
  probes: {{uses: leakage.probe, features: [$features], {params}}}
results: r.duckdb
"""


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("kind: mlp, penalty: 1", "penalty has no meaning for mlp"),
        ("penalty_grid: [1], kind: logreg", "penalty_grid is for ridge probes, not logreg"),
        ("penalty_grid: [1, 2], penalty: 3", "nor beside penalty_grid"),
        ("penalty_grid: [1, 1]", "1.0 stands there twice"),
        ("penalty: 0", "expected a number above 0"),
        ("min_pos: 0", "expected a number of at least 1"),
        ("metrics: []", "at least 1 item"),
        ("controls: [label_only, label_only]", "stands there twice"),
        ("controls: [label_onyl]", "label_only"),
        ("bootstrap: {resample: 3}", "resamples"),
        ("layers: []", 'expected "all"'),
    ],
)
def test_specs_that_cannot_be_meant_are_refused_when_they_are_compiled(tmp_path: Path, params: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_text(SPEC.format(params=params), tmp_path / "spec.yaml", tmp_path)
    told = " ".join(f"{p.message} {p.suggestion} {p.allowed}" for p in caught.value.problems)
    assert said in told


def test_a_plain_spec_is_meant(tmp_path: Path) -> None:
    params = "penalty_grid: [0.1, 1], layers: [0, -1], bootstrap: {resamples: 0}, controls: [decorrelate]"
    assert compile_text(SPEC.format(params=params), tmp_path / "spec.yaml", tmp_path).variants
