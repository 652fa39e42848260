"""Made-up heads of a vision transformer, with codes, judgements and an edit, as rows of the results tables.

``twist`` changes every free text: tests pass hostile strings through it.
"""

import random

from synthetic_audit import CREATED, audit, picture

from results.tables import arrow_table

RUN = "20261121T110000-heads"
LAYERS, HEADS, RANK = (4, 5), 2, 6
SETTINGS = (("comp", 3, 0.3), ("comp", 5, 0.3), ("nnomp", 3, 0.0))
WORDS = ["sea", "river", "harbour", "meadow", "forest", "red", "blue", "nurse", "pilot", "smile"]
UNSCORED, EMPTY = (5, 1, 2), (4, 0, 5)


def heads(twist=lambda text: text, run_id=RUN):
    """Run and rows by step and table."""
    places = [(layer, head, sv) for layer in LAYERS for head in range(HEADS) for sv in range(RANK)]
    codes = [_code(place, setting) for place in places for setting in SETTINGS]
    return _run(twist, run_id), {
        "parts": {
            "sith_head": [_head(twist, layer, head) for layer in LAYERS for head in range(HEADS)],
            "sith_direction": [_direction(twist, place) for place in places],
        },
        "told": {"sith_code": codes, "sith_concept": [row for code in codes for row in _concepts(twist, code)]},
        "judged": {"sith_judgement": [_judgement(twist, place) for place in places]},
        "images": {"dataset_image": [_image(twist, i) for i in range(3)]},
        "shown": {"sith_grounding": [_shown(twist, place, i) for place in places for i in range(3)]},
        "effects": {"sith_effect": [row for place in places for row in _effect(twist, place)]},
        "edited": {"sith_edit": [_edit(twist, place) for place in places]},
    }


def store_heads(store, twist=lambda text: text, run_id=RUN):
    """Put them into a results file."""
    run, steps = heads(twist, run_id)
    store.replace_run(run)
    for step, tables in steps.items():
        store.replace_step(run_id, "", step, {name: arrow_table(name, rows) for name, rows in tables.items()})


def sigma(place):
    """Gain of a direction."""
    layer, head, sv = place
    return (1 + layer + head) * 0.8**sv


def _share(place):
    total = sum(sigma((*place[:2], sv)) ** 2 for sv in range(RANK))
    return sigma(place) ** 2 / total


def _head(t, layer, head):
    norms = [sigma((layer, head, sv)) for sv in range(RANK)]
    return {"model": t("small clip"), "layer": layer, "head": head, "spectral_norm": norms[0],
            "fro_norm": sum(s * s for s in norms) ** 0.5, "eff_rank": 3.0, "ceiling_mean": 0.9}  # fmt: skip


def _direction(t, place):
    layer, head, sv = place
    return {"model": t("small clip"), "layer": layer, "head": head, "sv": sv, "side": "right", "sigma": sigma(place),
            "sigma_share": _share(place), "near_degenerate": sv == 3, "ceiling": 0.9}  # fmt: skip


def _code(place, setting):
    (layer, head, sv), (method, k, coherence) = place, setting
    empty = place == EMPTY
    return {"layer": layer, "head": head, "sv": sv, "side": "right", "sign": 1, "method": method, "k": k, "coherence": coherence,
            "fidelity": None if empty else 0.4 + 0.02 * k + 0.01 * sv, "joint_cos": None if empty else 0.6, "resid_norm": 0.7,
            "atom_cosine": None if empty else 0.3, "atom_cosine_raw": None if empty else 0.5, "n_active": 0 if empty else k - 1}  # fmt: skip


def _concepts(t, code):
    dice = random.Random(str((code["layer"], code["head"], code["sv"])))
    atoms = dice.sample(range(len(WORDS)), code["k"])
    for pick, atom in enumerate(atoms):
        coefficient = 0.3 - 0.05 * pick if pick < code["n_active"] else 0.0
        key = {name: code[name] for name in ("layer", "head", "sv", "side", "sign", "method", "k", "coherence")}
        yield {**key, "pick": pick, "rank": pick if coefficient > 0 else None, "atom": atom, "concept": t(WORDS[atom]),
               "coef": coefficient, "gap": 0.01}  # fmt: skip


def _judgement(t, place):
    layer, head, sv = place
    status = "empty" if place == EMPTY else "unscored" if place == UNSCORED else "scored"
    scored = status == "scored"
    return {"task": "coherence", "layer": layer, "head": head, "sv": sv, "side": "right", "sign": 1, "score": 1 + sv % 5 if scored else None,
            "theme": t("water") if scored else None, "status": status, "attempts": 3 if status == "unscored" else 1, "judge": t("small judge"),
            "prompt_hash": "a" * 64, "cached": False}  # fmt: skip


def _edit(t, place):
    layer, head, sv = place
    multiplier = 0.0 if sv == 0 else -1.0 if sv == 1 else 1.0
    return {"layer": layer, "head": head, "sv": sv, "multiplier": multiplier, "sigma_old": sigma(place),
            "sigma_new": multiplier * sigma(place), "reason": t("score 4: removed")}  # fmt: skip


def _image(t, i):
    return {"dataset": t("birds"), "split": "test", "sample_id": t(f"{i}"), "source_id": t("birds"), "uri": t(f"{i}.png"), "target": t("duck"),
            "class_index": 0, "thumbnail": picture(f"head{i}", True)}  # fmt: skip


def _shown(t, place, i):
    layer, head, sv = place
    return {"layer": layer, "head": head, "sv": sv, "side": "right", "rank": i, "dataset": t("birds"), "sample_id": t(f"{i}"),
            "source_id": t("birds"), "uri": t(f"{i}.png"), "score": 0.5 - 0.1 * i, "concept_score": None}  # fmt: skip


def _effect(t, place):
    layer, head, sv = place
    rank = (layer - LAYERS[0]) * HEADS * RANK + head * RANK + sv
    for value, against, sign in (("water", "land", 1), ("land", "water", -1)):
        yield {"model": t("small clip"), "attribute": t("place"), "value": t(value), "against": t(against), "evidence": "activations",
               "margin": None, "n_value": 10, "n_against": 11, "layer": layer, "head": head, "sv": sv, "side": "right", "cosine": 0.1,
               "sigma": sigma(place), "effect": sign / (1 + rank), "share": 0.1, "mean_coefficient": 0.2, "rank": rank}  # fmt: skip


def _run(t, run_id):
    uses = {"parts": "sith.decompose", "told": "sith.explain", "judged": "sith.judge", "edited": "sith.edit",
            "images": "datasets.compose", "shown": "sith.ground", "effects": "sith.attribute_effect"}  # fmt: skip
    run = audit(t, run_id=run_id).run
    run["run"] |= {"name": t("heads"), "description": t("What do the heads write?"), "status": "finished"}
    run["variants"] = [{"variant": "", "step": "", "params": {}}]
    run["steps"] = [
        {"variant": "", "step": step, "uses": name, "version": "1", "artifact_key": step, "status": "done", "started": CREATED,
         "seconds": 2.0, "failed_items": 0, "rows": {}, "error": None}
        for step, name in uses.items()
    ]  # fmt: skip
    run["models"], run["messages"], run["llm_calls"] = [], [], []
    return run
