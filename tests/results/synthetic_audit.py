"""A made-up audit with every kind of verdict, as rows of the results tables, and as files of a workspace.

Numbers are consistent (k of n, Wilson intervals, scores as in the method), names and counts are invented. ``twist``
changes every free text: tests pass hostile strings through it.
"""

import hashlib
import io
import json
import math
import random
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from results.tables import arrow_table

RUN = "20261120T101500-audit-pets"
CREATED = "2026-11-20T10:15:00+00:00"
GROUPS = {
    ("cat", "lighting"): {"dark": (61, 100), "bright": (85, 100), "overcast": (83, 100)},
    ("cat", "style"): {"photograph": (92, 100), "line drawing": (48, 96), "3D render": (77, 100)},
    ("dog", "lighting"): {"dark": (84, 100), "bright": (86, 100), "overcast": (81, 88)},
    ("dog", "background"): {"snow": (97, 100), "grass": (79, 100), "sofa": (82, 100)},
    ("dog", "age"): {"puppy": (5, 7), "adult": (88, 100)},
    ("horse", "style"): {"photograph": (90, 100), "line drawing": (31, 64), "3D render": (80, 95)},
    ("horse", "rider"): {"with a rider": (0, 0), "without a rider": (85, 100)},
}
VERDICTS = {
    ("cat", "lighting", "dark"): "disfavoured",
    ("cat", "style", "line drawing"): "disfavoured",
    ("cat", "style", "photograph"): "favoured",
    ("dog", "background", "snow"): "favoured",
    ("dog", "age", "puppy"): "insufficient_data",
    ("dog", "age", "adult"): "insufficient_data",
    ("horse", "style", "line drawing"): "held_back",
    ("horse", "rider", "with a rider"): "insufficient_data",
    ("horse", "rider", "without a rider"): "undefined",
}
TARGETS = ["cat", "dog", "horse"]


@dataclass
class Audit:
    """Rows by step and results table; ``run`` is what ``run.json`` holds."""

    run: dict
    steps: dict = field(default_factory=dict)

    def tables(self, step):
        return {name: arrow_table(name, rows) for name, rows in self.steps[step].items()}

    def store(self, store):
        store.replace_run(self.run)
        for step in self.steps:
            store.replace_step(self.run["run"]["run_id"], "", step, self.tables(step))


def wilson(k, n, z=1.959964):
    if n == 0:
        return None, None
    p, d = k / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return (p + z * z / (2 * n)) / d - half, (p + z * z / (2 * n)) / d + half


def picture(seed, right):
    """A small JPEG: something on a coloured ground."""
    dice = random.Random(seed)
    ground = tuple(dice.randrange(60, 200) for _ in range(3))
    image = Image.new("RGB", (160, 120), ground)
    draw = ImageDraw.Draw(image)
    x, y = dice.randrange(20, 90), dice.randrange(15, 60)
    draw.ellipse((x, y, x + 55, y + 45), fill=tuple(255 - c for c in ground))
    draw.ellipse((x + 35, y - 12, x + 60, y + 15), fill=(240, 235, 220) if right else (60, 50, 70))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70)
    return out.getvalue()


def audit(twist=lambda text: text, run_id=RUN, truth=True, thumbnails=6, evidence=False):
    """``evidence``: with a verifier, measured groups, separability and a second classifier."""
    t = twist
    rows = _groups(t, thumbnails)
    steps = {
        "biases": {"c2b_attribute": _attributes(t)},
        "captions": {"c2b_caption": _captions(t)},
        "images": {"c2b_caption": _captions(t), "c2b_retrieval": _retrieval(t), "c2b_retrieval_count": _counts(t)},
        "corpus": {"corpus_source": _sources(t)},
        "verdict": rows,
        "stability": {"c2b_stability": _captioned(_stability(t))},
    }
    if truth:
        steps["truth"] = {"c2b_truth": _captioned(_truth(t))}
    if evidence:
        steps |= _evidence(t, rows)
    return Audit(_run(t, run_id, list(steps)), steps)


def _evidence(t, rows):
    """Further steps; ``rows`` of the assessment get groups by measurement and one that is not testable."""
    own = [g for g in rows["c2b_group"] if (g["target"], g["attribute"]) == (t("cat"), t("lighting"))][:2]
    rows["c2b_group"] += [{**g, "value_source": "measured"} for g in own]
    snow = next(g for g in rows["c2b_group"] if g["value"] == t("sofa"))
    snow |= {
        "verdict": "not_testable",
        "verdict_reason": t("grass and sofa fetch the same pictures"),
        "separable": False,
    }
    lighting = {"target": t("cat"), "attribute": t("lighting")}
    place = {"source_id": t("photos"), "uri": t("1.jpg")}
    bins = [
        {**lighting, "value": t(value), "measure": "luminance", "unit": t("share of white"), "low": low, "high": high,
         "category": None, "n": 100, "pool": 300, "rule": t("lowest and highest third")}
        for value, low, high in (("dark", 0.02, 0.21), ("bright", 0.55, 0.97))
    ]  # fmt: skip
    precision = {"images": 100, "said_yes": 80, "said_no": 20, "retrieved_precision": 0.82, "retrieved_low": 0.7,
                 "retrieved_high": 0.92, "target_precision": 0.97, "target_low": 0.9, "target_high": 1.0,
                 "value_images": 0, "value_precision": None}  # fmt: skip
    verifiers = [
        {"verifier": t("an ImageNet classifier"), "target": t(target), "labels": [t("tabby")], "positives": 60, "negatives": 180,
         "sensitivity": 0.9, "sensitivity_low": 0.8, "sensitivity_high": 0.95, "specificity": 0.97, "specificity_low": 0.9,
         "specificity_high": 0.99, "usable": target != "horse", "reason": None if target != "horse" else t("no label means it")}
        for target in TARGETS
    ]  # fmt: skip
    separability = [
        {"target": t(target), "attribute": t(attribute), "value": t(value), "overlap": 0.9 if value == "sofa" else 0.1, "margin": 1.2,
         "measure": "luminance" if attribute == "lighting" else None, "auc": 0.8 if attribute == "lighting" else None,
         "separable": value != "sofa", "reason": t("grass and sofa fetch the same pictures") if value == "sofa" else None}
        for (target, attribute), values in GROUPS.items() for value in values
    ]  # fmt: skip
    return {
        "binding": {"c2b_binding": [{**lighting, "measure": "luminance", "bias_values": [t("dark"), t("bright")], "source": "llm"},
                                    {"target": t("dog"), "attribute": t("age"), "bias_values": [t("puppy"), t("adult")], "source": "none",
                                     "reason": t("no measurement fits")}]},
        "checked": {"c2b_verifier": verifiers, "c2b_target_check": [{**place, "target": t("cat"), "shows": True, "score": 0.8}],
                    "c2b_value_check": [{**place, **lighting, "value": t("dark")}],
                    "c2b_precision": [{**lighting, "value": t("dark"), "value_source": "caption", **precision}]},
        "measured": {"c2b_bin": bins, "c2b_measurement": [{**place, "measure": "luminance", "measured": 0.2, "category": None}],
                     "c2b_measured_member": [{**lighting, "value": t("dark"), "measure": "luminance", **place, "measured": 0.2}]},
        "separable": {"c2b_separability": separability},
        "comparison": {"c2b_comparison": _comparison(t)},
    }  # fmt: skip


def _comparison(t):
    names = {"first": t("old pets"), "second": t("new pets")}
    total = {"n": 200, "both_right": 150, "only_first": 30, "only_second": 5, "both_wrong": 15, "acc_first": 0.9, "acc_second": 0.775,
             "difference": -0.125, "low": -0.18, "high": -0.07, "mcnemar_p": 2e-5, "q_bh": 2e-5, "verdict": "worse"}  # fmt: skip
    group = {"target": t("cat"), "attribute": t("lighting"), "value": t("dark"), "value_source": "caption",
             "verdict_first": "no_evidence", "verdict_second": "disfavoured"}  # fmt: skip
    return [{**names, **total}, {**names, "target": t("cat"), **total}, {**names, **group, **total}]


def _pooled(t):
    return [
        {"attribute": t("lighting"), "value": t("dark"), "targets": 2, "odds_ratio": 0.52, "p": 0.004, "q_bh": 0.02},
        {
            "attribute": t("style"),
            "value": t("line drawing"),
            "targets": 2,
            "odds_ratio": 0.18,
            "p": 1e-9,
            "q_bh": 1e-8,
        },
    ]


def _captioned(rows):
    """Without measurement every group is one of captions."""
    return [{"value_source": "caption", **row} for row in rows]


def _groups(t, thumbnails):
    groups, tests, examples, predictions, members = [], [], [], [], []
    for (target, attribute), values in GROUPS.items():
        accs = {v: k / n for v, (k, n) in values.items() if n}
        for value, (k, n) in values.items():
            others = [a for v, a in accs.items() if v != value]
            low, high = wilson(k, n)
            phi = accs[value] - sum(others) / len(others) if value in accs and others else None
            spread = None if phi is None else (high - low) / 2 * 1.3
            verdict = VERDICTS.get((target, attribute, value), "no_evidence")
            reason = {
                "held_back": "the group's images fit their captions less well than those of the other values",
                "insufficient_data": f"{n} images, at least 10 are needed",
                "undefined": "no other value has images",
            }.get(verdict)
            groups.append(
                {
                    "target": t(target), "attribute": t(attribute), "value": t(value), "n": n, "k": k,
                    "acc": accs.get(value), "wilson_low": low, "wilson_high": high,
                    "phi": phi, "phi_low": None if phi is None else max(-1, phi - spread),
                    "phi_high": None if phi is None else min(1, phi + spread),
                    "fisher_p": None if phi is None else math.exp(-abs(phi) * 40),
                    "q_value": None if phi is None else min(1, 3 * math.exp(-abs(phi) * 40)),
                    "q_bh": None if phi is None else min(1, 3 * math.exp(-abs(phi) * 40)),
                    "flag_point": None if phi is None else abs(phi) > 0.05,
                    "verdict": verdict, "verdict_reason": t(reason) if reason else None,
                    "min_detectable_gap": None if phi is None else 1.7 / math.sqrt(n) if n else None,
                    "target_precision": 0.93, "value_precision": 0.9, "target_check": "contrast",
                    "mean_similarity": 0.24 + (0.01 if n else 0),
                }
            )  # fmt: skip
            for i in range(min(n, thumbnails)):
                right = i % 2 == 0
                examples.append(
                    {
                        "target": t(target), "attribute": t(attribute), "value": t(value), "source_id": t("photos"),
                        "uri": t(f"{target}/{attribute}/{value}/{i:04d}.jpg"), "correct": right,
                        "pred": t(target if right else "horse" if target != "horse" else "dog"),
                        "similarity": 0.3 - i / 100, "thumbnail": picture(f"{target}{attribute}{value}{i}", right),
                    }
                )  # fmt: skip
                uri = t(f"{target}/{attribute}/{value}/{i:04d}.jpg")
                predictions.append(
                    {
                        "source_id": t("photos"),
                        "uri": uri,
                        "target": t(target),
                        "pred": t("dog"),
                        "correct": right,
                        "score": 0.7,
                    }
                )
                members.append(
                    {
                        "target": t(target),
                        "attribute": t(attribute),
                        "value": t(value),
                        "source_id": t("photos"),
                        "uri": uri,
                        "correct": right,
                    }
                )
        tests.append(
            {"target": t(target), "attribute": t(attribute), "m": len(accs), "n": sum(n for _, n in values.values()),
             "chi2": 17.2, "chi2_p": 0.0002, "q_bh": 0.001}
        )  # fmt: skip
    gate = [_gate(None, 262, 300)] + [_gate(t(name), 80 + i * 4, 100) for i, name in enumerate(TARGETS)]
    return {
        "c2b_group": _captioned(groups), "c2b_attribute_test": _captioned(tests), "c2b_pooled_test": _captioned(_pooled(t)),
        "c2b_gate": gate, "c2b_prediction": predictions, "c2b_member": _captioned(members), "c2b_example": _captioned(examples),
    }  # fmt: skip


def _gate(target, k, n):
    low, high = wilson(k, n)
    passed = low > 1 / 3 if target is None else None
    return {
        "target": target,
        "n": n,
        "k": k,
        "acc": k / n,
        "wilson_low": low,
        "wilson_high": high,
        "chance": 1 / 3,
        "passed": passed,
    }


def _attributes(t):
    kept = [
        {"resample": 0, "target": t(target), "attribute": t(attribute), "attribute_norm": t(attribute),
         "bias_values": [t(v) for v in values], "source": "llm", "status": "kept"}
        for (target, attribute), values in GROUPS.items()
    ]  # fmt: skip
    dropped = [("cat", "animal type", ["cat", "dog"], "a value names the target"), ("dog", "other", ["other", "none"], "catch-all values"),
               ("horse", "Style ", ["a", "b"], "repeats the attribute 'style'")]  # fmt: skip
    return kept + [
        {"resample": 0, "target": t(target), "attribute": t(name), "attribute_norm": t(name.strip().lower()),
         "bias_values": [t(v) for v in values], "source": "llm", "status": "dropped", "drop_reason": t(reason)}
        for target, name, values, reason in dropped
    ]  # fmt: skip


def _captions(t):
    rows = []
    for (target, attribute), values in GROUPS.items():
        for value in values:
            words = {"lighting": f"a {target} in {value} light", "style": f"a {value} of a {target}"}
            text = words.get(attribute, f"a {target}, {value}")
            rows.append((target, attribute, value, text, False, "kept", None))
    rows += [(target, None, None, f"a picture of a {target}", True, "kept", None) for target in TARGETS]
    rows.append(("horse", "rider", "with a rider", "a person outdoors", False, "dropped", "does not name the target"))
    return [
        {"resample": 0, "caption_id": f"c{i:03d}", "target": t(target), "attribute": attribute and t(attribute),
         "value": value and t(value), "text": t(text), "is_neutral": neutral, "status": status, "drop_reason": reason and t(reason)}
        for i, (target, attribute, value, text, neutral, status, reason) in enumerate(rows)
    ]  # fmt: skip


def _retrieval(t):
    return [
        {"caption_id": f"c{c:03d}", "rank": r, "source_id": t("photos"), "uri": t(f"{c}-{r}.jpg"), "row": c * 10 + r,
         "similarity": 0.3 - r / 50, "kept": r < 3, "reject_reason": None if r < 3 else "ambiguous"}
        for c in range(4) for r in range(5)
    ]  # fmt: skip


def _counts(t):
    return [
        {"target": t(target), "attribute": t(attribute), "value": t(value), "fetched": 500, "kept": n,
         "rejected": json.dumps({"near_duplicate": 40, "other_value": 61, "irrelevant": 399 - n, "surplus": 0}), "mean_similarity": 0.25}
        for (target, attribute), values in GROUPS.items() for value, (_, n) in values.items()
    ]  # fmt: skip


def _sources(t):
    return [
        {"source_id": t("photos"), "kind": "folder", "fingerprint": "ab" * 32, "records": 10012, "embedded": 10000,
         "unreadable": 12, "captioned": 0, "problems": json.dumps({t("truncated"): 12})},
        {"source_id": t("drawings"), "kind": "packaged", "fingerprint": "cd" * 32, "records": 3100, "embedded": 3100,
         "unreadable": 0, "captioned": 3100, "problems": None},
    ]  # fmt: skip


def _stability(t):
    return [
        {"target": t(target), "attribute": t(attribute), "value": t(value), "share_proposed": 1.0 if i % 2 else 2 / 3,
         "share_same_sign": 1.0, "share_same_verdict": 2 / 3, "jaccard": 0.62}
        for i, (target, attribute, value) in enumerate(VERDICTS)
    ]  # fmt: skip


def _truth(t):
    rows = []
    agreements = ["agrees", "opposite", "not_confirmed", "missed", "nothing_to_find", "unknown"]
    for i, ((target, attribute), values) in enumerate(GROUPS.items()):
        for j, (value, (k, n)) in enumerate(values.items()):
            true_n, true_k = int(n * 0.9), min(int(k * 0.93), int(n * 0.9))
            low, high = wilson(true_k, true_n)
            verdict = VERDICTS.get((target, attribute, value), "no_evidence")
            agreement = "agrees" if verdict == "disfavoured" else agreements[(i + j) % 6]
            rows.append(
                {"target": t(target), "attribute": t(attribute), "value": t(value), "labelled": n,
                 "true_target_precision": 0.9 if n else None, "true_n": true_n, "true_k": true_k,
                 "true_acc": true_k / true_n if true_n else None, "true_low": low, "true_high": high,
                 "true_phi": -0.17 if true_n else None, "true_phi_low": -0.28 if true_n else None,
                 "true_phi_high": -0.05 if true_n else None, "verdict": verdict, "agreement": agreement}
            )  # fmt: skip
    return rows


USES = {"biases": "c2b.propose", "captions": "c2b.caption", "images": "retrieval.search", "corpus": "retrieval.index",
        "verdict": "c2b.assess", "stability": "c2b.stability", "truth": "c2b.truth", "binding": "c2b.bind", "checked": "c2b.verify",
        "measured": "c2b.measure", "separable": "c2b.separability", "comparison": "c2b.compare"}  # fmt: skip


def _run(t, run_id, steps):
    spec = "name: audit-pets\nmodels:\n  llm: {provider: openai}\nsteps:\n  verdict: {uses: c2b.assess}\n"
    return {
        "run": {
            "run_id": run_id, "name": t("audit-pets"), "description": t("Where does this pet classifier fail?"),
            "status": "partial", "created": CREATED, "finished": "2026-11-20T10:21:40+00:00", "profile": "embedded",
            "spec_text": t(spec), "spec_sha256": hashlib.sha256(spec.encode()).hexdigest(), "spec_path": t("/home/ada/pets.yaml"),
            "overrides": {"k": t("100")}, "seed": 7, "device": "cpu",
            "versions": {"torch": "2.13.0", "runner": "0.1.0", "duckdb": t("1.5.6")}, "git_commit": "0a1b2c3d+",
            "seconds": 400.2, "error": None,
        },
        "variants": [{"variant": "", "step": "", "params": {"k": 100}}],
        "steps": [
            {"variant": "", "step": step, "uses": USES[step], "version": "1", "artifact_key": hashlib.sha256(f"{run_id}{step}".encode()).hexdigest()[:32],
             "status": "cached" if step == "corpus" else "done", "started": CREATED, "seconds": 3.5 + i, "failed_items": 2 if step == "biases" else 0,
             "rows": {}, "error": None}
            for i, step in enumerate(steps)
        ],
        "models": [
            {"variant": "", "model": t("llm"), "kind": "chat", "provider": "llamacpp", "identity": {"name": t("qwen-1.5b")}, "licence": "Apache-2.0", "note": t("1.5 billion parameters: small")},
            {"variant": "", "model": t("subject"), "kind": "classifier", "provider": "file", "identity": {"sha256": "ee" * 32}, "licence": None, "note": None},
        ],
        "assets": [
            {"asset": t("pets-small"), "wanted": t("pets"), "sha256": "aa" * 32, "licence": t("CC BY 4.0"), "attribution": t("The Pets Project"), "source": t("pets-images 1.2")}
        ],
        "messages": [
            {"step": "biases", "level": "failed", "item": t("horse: saddle"), "text": t("the reply was not JSON after 2 repairs")},
            {"step": "images", "level": "warning", "item": None, "text": t("12 images could not be read")},
        ],
        "llm_calls": [
            {"step": "biases", "call_id": f"call{i}", "purpose": "c2b.biases", "item": t("cat"), "provider": "llamacpp", "model": t("qwen"), "cache_key": "k" * 8,
             "cached": i > 3, "attempts": 0 if i > 3 else 1 + i % 2, "outcome": "ok" if i % 2 == 0 else "repaired", "finish_reason": "stop", "prompt_tokens": 400,
             "completion_tokens": 120, "cost": None, "ms": 812.5, "error": None, "created": CREATED}
            for i in range(6)
        ],
    }  # fmt: skip


def write_files(audit, root):
    """The same audit as the files of a workspace: run.json, journals and artifacts with manifests."""
    run_id = audit.run["run"]["run_id"]
    folder = root / "runs" / run_id
    folder.mkdir(parents=True)
    record = {k: v for k, v in audit.run.items() if k not in ("messages", "llm_calls")}
    for name in ("messages", "llm_calls"):
        lines = [json.dumps({"variant": "", **row}) for row in audit.run[name]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "run.json").write_text(json.dumps(record))
    for row in record["steps"]:
        _write_artifact(root / "artifacts" / row["artifact_key"], row, audit.tables(row["step"]))


def _write_artifact(folder, row, tables):
    folder.mkdir(parents=True)
    outputs = {"settings": {"kind": "value", "file": "values.json", "table": None, "rows": None, "sha256": "00"}}
    for name, table in tables.items():
        field_name = f"field_{name}"
        pq.write_table(table, folder / f"{field_name}.parquet")
        digest = hashlib.sha256((folder / f"{field_name}.parquet").read_bytes()).hexdigest()
        outputs[field_name] = {
            "kind": "table",
            "file": f"{field_name}.parquet",
            "table": name,
            "rows": table.num_rows,
            "sha256": digest,
        }
    manifest = {
        "key": folder.name,
        "uses": row["uses"],
        "version": "1",
        "created": CREATED,
        "seconds": 1.0,
        "failures": [],
        "outputs": outputs,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def hostile(text):
    """The text among markup, quotes, control and bidirectional characters."""
    return f"{text} <script>alert('{text}')</script><img src=http://evil.example/x onerror=alert(1)>\"'`&amp;\u202etxet\u202c\x07{{{{7*7}}}}"


__all__ = ["GROUPS", "RUN", "TARGETS", "Audit", "audit", "hostile", "pa", "picture", "write_files"]
