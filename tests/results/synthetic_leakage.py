"""Made-up leakage of part vectors, masked pictures and discovered parts, as rows of the results tables.

``twist`` changes every free text. Three backbones: one that leaks, one that does not, one of which it cannot be told.
"""

from synthetic_audit import CREATED, audit, picture

from results.tables import arrow_table

RUN = "20261121T130000-leakage"
PARTS = ("beak", "wing", "tail")
LAYERS = (0, 1, 2)
EXCESS = {"leaky": (0.25, 0.22, 0.28), "local": (0.01, -0.01, 0.03), "unsure": (0.04, -0.05, 0.12)}
"""At the last layer, with its interval; nothing leaks at layer 0."""
ORIGINALS = {"leaky": 41}
"""How many originals the test pictures show; those of the others stand alone."""
TWO, OWN = 0.55, 0.95
CONTROLS = {
    "whole": 0.93,
    "random_region": 0.8,
    "mask_only": 0.5,
    "label_shuffle": 0.5,
    "label_only": 0.56,
    "swap": 0.6,
}
PREDICTORS = {"pointing": (0.3, 0.05, 0.86, 0.8, 0.9), "blind": (0.1, 0.1, 0.5, 0.48, 0.52), "askew": (0.1, 0.3, 0.25, 0.2, 0.3),
              "unclear": (0.1, 0.1, 0.5, 0.2, 0.8)}  # fmt: skip
"""Change with the own part hidden, with another, locality and its interval."""
METRICS = {"nmi": (40.0, 61.5), "keypoint_error": (12.0, 8.5), "pointing": (0.4, 0.7), "cross": (0.8, 0.55)}
"""Single and two-stage."""


def store_leakage(store, twist=lambda text: text, run_id=RUN, without=()):
    """Put them into a results file; ``without`` names steps that are left out."""
    store.replace_run(leakage_run(twist, run_id))
    for step, tables in steps(twist).items():
        if step not in without:
            store.replace_step(run_id, "", step, {name: arrow_table(name, rows) for name, rows in tables.items()})


def steps(t=lambda text: text):
    """Rows by step and table."""
    return {
        "images": {"part_attribute": [_attribute(t, part, i) for part in PARTS for i in range(2)]},
        "features": {"leak_parts": [_part(t, p, i) for p in PARTS for i in range(4)], "leak_picture": [_picture(t, i) for i in range(3)]},
        "probed": {"leak_summary": [r for m in EXCESS for r in _summary(t, m)], "leak_pair": [r for m in EXCESS for r in _pairs(t, m)],
                   "leak_probe": [_probe(t, None), _probe(t, "one class among the test pictures")]},
        "audited": {"leak_dependence": [_depends(t, e) for e in ("single", "two_stage")],
                    "leak_dependence_summary": [r for e in ("single", "two_stage") for p in (*PARTS, "all") for r in _dependence(t, e, p)],
                    "leak_attention": [_attention(t, layer, head) for layer in (1, 2) for head in (0, 1, None)],
                    "leak_token_norm": [_norm(t)]},
        "masked": {"leak_masked_answer": [_answer(t, p, i) for p in PREDICTORS for i in range(3)],
                   "leak_masking_response": [_response(t, p, a, b) for p in PREDICTORS for a in PARTS for b in PARTS],
                   "leak_locality": [*(r for p in PREDICTORS for r in _locality(t, p)), *_perturbed(t)]},
        "found": {"discover_metrics": [r for arch in (0, 1) for seed in (0, 1) for r in _metrics(t, arch, seed)],
                  "discover_slots": [_slot(t, arch, slot) for arch in ("single", "two_stage") for slot in range(3)],
                  "discover_epoch": [_epoch(t, arch, e) for arch in ("single", "two_stage") for e in (1, 2)],
                  "discover_picture": [_discovered(t, arch, i) for arch in ("single", "two_stage") for i in range(2)]},
    }  # fmt: skip


def _place(t, model="leaky"):
    return {"dataset": t("birds"), "model": t(model)}


def excess(model, layer):
    """Value and interval by layer: it grows from nothing."""
    return tuple(v * layer / LAYERS[-1] for v in EXCESS[model])


def _row(t, model, layer, extractor, measure, value, low, high, versus=None, metric="auroc"):
    return {**_place(t, model), "extractor": extractor, "versus": versus, "layer": layer, "probe": "ridge", "metric": metric, "measure": measure,
            "value": value, "ci_low": low, "ci_high": high, "n_attributes": 6, "n_test": 300, "resamples": 1000, "n_groups": ORIGINALS.get(model), "bootstrap": "exact"}  # fmt: skip


def _summary(t, model):
    for layer in LAYERS:
        found, low, high = excess(model, layer)
        cross = TWO + found
        for extractor, own, other in (("single", OWN, cross), ("two_stage", OWN - 0.02, TWO)):
            yield _row(t, model, layer, extractor, "own", own, own - 0.02, own + 0.02)
            yield _row(t, model, layer, extractor, "cross", other, other - 0.03, other + 0.03)
        yield _row(t, model, layer, "single", "excess_leakage", found, low, high, "two_stage")
        yield _row(t, model, layer, "single", "excess_leakage", 0.1, 0.05, 0.2, "two_stage", metric="ap")
        yield _row(t, model, layer, "single", "normalised_leakage", found / 0.4, None, None, "two_stage")
        yield _row(t, model, layer, "single", "locality_gap", OWN - cross, None, None)
    for name, value in CONTROLS.items():
        layer = -1 if name == "label_only" else LAYERS[-1]
        yield _row(t, model, layer, name, "cross", value, value - 0.03, value + 0.03)


def _pairs(t, model):
    for extractor, other in (("single", TWO + EXCESS[model][0]), ("two_stage", TWO)):
        for source in PARTS:
            for owner in PARTS:
                more = 0.1 if (extractor, source, owner) == ("single", "wing", "beak") else 0.0
                yield {**_place(t, model), "extractor": extractor, "layer": 2, "probe": "ridge", "source_part": t(source), "owner_part": t(owner),
                       "auroc_mean": OWN if source == owner else other + more, "ci_low": 0.51, "ci_high": 1.0, "n_attributes": 2}  # fmt: skip


def _probe(t, reason):
    return {**_place(t), "extractor": "single", "layer": 2, "source_part": t("beak"), "attribute": t("red beak"), "owner_part": t("beak"),
            "is_own": True, "averaged": True, "probe": "ridge", "penalty": 0.01, "n_train": 900, "n_test": 300, "base_rate": 0.3,
            "auroc": None if reason else 0.9, "ap": None if reason else 0.8, "skipped_reason": reason and t(reason)}  # fmt: skip


def _attribute(t, part, i):
    return {"dataset": t("birds"), "attribute": t(f"{part} {i}"), "owner": t(part), "excluded": t("it shows the mask") if i else None,
            "split": "test", "n_valid": 300, "n_positive": 90}  # fmt: skip


def _part(t, part, i):
    absent = part == "tail" and i == 3
    return {**_place(t), "sample_id": t(f"{i}"), "part": t(part), "present": not absent, "present_two_stage": not absent, "n_pixels": 500 * (not absent),
            "n_patches": 7 * (not absent), "n_patches_two_stage": 3 * (not absent), "rule": "majority", "rule_two_stage": "all",
            "reason": t("outside the cut") if absent else None}  # fmt: skip


def _picture(t, i):
    return {**_place(t), "sample_id": t(f"{i}"), "split": "test", "picture": picture(f"b{i}", True), "overlay": picture(f"o{i}", False),
            "parts": [t(p) for p in PARTS], "colours": ["#0072b2", "#d55e00", t("#009e73")]}  # fmt: skip


def _depends(t, extractor):
    out = 0.0 if extractor == "two_stage" else 0.3
    return {**_place(t), "sample_id": t("0"), "part": t("beak"), "extractor": extractor, "layer": 2, "replacement": "donor", "grad_share_out": out,
            "d_out": out, "d_in": 0.3, "out_share": out / (out + 0.3)}  # fmt: skip


def _dependence(t, extractor, part):
    out = 0.0 if extractor == "two_stage" else 0.3
    for measure, mean in (("grad_share_out", 2 * out), ("d_out", out), ("d_in", 0.3), ("out_share", out / (out + 0.3))):
        yield {**_place(t), "part": part if part == "all" else t(part), "extractor": extractor, "layer": 2, "measure": measure, "mean": mean,
               "ci_low": mean, "ci_high": mean, "largest": 1.5 * mean, "n": 200, "n_groups": 23}  # fmt: skip


def _attention(t, layer, head):
    return {**_place(t), "layer": layer, "head": head, "part": t("beak"), "on_part": 0.2, "on_object": 0.3, "on_background": 0.4, "on_prefix": 0.1,
            "area": 0.1, "n": 200}  # fmt: skip


def _norm(t):
    return {**_place(t), "layer": 2, "n_pictures": 200, "n_tokens": 12800, "n_high": 77, "share_in_parts": 0.25, "median_norm": 12.0, "largest_norm": 310.0,
            "d_out_with": 0.31, "d_out_without": 0.12}  # fmt: skip


def _answer(t, predictor, i):
    return {"dataset": t("birds"), "predictor": t(predictor), "sample_id": t(f"{i}"), "masked_part": t("beak") if i else None, "draw": 0, "concept": t("red beak"),
            "value": None if i == 2 else 0.7, "reason": t("neither yes nor no") if i == 2 else None}  # fmt: skip


def _response(t, predictor, concept, masked):
    own, other, *_ = PREDICTORS[predictor]
    return {"dataset": t("birds"), "predictor": t(predictor), "concept_part": t(concept), "masked_part": t(masked),
            "mean_abs_change": own if concept == masked else other, "std": 0.1, "ci_low": 0.0, "ci_high": 0.4, "mean_change": -0.1, "n": 100,
            "n_concepts": 2}  # fmt: skip


def _locality(t, predictor):
    own, other, score, low, high = PREDICTORS[predictor]
    place = {
        "dataset": t("birds"),
        "predictor": t(predictor),
        "n": 100,
        "n_groups": 31 if predictor == "pointing" else None,
    }
    for concept in (None, t("red beak")):
        for measure, value in (("own", own), ("other", other), ("accuracy", 0.8)):
            yield {**place, "concept": concept, "measure": measure, "value": value, "ci_low": None, "ci_high": None}
        yield {**place, "concept": concept, "measure": "locality_score", "value": score, "ci_low": low, "ci_high": high}


def _perturbed(t):
    """Of a predictor for which no part was hidden."""
    for side, value in (("outside", 0.61), ("inside", 0.67)):
        yield {"dataset": t("birds"), "predictor": t("perturbed"), "n": 20, "concept": None, "measure": f"largest_change_{side}", "value": value,
               "ci_low": value - 0.1, "ci_high": value + 0.1}  # fmt: skip


def _training(t, arch, seed=0):
    return {**_place(t), "arch": arch, "seed": seed}


def _metrics(t, arch, seed):
    for metric, values in METRICS.items():
        yield {**_training(t, ("single", "two_stage")[arch], seed), "slots": 3, "routing": "fixed", "metric": metric,
               "value": values[arch] + (seed - 0.5) / 10, "ci_low": 0.0, "ci_high": 99.0, "n": 300}  # fmt: skip


def _slot(t, arch, slot):
    return {
        **_training(t, arch),
        "slot": slot,
        "part": t(PARTS[slot]) if slot else None,
        "iou": 0.42,
        "pointing": 0.71,
        "active": 0.99,
        "n": 300,
    }


def _epoch(t, arch, epoch):
    return {**_training(t, arch), "epoch": epoch, "term": "total", "value": 3.0 / epoch}


def _discovered(t, arch, i):
    return {**_training(t, arch), "sample_id": t(f"{i}"), "overlay": picture(f"{arch}{i}", True), "slots": [t(p) for p in PARTS],
            "colours": ["#0072b2", "#d55e00", "#009e73"]}  # fmt: skip


def leakage_run(t=lambda text: text, run_id=RUN):
    uses = {"images": "parts.load", "features": "leakage.features", "probed": "leakage.probe", "audited": "leakage.dependence",
            "masked": "leakage.locality", "found": "leakage.discover"}  # fmt: skip
    run = audit(t, run_id=run_id).run
    run["run"] |= {"name": t("leakage"), "description": t("Does a beak know the bird?"), "status": "finished"}
    run["variants"] = [{"variant": "", "step": "", "params": {}}]
    run["steps"] = [
        {"variant": "", "step": step, "uses": name, "version": "1", "artifact_key": step, "status": "done", "started": CREATED,
         "seconds": 2.0, "failed_items": 0, "rows": {}, "error": None}
        for step, name in uses.items()
    ]  # fmt: skip
    run["models"], run["messages"], run["llm_calls"] = [], [], []
    return run
