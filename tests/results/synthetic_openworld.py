"""A made-up classification experiment, open and closed world, as rows of the results tables.

Summaries are the means of the scores beside them, intervals are Wilson's or made up, names and answers are invented.
``twist`` changes every free text: tests pass hostile strings through it.
"""

import random
from dataclasses import dataclass, field
from statistics import fmean

from synthetic_audit import CREATED, audit, picture, wilson

from results.tables import arrow_table

RUN = "20261121T090000-circle-small"
GROUPS = {"dtd": "non-prototypical", "oxford_pets": "fine-grained", "food101": "fine-grained"}
CLASSES = {
    "dtd": ["banded", "chequered", "dotted"],
    "oxford_pets": ["beagle", "maine coon", "persian"],
    "food101": ["apple pie", "ramen", "waffles"],
}
VAGUE = {"dtd": "a texture", "oxford_pets": "a pet", "food101": "food"}
MODEL = "qwen2-vl-7b"
METHODS = {
    ("zero_shot", "base", MODEL): 0.45,
    ("zero_shot", "more_specific", MODEL): 0.55,
    ("circle", "circle", MODEL): 0.75,
    ("cased", "none", "ViT-L-14"): 0.35,
}
STEP_OF = {"zero_shot": "asked", "circle": "circled", "cased": "cased"}
QUERIES = 12
CONTEXT = 4
ROUNDS = 3
METRICS = (
    "text_inclusion",
    "exact_match",
    "llama_inclusion",
    "llama_inclusion_first",
    "semantic_similarity",
    "bcs",
    "mcs",
)
CELLS = {(1, True): "correct and specific", (1, False): "correct but generic", (0, True): "wrong but specific", (0, False): "wrong"}  # fmt: skip
SIX = ("specific", "less specific", "generic", "more specific", "wrong", "abstain")
CLOSED = {("clip_zero_shot", "ViT-B-32", 0): 0.6, ("tip_adapter", "ViT-B-32", 4): 0.7, ("tip_adapter", "ViT-B-32", 16): 0.8,
          ("knn", "ViT-B-32", 16): 0.65, ("multiple_choice_similarity", MODEL, 16): 0.75}  # fmt: skip
USES = {"sets": "datasets.load", "asked": "owc.ask", "circled": "circle.classify", "cased": "classify.cased", "judged": "owc.judge",
        "agreed": "owc.judge_agreement", "categories": "owc.taxonomy", "scored": "owc.score", "games": "owc.games", "elo": "owc.elo",
        "pool": "classify.pool", "near": "classify.neighbours", "closed": "classify.knn", "accuracy": "classify.score"}  # fmt: skip


@dataclass
class Experiment:
    """Rows by variant, step and results table; ``run`` is what ``run.json`` holds."""

    run: dict
    variants: dict = field(default_factory=dict)

    def store(self, store):
        store.replace_run(self.run)
        for variant, steps in self.variants.items():
            for step, tables in steps.items():
                rows = {name: arrow_table(name, rows) for name, rows in tables.items()}
                store.replace_step(self.run["run"]["run_id"], variant, step, rows)


def experiment(twist=lambda text: text, run_id=RUN, variants=None, closed=True, judged=True, thumbnails=True):
    """``variants``: name -> datasets that it has (one variant, named '', with all of them by default)."""
    variants = variants or {"": tuple(GROUPS)}
    made = {
        variant: _steps(twist, datasets, variant, closed, judged, thumbnails) for variant, datasets in variants.items()
    }
    return Experiment(_run(twist, run_id, made), made)


def _steps(t, datasets, variant, closed, judged, thumbnails):
    answers = [row for d in datasets for row in _answers(t, d, variant)]
    scores = [_score(t, row, judged) for row in answers]
    steps = {"sets": {"dataset_image": [row for d in datasets for row in _images(t, d, thumbnails)]}}
    for method, step in STEP_OF.items():
        steps[step] = {"owc_prediction": [row for row in answers if row["method"] == t(method)]}
    steps["circled"] |= {
        "circle_context": [row for d in datasets for row in _contexts(t, d)],
        "circle_label": [row for d in datasets for row in _labels(t, d)],
        "circle_call": [row for d in datasets for row in _calls(t, d)],
    }
    if judged:
        steps |= _judged(t, scores)
    steps["scored"] = _scored(t, scores, datasets, judged)
    steps |= _elo(t, datasets)
    if closed:
        steps |= _closed(t, datasets)
    return steps


def _sample(dataset, i):
    return f"{dataset}/test/{i:03d}.jpg"


def _place(t, dataset, split, i):
    return {"sample_id": t(f"{dataset}/{split}/{i:03d}.jpg"), "source_id": t(dataset), "uri": t(f"{split}/{i:03d}.jpg")}


def _images(t, dataset, thumbnails):
    return [
        {"dataset": t(dataset), "split": split, **_place(t, dataset, split, i), "target": t(CLASSES[dataset][i % 3]), "class_index": i % 3,
         "thumbnail": picture(f"{dataset}{split}{i}", i % 2 == 0) if thumbnails else None}
        for split, n in (("train", 6), ("test", QUERIES)) for i in range(n)
    ]  # fmt: skip


def _answers(t, dataset, variant):
    """The variant's name enters the dice of circle alone: what it changes."""
    rows = []
    for (method, prompt, model), skill in METHODS.items():
        for seed in (0, 1) if method == "circle" else (0,):
            dice = random.Random(f"{dataset}{method}{prompt}{seed}{variant if method == 'circle' else ''}")
            rows += [
                _answer(t, dataset, (method, prompt, model), seed, i, dice.random() < skill) for i in range(QUERIES)
            ]
    return rows


def _answer(t, dataset, key, seed, i, right):
    method, prompt, model = key
    label, other = CLASSES[dataset][i % 3], CLASSES[dataset][(i + 1) % 3]
    text = (
        (label if right else other if i % 2 else VAGUE[dataset])
        if method != "circle"
        else f"{label if right else other}, {VAGUE[dataset]}"
    )
    failed = method == "zero_shot" and prompt == "base" and i == QUERIES - 1
    asked = method != "cased"
    return {
        "method": t(method), "prompt_key": t(prompt), "model": t(model), "dataset": t(dataset), "seed": seed, **_place(t, dataset, "test", i),
        "target": t(label), "reply": None if failed else t(text), "prediction": None if failed else t(text),
        "judged": None if failed else t(text), "n_items": None if failed else text.count(",") + 1,
        "first_item": None if failed else t(text.split(",")[0]), "n_images": (CONTEXT + 1 if method == "circle" else 1) if asked else None,
        "prompt_tokens": 300 if asked else None, "cached_tokens": 200 if method == "circle" else None, "output_tokens": 6 if asked else None,
        "finish_reason": None if failed or not asked else "stop", "ms": 80.0 if asked else None, "cached": False if asked else None,
        "log_likelihood": None, "perplexity": None, "failure": t("the endpoint gave up") if failed else None,
    }  # fmt: skip


def _score(t, row, judged):
    said = row["prediction"]
    right = said is not None and row["target"] in said
    base = {
        k: row[k]
        for k in ("method", "prompt_key", "model", "dataset", "sample_id", "seed", "target", "prediction", "n_items")
    }
    unscored = said is None or (row["method"] == t("cased") and row["sample_id"] == t(_sample("dtd", 0)))
    if said is None:
        return {**base, "text_inclusion": False, "exact_match": False, "llama_inclusion": 0 if judged else None}
    ss = 0.8 if right else 0.3
    verdict = None if unscored or not judged else int(right)
    return {
        **base, "text_inclusion": right, "exact_match": said == row["target"], "llama_inclusion": verdict, "llama_inclusion_first": verdict,
        "judge_reply": str(int(right)) if verdict is not None else t("Yes, it is"), "semantic_similarity": ss, "semantic_similarity_first": ss,
        "bcs": ss + 0.1, "mcs": ss - 0.1, "ccs_mean": ss - 0.05, "ccs_min": ss - 0.2, "n_concepts": 2, "textual_iou": 0.5,
        "error_cell": t(CELLS[verdict, right or row["seed"] == 1]) if verdict is not None else None,
        "six_way": t(SIX[0 if right else 2]) if judged else None,
    }  # fmt: skip


def _scored(t, scores, datasets, judged):
    summary, cells = [], []
    for key in METHODS:
        own = {d: [s for s in scores if _is(t, s, key) and s["dataset"] == t(d)] for d in datasets}
        summary += _summary(t, key, own, judged)
        if judged:
            cells += [row for d, rows in own.items() for row in _cells(t, key, d, rows)]
    concepts = [
        {
            "target": t("beagle"),
            "prediction": t("a pet"),
            "idx": 0,
            "concept": t("pet"),
            "source": "chunk",
            "similarity": 0.4,
        }
    ]
    return {"owc_score": scores, "owc_summary": summary, "owc_error_cell": cells, "owc_concept": concepts}


def _is(t, row, key):
    return (row["method"], row["prompt_key"], row["model"]) == tuple(map(t, key))


def _summary(t, key, by_dataset, judged):
    rows = []
    named = dict(zip(("method", "prompt_key", "model"), map(t, key), strict=True))
    settings = {"seeds": 2 if key[0] == "circle" else 1, "chunker": "spacy:small", "judge": t("llama-3b") if judged else None, "encoder": "minilm"}  # fmt: skip
    for metric in METRICS:
        means = {}
        for dataset, scores in by_dataset.items():
            values = [float(s[metric]) for s in scores if s.get(metric) is not None]
            value = fmean(values) if values else None
            low, high = (None, None) if value is None else wilson(value * len(values), len(values))
            means[dataset] = value
            rows.append({**named, "level": "dataset", "name": t(dataset), "metric": metric, "value": value, "low": low, "high": high,
                         "sd": 0.02 if key[0] == "circle" else None, "n": len(values), "unscored": len(scores) - len(values), **settings})  # fmt: skip
        groups = {GROUPS[d]: [m for e, m in means.items() if GROUPS[e] == GROUPS[d] and m is not None] for d in means}
        levels = [("group", g, m) for g, m in groups.items()] + [
            ("all", "all", [m for m in means.values() if m is not None])
        ]
        rows += [
            {**named, "level": level, "name": t(name), "metric": metric, "value": fmean(m) if m else None, "low": fmean(m) - 0.1 if m else None,
             "high": fmean(m) + 0.1 if m else None, "sd": None, "n": QUERIES * len(m), "unscored": 0, **settings}
            for level, name, m in levels
        ]  # fmt: skip
    return rows


def _cells(t, key, dataset, scores):
    named = {**dict(zip(("method", "prompt_key", "model"), map(t, key), strict=True)), "dataset": t(dataset)}
    found = []
    for taxonomy, column, names in (("quadrant", "error_cell", CELLS.values()), ("six_way", "six_way", SIX)):
        known = [s[column] for s in scores if s.get(column) is not None]
        found += [
            {**named, "taxonomy": taxonomy, "cell": t(name), "n": known.count(t(name)), "share": known.count(t(name)) / len(known) if known else 0.0,
             "threshold": 0.6 if taxonomy == "quadrant" else None}
            for name in names
        ]  # fmt: skip
    return found


def _judged(t, scores):
    last = sorted(scores, key=lambda s: s["llama_inclusion"] is None)  # what is unscored once is unscored
    pairs = {(s["target"], s["prediction"]): s for s in last if s["prediction"] is not None}
    judgements = [
        {"reference": target, "answer": answer, "judge": t("llama-3b"), "reply": s["judge_reply"], "verdict": s["llama_inclusion"],
         "attempts": 1, "failure": None if s["llama_inclusion"] is not None else t("neither 0 nor 1")}
        for (target, answer), s in pairs.items()
    ]  # fmt: skip
    low, high = wilson(26, 30)
    agreement = {"judge": t("llama-3b"), "n": 30, "unscored": 1, "agreement": 26 / 30, "low": low, "high": high, "kappa": 0.72,
                 "true_positive": 14, "false_positive": 3, "true_negative": 12, "false_negative": 1}  # fmt: skip
    hand = [
        {"kind": "synonym", "reference": t("feline"), "answer": t("a cat"), "good": True, "reply": "1", "verdict": 1}
    ]
    six = [{"reference": target, "answer": answer, "judge": t("llama-3b"), "category": s["six_way"], "reply": s["six_way"]}
           for (target, answer), s in pairs.items()]  # fmt: skip
    return {
        "judged": {"owc_judgement": judgements},
        "agreed": {"owc_judge_agreement": [{**agreement, "subset": "all"}, {**agreement, "subset": t("synonym"), "agreement": None, "low": None, "high": None, "kappa": None}],
                   "owc_judge_pair": hand},
        "categories": {"owc_category": six},
    }  # fmt: skip


def _elo(t, datasets):
    players = [f"{method} {prompt} {model}" for method, prompt, model in METHODS]
    game = {"dataset": t(datasets[0]), "game": 0, "sample_id": t(_sample(datasets[0], 0)), "player_a": t(players[0]), "player_b": t(players[1]),
            "answer_a": t("a dog"), "answer_b": None, "target": t("beagle"), "score": 0.5}  # fmt: skip
    ratings = [
        {"dataset": t(name), "player": t(player), "criterion": "semantic_similarity", "games": 250 + i, "online": 1000.0 + 30 * i,
         "final": 1000.0 + 25 * i, "low": 980.0 + 25 * i, "high": 1020.0 + 25 * i}
        for name in (*datasets, "all") for i, player in enumerate(players)
    ]  # fmt: skip
    return {"games": {"owc_elo_game": [game]}, "elo": {"owc_elo": ratings}}


def _contexts(t, dataset):
    return [
        {"dataset": t(dataset), "seed": seed, "slot": slot, **_place(t, dataset, "train", slot), "true_label": t(CLASSES[dataset][slot % 3]),
         "final_label": None if slot == CONTEXT - 1 and seed else t(f"{CLASSES[dataset][slot % 3]}, {VAGUE[dataset]}")}
        for seed in (0, 1) for slot in range(CONTEXT)
    ]  # fmt: skip


def _labels(t, dataset):
    """Slot 1 keeps its label in round 2 because of an empty reply; the others change in rounds 1 and 2."""
    rows = []
    for seed in (0, 1):
        for slot in range(CONTEXT):
            words = [VAGUE[dataset], "thing", CLASSES[dataset][slot % 3], CLASSES[dataset][slot % 3]]
            for round_, word in enumerate(words):
                kept = (slot, round_) == (1, 2)
                rows.append({"dataset": t(dataset), "seed": seed, "round": round_, "slot": slot, "episode": None,
                             "reply": "" if kept else t(word), "label": t("thing" if kept else word), "joined": t(", ".join(words[: round_ + 1])),
                             "changed": (round_ in (1, 2) and not kept) or (slot, round_) == (1, 3), "flag": "kept_previous" if kept else None})  # fmt: skip
    return rows


def _calls(t, dataset):
    """Round 0: one picture each; rounds 1 to 3: all of them; queries: one more. The last query failed."""
    plan = [("pseudo", 0, slot, None, 1) for slot in range(CONTEXT)]
    plan += [("refine", round_, slot, None, CONTEXT) for round_ in range(1, ROUNDS + 1) for slot in range(CONTEXT)]
    plan += [("query", None, None, t(_sample(dataset, i)), CONTEXT + 1) for i in range(QUERIES)]
    return [
        {"dataset": t(dataset), "seed": seed, "kind": kind, "round": round_, "slot": slot, "sample_id": sample, "n_images": images,
         "prompt_tokens": 100 * images, "cached_tokens": 60 * images if kind != "pseudo" else 0, "output_tokens": 5, "ms": 100.0,
         "prompt_hash": f"{dataset}{seed}{n:03d}", "cached": n < 2, "failure": t("timeout") if n == len(plan) - 1 else None}
        for seed in (0, 1) for n, (kind, round_, slot, sample, images) in enumerate(plan)
    ]  # fmt: skip


def _closed(t, datasets):
    answers, judged = [], []
    for dataset in datasets:
        for (method, model, shots), skill in CLOSED.items():
            dice = random.Random(f"{dataset}{method}{shots}")
            rows = [
                _closed_answer(t, dataset, (method, model, shots), i, dice.random() < skill) for i in range(QUERIES)
            ]
            answers += [answer for answer, _ in rows]
            judged += [prediction for _, prediction in rows]
    near = [{"dataset": t(d), "sample_id": t(_sample(d, 0)), "rank": 0, "pool_sample_id": t(f"{d}/train/000.jpg"), "target": t(CLASSES[d][0]),
             "class_index": 0, "similarity": 0.7} for d in datasets]  # fmt: skip
    pool = [{"dataset": t(d), "slot": i, **_place(t, d, "train", i), "target": t(CLASSES[d][i % 3]), "class_index": i % 3}
            for d in datasets for i in range(6)]  # fmt: skip
    return {
        "pool": {"few_shot_pool": pool}, "near": {"pool_neighbour": near},
        "closed": {"closed_world_answer": answers, "tip_grid": [row for d in datasets for row in _grid(t, d)]},
        "accuracy": {"closed_world_prediction": judged, "closed_world_summary": _accuracies(t, judged, datasets)},
    }  # fmt: skip


def _closed_answer(t, dataset, key, i, right):
    method, model, shots = key
    label = CLASSES[dataset][i % 3]
    said = label if right else CLASSES[dataset][(i + 1) % 3]
    base = {"method": method, "model": t(model), "shots": shots, "dataset": t(dataset), "sample_id": t(_sample(dataset, i)), "seed": 0,
            "target": t(label), "prediction": t(said)}  # fmt: skip
    return base | {"n_images": 1}, base | {"correct_inclusion": right, "correct_strict": right and i > 0}


def _grid(t, dataset):
    """The best pair is alpha 2, beta 5.5."""
    return [
        {"dataset": t(dataset), "shots": shots, "alpha": alpha, "beta": beta, "val_accuracy": 0.8 - abs(alpha - 2) / 20 - abs(beta - 5.5) / 50,
         "chosen": (alpha, beta) == (2.0, 5.5)}
        for shots in (4, 16) for alpha in (0.5, 1.0, 2.0, 3.0) for beta in (0.1, 1.0, 3.0, 5.5, 8.0)
    ]  # fmt: skip


def _accuracies(t, judged, datasets):
    rows = []
    for method, model, shots in CLOSED:
        own = {
            d: [j for j in judged if (j["method"], j["shots"], j["dataset"]) == (method, shots, t(d))] for d in datasets
        }
        for metric, column in (("accuracy_inclusion", "correct_inclusion"), ("accuracy_strict", "correct_strict")):
            base = {
                "method": method,
                "model": t(model),
                "shots": shots,
                "metric": metric,
                "sd": None,
                "seeds": 1,
                "failures": 0,
            }
            means = {d: fmean(j[column] for j in found) for d, found in own.items()}
            for d, mean in means.items():
                low, high = wilson(mean * QUERIES, QUERIES)
                rows.append(
                    {**base, "level": "dataset", "name": t(d), "value": mean, "low": low, "high": high, "n": QUERIES}
                )
            mean = fmean(means.values())
            rows.append(
                {
                    **base,
                    "level": "all",
                    "name": "all",
                    "value": mean,
                    "low": mean - 0.1,
                    "high": mean + 0.1,
                    "n": QUERIES * len(means),
                }
            )
    return rows


def _run(t, run_id, variants):
    run = audit(t, run_id=run_id).run
    run["run"] |= {
        "name": t("circle-small"),
        "description": t("Does context help where no class list is given?"),
        "status": "finished",
    }
    run["variants"] = [{"variant": v, "step": "", "params": {}} for v in variants]
    run["steps"] = [
        {"variant": v, "step": step, "uses": USES[step], "version": "1", "artifact_key": f"{v}{step}", "status": "done", "started": CREATED,
         "seconds": 2.0, "failed_items": 0, "rows": {}, "error": None}
        for v, steps in variants.items() for step in steps
    ]  # fmt: skip
    run["models"] = [
        {"variant": v, "model": t("lmm"), "kind": "chat", "provider": "openai", "identity": {"model": t(MODEL)}, "licence": None,
         "note": t("2 billion parameters: small")} for v in variants
    ]  # fmt: skip
    run["messages"] = []
    run["llm_calls"] = [
        {"variant": v, "step": step, "call_id": f"{v}{step}{i}", "purpose": purpose, "item": None, "provider": "openai", "model": t(MODEL), "cache_key": "k",
         "cached": i == 0, "attempts": 1, "outcome": "ok", "finish_reason": "stop", "prompt_tokens": 400, "completion_tokens": 6, "cost": None,
         "ms": 90.0, "error": None, "created": CREATED}
        for v in variants for step, purpose in (("asked", "owc.ask"), ("judged", "owc.judge")) for i in range(3)
    ]  # fmt: skip
    return run
