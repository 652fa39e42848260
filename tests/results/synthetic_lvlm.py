"""Made-up pruning, merging and answers of vision-language models, as rows of the results tables.

``twist`` changes every free text. One cut model that loses, one trained after the cut; four mixtures of which two lead; numbers are
simple enough to follow by hand.
"""

import json

from synthetic_audit import CREATED, audit, picture

from results.tables import arrow_table

RUN = "20261122T100000-lvlm"
MODELS = {"whole": (0.8, 0.7, 0.88), "half": (0.4, 0.3, 0.5), "half, trained": (0.7, 0.6, 0.79)}
"""Score on `shapes` with its interval."""
POINTS = {"whole": 1200.0, "half": 600.0, "half, trained": 900.0}
"""Of 2000, on `yes or no`."""
QUESTIONS = {
    "q0": ("What is shown?", None, ["cat"], {"whole": 1.0, "half": 0.0, "half, trained": 1.0}),
    "q1": ("How many?", None, ["3", "three"], {"whole": 0.0, "half": 0.0, "half, trained": 0.0}),
    "q2": ("Which colour?", ["red", "blue"], ["A"], {"whole": 1.0, "half": 1.0, "half, trained": 1.0}),
    "q3": ("Where?", None, ["left"], {"whole": 1.0, "half": 0.5, "half, trained": None}),
}
LAYERS, HEADS, NEURONS = 6, 4, 100
REMOVED = (2, 4)
WEIGHTS = {"m1": (0.5, 0.5), "m2": (1.0, 0.0), "m3": (0.0, 1.0), "m4": (0.25, 0.75)}
PROXY = {"m1": (-1.0, 1, None), "m4": (-1.1, 2, (-0.05, 0.2)), "m2": (-2.0, 3, (0.8, 1.2)), "m3": (-3.0, 4, (1.7, 2.3))}
"""Objective, place, and the interval of the gap to the best."""
TRIED = {"t1": ((0.5, 0.5), -0.9, 2), "m2": ((0.25, 0.75), -0.8, 1), "t3": ((1.0, 0.0), -1.5, 3)}
"""Really trained: weights, objective, place. `m2` is another mixture than the `m2` among the merged ones."""
DOMAINS = ("shapes", "counts")


def store_lvlm(store, twist=lambda text: text, run_id=RUN, without=(), only=None):
    """Put them into a results file; ``without`` names steps that are left out, ``only`` those that stay."""
    store.replace_run(lvlm_run(twist, run_id))
    for step, tables in steps(twist).items():
        if step not in without and (only is None or step in only):
            store.replace_step(run_id, "", step, {name: arrow_table(name, rows) for name, rows in tables.items()})


def steps(t=lambda text: text):
    """Rows by step and table."""
    return {
        "images": {"dataset_image": [_image(t)]},
        "items": {"vqa_item": [_item(t, q) for q in QUESTIONS]},
        **{f"answers {i}": {"vqa_answer": [_answer(t, m, q) for q in QUESTIONS], "vqa_score": [*_scores(t, m)]} for i, m in enumerate(MODELS)},
        "compared": {"bench_score": [r for m in ("half", "half, trained") for r in _compared(t, m)],
                     "bench_aggregate": [_whole(t, "half", 50.0, 41.0, 59.0), _whole(t, "half, trained", 87.5, 75.0, 101.0)]},
        "measured": {"text_perplexity": [_loss(t, None, 1.5), _loss(t, "shapes", 0.5)]},
        "speed": {"prune_timing": [{"model": t("half"), "stage": "evaluate", "seconds": 3.0, "peak_bytes": 1_500_000_000, "prefill_tps": 1234.0, "decode_tps": 56.0}]},
        "scores": {"prune_layer_score": [_layer(t, "whole", "block_influence", i, 0.1 * (i + 1), i, None) for i in range(LAYERS)]
                   + [_layer(t, "whole", "random", i, None, LAYERS - 1 - i, None) for i in range(LAYERS)],
                   "prune_unit_score": [_unit(t, "whole", i, u, None) for i in range(2) for u in range(3)]},
        "cut": {"prune_layer_score": [*_rounds(t)], "prune_unit_score": [_unit(t, "half", 0, u, u != 1) for u in range(4)],
                "prune_model": [*_stages(t, "half", written=True)],
                "prune_timing": [{"model": t("half"), "stage": "cut", "seconds": 7.0, "peak_bytes": 2_000_000, "prefill_tps": None, "decode_tps": None}]},
        "plan": {"prune_model": [*_stages(t, "planned", written=False)]},
        "recover": {"recovery_step": [_trained(t, "half, trained", i, kd=0.5) for i in range(1, 101)]},
        **_merging(t),
    }  # fmt: skip


def _merging(t):
    experts = [_expert(t, d, d, 1.0 + i) for i, d in enumerate(DOMAINS)]
    tried = {name: weights for name, (weights, _, _) in TRIED.items()}
    return {
        "experts": {"dmo_expert": experts, "dmo_geometry": [{"domain_i": t("shapes"), "domain_j": t("counts"), "cosine": -0.125}],
                    "recovery_step": [_trained(t, d, i) for d in DOMAINS for i in (1, 2)]},
        "mixtures": {"dmo_mixture": [_mixture(t, m, w) for m, w in WEIGHTS.items()]},
        "proxies": {"dmo_mixture": [_mixture(t, m, w) for m, w in WEIGHTS.items()], "dmo_merge": [_merge(t, m, "linear") for m in WEIGHTS],
                    "dmo_score": [_score(t, m, "proxy", d, -PROXY[m][0]) for m in WEIGHTS for d in DOMAINS]},
        "trained": {"dmo_expert": [_expert(t, m, None, 2.0) for m in TRIED], "recovery_step": [_trained(t, m, i) for m in TRIED for i in (1, 2, 3)]},
        "truth": {"dmo_projection": [_projection(t, m, d, w) for m, weights in tried.items() for d, w in zip(DOMAINS, weights, strict=True)],
                  "dmo_mixture": [_mixture(t, m, w) for m, w in tried.items()], "dmo_merge": [_merge(t, m, "trained") for m in TRIED],
                  "dmo_score": [_score(t, m, "true", d, -TRIED[m][1]) for m in TRIED for d in DOMAINS]},
        "regression": {"dmo_mixture": [_mixture(t, m, w) for m, w in tried.items()],
                       "dmo_score": [_score(t, m, "regression/regmix_linear", d, -TRIED[m][1] - 0.01) for m in TRIED for d in DOMAINS]},
        "laws": {"dmo_mixture": [_mixture(t, m, w) for m, w in tried.items()],
                 "dmo_score": [_score(t, m, "regression/mixing_law", d, -TRIED[m][1] - 0.5) for m in TRIED for d in DOMAINS]},
        "ranking": {"dmo_objective": [*_objectives(t)], "dmo_validity": [_valid(t, "objective", 0.5, -1.0, 1.0, 0.67), _valid(t, "loss/shapes", 0.95, 0.7, 1.0, 0.0004, n=12),
                                                                        _valid(t, "objective", -0.9, -1.0, -0.2, 0.02, n=12, kind="regression/regmix_linear"),
                                                                        _valid(t, "objective", 0.9, 0.2, 1.0, 0.02, n=12, kind="regression/mixing_law/2")],
                    "dmo_surrogate": [{"round": 0, "task": "objective", "model": "scheffe2", "coefficients": [1.0, 2.0, 0.5], "loo_r2": 0.75, "argmax": [0.375, 0.625], "value": -0.95, "n": 4}]},
        "costs": {"dmo_cost": cost_rows()},
    }  # fmt: skip


def _image(t):
    return {"dataset": t("pictures"), "split": "test", "sample_id": t("0"), "source_id": t("album"), "uri": t("q0.png"), "target": t("cat"), "class_index": 0,
            "thumbnail": picture("q0", True)}  # fmt: skip


def _item(t, name):
    question, choices, answers, _ = QUESTIONS[name]
    return {"benchmark": t("shapes"), "item_id": t(name), "category": None, "question": t(question), "choices": choices and [t(c) for c in choices],
            "answers": [t(a) for a in answers], "uris": [t(f"{name}.png")], "source_id": t("album"), "pair_id": None,
            "extra": json.dumps({"note": t("kept")}), "thumbnail": picture("q3", True) if name == "q3" else None}  # fmt: skip


def _answer(t, model, name):
    score = QUESTIONS[name][3][model]
    said = {1.0: QUESTIONS[name][2][0], 0.0: "", 0.5: "left or so"}.get(score)
    return {"model": t(model), "benchmark": t("shapes"), "item_id": t(name), "answer": None if said is None else t(said),
            "parsed": None if not said else t(f"<{said}>"), "score": score, "failure": t("the picture cannot be read") if score is None else None}  # fmt: skip


def _scores(t, model):
    value, low, high = MODELS[model]
    shared = {"model": t(model), "n_failed": 1, "seconds": 20.0}
    yield {
        **shared,
        "benchmark": t("shapes"),
        "metric": "exact_match",
        "category": None,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "share": value,
        "n": 400,
        "n_total": 1000,
    }
    points = {**shared, "benchmark": t("yes or no"), "n": 200, "n_total": 200}
    yield {
        **points,
        "metric": "yes_no",
        "category": None,
        "value": POINTS[model],
        "ci_low": POINTS[model] - 100,
        "ci_high": POINTS[model] + 100,
        "share": POINTS[model] / 2000,
    }
    yield {
        **points,
        "metric": "accuracy",
        "category": None,
        "value": 0.75,
        "ci_low": 0.7,
        "ci_high": 0.8,
        "share": 0.75,
    }
    yield {
        **points,
        "metric": "yes_no",
        "category": t("colour"),
        "value": 150.0,
        "ci_low": 140.0,
        "ci_high": 160.0,
        "share": 0.75,
        "seconds": None,
    }


def _compared(t, model):
    value, best = MODELS[model][0], MODELS["whole"][0]
    low, high = {"half": (-0.5, -0.3), "half, trained": (-0.2, 0.01)}[model]
    yield {
        "model": t(model),
        "benchmark": t("shapes"),
        "metric": "exact_match",
        "value": value,
        "value_original": best,
        "retained": value / best,
        "difference": value - best,
        "ci_low": low,
        "ci_high": high,
        "n": 400,
    }
    points = POINTS[model]
    yield {
        "model": t(model),
        "benchmark": t("yes or no"),
        "metric": "yes_no",
        "value": points,
        "value_original": 1200.0,
        "retained": points / 1200,
        "difference": (points - 1200) / 2000,
        "ci_low": None,
        "ci_high": None,
        "n": 200,
    }


def _whole(t, model, ratio, low, high):
    return {
        "model": t(model),
        "avg_ratio_of_means": ratio,
        "ci_low": low,
        "ci_high": high,
        "avg_mean_of_ratios": ratio,
        "benchmarks": 2,
    }


def _loss(t, domain, nll):
    return {
        "model": t("half"),
        "data": t("talks"),
        "domain": domain and t(domain),
        "perplexity": 4.48,
        "nll": nll,
        "ci_low": nll - 0.1,
        "ci_high": nll + 0.1,
        "tokens": 5000,
        "n": 90,
    }


def _layer(t, model, criterion, layer, score, rank, removed):
    return {"model": t(model), "stage": 0, "criterion": criterion, "layer": layer, "score_sum": None if score is None else 50 * score, "score_mean": score,
            "n_tokens": None if score is None else 50, "rank": rank, "removed": removed}  # fmt: skip


def _rounds(t):
    """Two rounds of one stage, a block each; the second knows nothing of the block that went first."""
    for gone in range(2):
        for layer in range(LAYERS):
            if layer not in REMOVED[:gone]:
                yield _layer(
                    t,
                    "half",
                    "block_influence",
                    layer,
                    0.2 if layer == REMOVED[gone] else 0.8,
                    layer,
                    layer == REMOVED[gone],
                )


def _unit(t, model, layer, unit, kept):
    return {
        "model": t(model),
        "stage": 0,
        "criterion": "taylor/param_first",
        "layer": layer,
        "kind": "neuron",
        "unit": unit,
        "score": float(unit),
        "rank": unit,
        "kept": kept,
    }


def _stages(t, model, *, written):
    kept = [i for i in range(LAYERS) if i not in REMOVED]
    shared = {"model": t(model), "sha256": None, "format": None}
    yield {**shared, "stage": -1, "params_llm": 1000, "params_total": 2000, "removed_fraction": 0.0, "removed_total": 0.0, "layers_kept": [*range(LAYERS)],
           "heads_kept": [HEADS] * LAYERS, "neurons_kept": [NEURONS] * LAYERS, "bytes": None if written else 4000}  # fmt: skip
    yield {**shared, "stage": 0, "params_llm": 700, "params_total": 1700, "removed_fraction": 0.3, "removed_total": 0.15, "layers_kept": kept if written else [],
           "heads_kept": [HEADS] * len(kept), "neurons_kept": [NEURONS] * len(kept), "bytes": None if written else 3400}  # fmt: skip
    last = {"stage": 1, "params_llm": 500, "params_total": 1500, "removed_fraction": 0.5, "removed_total": 0.25, "layers_kept": kept if written else [],
            "heads_kept": [HEADS, HEADS, 3, 3] if written else [], "neurons_kept": [NEURONS, 50, 50, NEURONS] if written else [], "bytes": 3000}  # fmt: skip
    yield {**shared, **last, "format": "manifest", "sha256": "ab" * 32} if written else {**shared, **last}


def _trained(t, model, step, kd=None):
    """Loss is the number of the step."""
    return {"model": t(model), "train_step": step, "epoch": step / 50, "loss": float(step), "ce": float(step) if kd is None else step / 2, "kd_logits": None,
            "kd_hidden": kd, "lr": 1e-3 / step, "grad_norm": 1.0, "tokens": 10, "seconds": 0.5}  # fmt: skip


def _expert(t, name, domain, norm):
    return {
        "name": t(name),
        "domain": domain and t(domain),
        "path": t(name),
        "kind": "lora",
        "sha256": "cd" * 32,
        "rank": 8,
        "scaling": 2.0,
        "n_tensors": 14,
        "delta_norm": norm,
    }


def _mixture(t, name, weights):
    return {
        "mixture_id": t(name),
        "domains": [t(d) for d in DOMAINS],
        "weights": [*weights],
        "source": "dirichlet",
        "entropy": 0.5,
        "quota": None,
    }


def _merge(t, name, method):
    return {
        "mixture_id": t(name),
        "method": method,
        "execution": "batched_lora",
        "n_merged": 14,
        "n_copied": 7,
        "seconds": 0.25,
        "bytes_written": 0,
        "sha256": None,
    }


def _projection(t, name, domain, weight):
    return {"mixture_id": t(name), "domain": t(domain), "coefficient": 0.4, "weight": weight, "residual": 0.36}


def _score(t, name, kind, domain, value):
    failed = (name, domain) == ("m3", "counts")
    return {"mixture_id": t(name), "kind": kind, "task": t(f"loss/{domain}"), "key": "nll", "value": None if failed else value, "n": 40,
            "seconds": None if kind.startswith("regression") else 2.0, "status": "failed" if failed else "done"}  # fmt: skip


def _objectives(t):
    for name, (value, rank, gap) in PROXY.items():
        low, high = gap or (0.0, 0.0)
        yield {
            "mixture_id": t(name),
            "kind": "proxy",
            "value": value,
            "rank": rank,
            "ci_low": value - 0.1,
            "ci_high": value + 0.1,
            "gap": -1.0 - value,
            "gap_low": low,
            "gap_high": high,
            "chosen": name == "m1",
        }
    for kind, more in (("true", 0.0), ("regression/regmix_linear", 0.01), ("regression/mixing_law/2", 0.5)):
        for name, (_, value, rank) in TRIED.items():
            known = kind == "true"
            yield {"mixture_id": t(name), "kind": kind, "value": value + more, "rank": rank, "ci_low": value - 0.2 if known else None, "ci_high": value + 0.2 if known else None,
                   "gap": None, "gap_low": None, "gap_high": None}  # fmt: skip


def cost_rows(proxy=2.0, direct=6.0, estimated=False, saved=3.0):
    """Seconds of training on both sides; four merges of 0.25 s and evaluations of 16 s."""
    stand_ins = {"training_runs": 2, "training_seconds": proxy, "merges": 4, "merge_seconds": 1.0, "bytes_written": 0, "evaluations": 8, "items": 320,
              "evaluation_seconds": 16.0}  # fmt: skip
    return [{"side": "proxy", **stand_ins, "saved_seconds": saved},
            {"side": "direct", "training_runs": 4, "training_seconds": direct, "training_estimated": estimated, "saved_seconds": saved}]  # fmt: skip


def _valid(t, task, rho, low, high, p, n=3, kind="proxy"):
    return {"task": t(task) if task != "objective" else task, "kind": kind, "n": n, "spearman": rho, "spearman_low": low, "spearman_high": high, "p_value": p, "kendall_tau_b": 0.33,
            "pearson": 0.6, "regret": 0.1, "true_rank_selected": 2, "topk_overlap": 1.0, "k": 3, "gain_over_uniform": 0.0, "gain_over_mean": 0.17}  # fmt: skip


def lvlm_run(t=lambda text: text, run_id=RUN):
    run = audit(t, run_id=run_id).run
    run["run"] |= {"name": t("smaller"), "description": t("What does a cut cost?"), "status": "finished"}
    run["variants"] = [{"variant": "", "step": "", "params": {}}]
    run["steps"] = [
        {"variant": "", "step": step, "uses": "evaluate.vqa", "version": "1", "artifact_key": step, "status": "done", "started": CREATED,
         "seconds": 2.0, "failed_items": 0, "rows": {}, "error": None}
        for step in steps()
    ]  # fmt: skip
    run["models"] = [
        {**run["models"][0], "model": t("tiny"), "note": t("trained by this project, far below a published model")}
    ]
    run["messages"], run["llm_calls"] = [], []
    return run
