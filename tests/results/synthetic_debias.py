"""A made-up debiasing experiment, as rows of the results tables. ``twist`` changes every free text."""

from synthetic_audit import CREATED, audit, picture

from results.tables import arrow_table

RUN = "20261121T120000-debias"
METHODS = {"vanilla": (0.62, 0.31), "sem_bi": (0.60, 0.45), "orth_proj": (0.61, 0.35)}
GROUPS = {
    ("waterbird", "water"): 0.0,
    ("waterbird", "land"): 0.2,
    ("landbird", "land"): 0.0,
    ("landbird", "water"): 0.1,
}
FOLDS, N = 3, 40


def store_debias(store, twist=lambda text: text, run_id=RUN, thumbnails=True, clusters=None):
    """Put them into a results file; with ``clusters`` only what tells of them."""
    store.replace_run(_run(twist, run_id))
    told = {"scored", "compared"} if clusters is not None else {*steps()}
    for step, tables in steps(twist, thumbnails, clusters).items():
        if step not in told:
            continue
        store.replace_step(run_id, "", step, {name: arrow_table(name, rows) for name, rows in tables.items()})


def steps(t=lambda text: text, thumbnails=True, clusters=None):
    """Rows by step and table; ``clusters``: how many were resampled instead of pictures."""
    return {
        "images": {"dataset_image": [_image(t, i, thumbnails) for i in range(8)],
                   "dataset_attribute": [{"dataset": t("birds"), "sample_id": t(f"{i}"), "attribute": t("place"), "value": t("land" if i % 2 else "water")} for i in range(8)]},
        "texts": {"prompt_set": [_prompt(t, i) for i in range(4)], "neuron_score": [_neuron(t, i) for i in range(20)], "sae_model": [_sae(t)]},
        "found": {"debias_summary": [row for m in METHODS for row in _retrieval(t, m)]},
        "scored": {"debias_summary": [row for m in METHODS for row in _summary(t, m, clusters)],
                   "debias_group": [row for m in METHODS for row in _groups(t, m)],
                   "debias_change": [_change(t, i) for i in range(6)]},
        "compared": {"debias_compare": [_pair(t, *row) | {"clusters": clusters} for row in (("accuracy", -0.02, -0.06, 0.02), ("worst_group", 0.14, 0.05, 0.22), ("gap", -0.16, -0.25, -0.04))]},
        "studies": {"disentanglement": [_study(t, "clip", 0.3), _study(t, "sae", 0.5)], "cp_bn": [{"method": t(m), "cp": 0.8, "bn": b, "n": 10} for m, (_, b) in METHODS.items()]},
    }  # fmt: skip


def _place(t):
    return {"dataset": t("birds"), "backbone": t("small clip"), "attribute": t("place")}


def _summary(t, method, clusters):
    accuracy, worst = METHODS[method]
    resampled = ("by_image", 0.05, N) if clusters is None else ("by_cluster", 0.08, clusters)
    for metric, value in (("accuracy", accuracy), ("worst_group", worst), ("gap", accuracy - worst)):
        for kind, half, n in (resampled, ("by_fold", 0.04, FOLDS), ("published", 0.02, N * FOLDS)):
            yield {**_place(t), "task": "zero_shot", "method": t(method), "metric": metric, "mean": value, "ci_low": value - half,
                   "ci_high": value + half, "ci_kind": kind, "n": n}  # fmt: skip


def _retrieval(t, method):
    for metric, value in (("kl", 0.3 - METHODS[method][1] / 2), ("max_skew", 0.5)):
        yield {**_place(t), "task": "retrieval", "method": t(method), "metric": metric, "mean": value, "ci_low": value - 0.01,
               "ci_high": value + 0.01, "ci_kind": "published", "n": 30}  # fmt: skip


def _groups(t, method):
    for (target, value), less in GROUPS.items():
        for fold in range(FOLDS):
            yield {**_place(t), "method": t(method), "seed": 42, "fold": fold, "target": t(target), "value": t(value), "n": N + fold,
                   "correct": round((0.7 - less) * (N + fold))}  # fmt: skip


def _change(t, i):
    gained = i % 3 != 0
    return {**_place(t), "baseline": t("vanilla"), "method": t("sem_bi"), "sample_id": t(f"{i}"), "target": t("waterbird"), "value": t("land"),
            "before": t("landbird" if gained else "waterbird"), "after": t("waterbird" if gained else "landbird"), "change": "gained" if gained else "lost"}  # fmt: skip


def _pair(t, metric, difference, low, high):
    return {"dataset": t("birds"), "attribute": t("place"), "first": t("before: vanilla"), "second": t("after: sem_bi"), "metric": metric,
            "first_value": 0.5, "second_value": 0.5 + difference, "difference": difference, "ci_low": low, "ci_high": high, "n": N}  # fmt: skip


def _study(t, features, d):
    return {"features": features, "task": t("profession"), "attribute": t("gender"), "acc_main": 0.9, "acc_bias": 0.95, "acc_leak": 0.7,
            "chance": 0.5, "d": d, "d_std": None, "n": 400, "folds": 5}  # fmt: skip


def _neuron(t, i):
    return {"method": t("sem_bi"), "query": t("a photo of a waterbird"), "neuron": i, "h": 1.0, "s_concept": 0.5, "s_bias": 0.9, "m": 0.36,
            "h_new": 1.0 - i / 20}  # fmt: skip


def _prompt(t, i):
    return {"set_id": "c" * 64, "kind": "bias", "attribute": t("place"), "class_name": t("water"), "query": None, "idx": i,
            "text": t(f"a photo of the sea {i}"), "source": "llm", "llm": t("small model"), "retries": 1, "tokens": 8}  # fmt: skip


def _sae(t):
    return {"sae_id": "d" * 64, "backbone": t("small clip"), "small": True, "architecture": "msae", "d": 128, "latents": 4096, "levels": [64, 128],
            "weighting": "reverse", "layout": "sem", "modality": "text", "corpus_hash": "e" * 64, "n_train": 9000, "n_val": 1000, "fvu": 0.07,
            "cosine": 0.97, "l0": 120.0, "sparsity": 0.97, "dead": 3, "decoder_coherence": 0.01, "cknna": 0.6}  # fmt: skip


def _image(t, i, thumbnails):
    return {"dataset": t("birds"), "split": "test", "sample_id": t(f"{i}"), "source_id": t("birds"), "uri": t(f"{i}.png"), "target": t("waterbird"),
            "class_index": 1, "thumbnail": picture(f"bird{i}", True) if thumbnails else None}  # fmt: skip


def _run(t, run_id):
    uses = {"images": "datasets.attributes", "texts": "debias.texts", "found": "debias.retrieval", "scored": "debias.zero_shot",
            "compared": "debias.compare", "studies": "debias.disentanglement"}  # fmt: skip
    run = audit(t, run_id=run_id).run
    run["run"] |= {"name": t("debias"), "description": t("Does the place still matter?"), "status": "finished"}
    run["variants"] = [{"variant": "", "step": "", "params": {}}]
    run["steps"] = [
        {"variant": "", "step": step, "uses": name, "version": "1", "artifact_key": step, "status": "done", "started": CREATED,
         "seconds": 2.0, "failed_items": 0, "rows": {}, "error": None}
        for step, name in uses.items()
    ]  # fmt: skip
    run["models"], run["messages"], run["llm_calls"] = [], [], []
    return run
