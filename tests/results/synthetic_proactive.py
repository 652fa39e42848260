"""Made-up episodes in which a picture is not enough, as rows of the results tables.

``twist`` changes every free text. Five models that behave each in their own way, one of them before and after training; numbers are simple
enough to follow by hand. Labels of modes, kinds and reasons are the program's own words and never twisted.
"""

import json

from synthetic_audit import audit, picture

from results.tables import arrow_table

RUN = "20261122T120000-asking"
SCENARIOS = ("ROD", "QD")
SAMPLES = ("s0", "s1")
UNIFORM = {"ROD": 5.71, "QD": 20.0, "macro": 12.86}
SHARES = {
    "careful": {"asked": 0.9, "wrong": 0.1},
    "hasty": {"wrong": 0.75, "correct": 0.2, "invalid": 0.05},
    "shy": {"abstained": 0.8, "wrong": 0.2},
    "eager": {"asked": 1.0},
    "mute": {"unreadable": 0.9, "wrong": 0.1},
}
"""Of the first turns, by model."""
ACC = {
    "careful": (70.0, 60.0, 80.0),
    "hasty": (20.0, 12.0, 30.0),
    "shy": (0.0, 0.0, 8.0),
    "eager": (0.0, 0.0, 8.0),
    "mute": (5.0, 2.0, 12.0),
}
"""Accuracy with its interval, in every scenario."""
PSR = {"careful": 1.25, "hasty": 0.05, "shy": 0.0, "eager": 7.5, "mute": 0.0}
DISCRIMINATION = {"careful": (75.0, 60.0, 86.0), "hasty": (2.0, -3.0, 7.0), "eager": (0.0, -4.0, 4.0)}
STORIES = {
    "careful": (("ask_valid", "category_true"), ("ask_valid", "ask_valid", "category_false")),
    "hasty": (("category_false",), ("category_true",)),
    "shy": (("abstain",), ("ask_invalid",)),
    "eager": (("ask_valid",) * 4, ("ask_valid",) * 4),
    "mute": ((None,), ()),
}
"""What was chosen turn by turn in the episodes of both samples; the empty one failed."""
REASONS = {"category_true": "success", "category_false": "wrong_category", "abstain": "abstain", "ask_invalid": "invalid_ask", None: "unreadable",
           "ask_valid": "exhausted"}  # fmt: skip
OPTIONS = (("Move the slab to the left.", "ask_valid"), ("Draw faster.", "ask_invalid"), ("I cannot tell.", "abstain"), ("Cat.", "category_true"), ("Dog.", "category_false"))  # fmt: skip
KINDS = [kind for _, kind in OPTIONS]
STEPS = 100


def store_proactive(store, twist=lambda text: text, run_id=RUN, without=(), only=None):
    """Put them into a results file; ``without`` names steps that are left out, ``only`` those that stay."""
    store.replace_run(proactive_run(twist, run_id))
    wanted = {s: tables for s, tables in steps(twist).items() if s not in without and (only is None or s in only)}
    store.replace_steps(run_id, [
        ("", step, {name: arrow_table(name, rows) for name, rows in tables.items()}) for step, tables in wanted.items()
    ])  # fmt: skip


def steps(t=lambda text: text):
    """Rows by step and table."""
    return {
        "samples": {"pb_samples": [sample(t, scenario, s) for scenario in SCENARIOS for s in (*SAMPLES, "leaked")]},
        **{f"play {m}": episodes(t, m) for m in STORIES},
        "own words": open_ended(t, "careful"),
        "score": {
            "pb_metrics": [r for m in STORIES for r in metrics(t, m)] + [*open_metrics(t, "careful")],
            "pb_by_turn": [r for m in STORIES for s in SCENARIOS for r in by_turn(t, m, s)],
            "pb_curves": [r for m in DISCRIMINATION for s in (*SCENARIOS, "macro") for r in curve(t, m, s)],
            "pb_compared": [*compared(t, "careful", "hasty")],
        },
        "train": {"grpo_steps": [trained(t, "careful", i) for i in range(1, STEPS + 1)] + [trained(t, "eager", i, stuck=True) for i in range(1, STEPS + 1)],
                  "grpo_rollouts": [*rollouts(t, "careful")]},
    }  # fmt: skip


def sample(t, scenario, name):
    """One with four frames that show nothing at first and all at last."""
    return {
        "scenario": scenario, "sample_id": name, "split": "test", "question_type": None, "question": t("What is hidden?"), "answer": t("Cat."),
        "categories": [t("Cat."), t("Dog.")], "options": [t(text) for text, _ in OPTIONS[:3]], "n_frames": 4, "max_turns": 4, "kept": name != "leaked",
        "probe_hits": 3 if name == "leaked" else 0, "n_probes": 4, "source_id": t("album"), "uris": [t(f"{name}-{i}.png") for i in range(4)],
        "visible": [0.0, 0.25, 0.5, 1.0], "drawn_with": t(name), "record": json.dumps({"id": t(name)}),
    }  # fmt: skip


def episodes(t, model):
    """Episodes of both samples in every scenario, with their turns."""
    found = [(scenario, s, story) for scenario in SCENARIOS for s, story in zip(SAMPLES, STORIES[model], strict=True)]
    return {
        "pb_episodes": [episode(t, model, *about) for about in found],
        "pb_turns": [turn(t, model, scenario, s, story, i) for scenario, s, story in found for i in range(len(story))],
    }


def episode(t, model, scenario, name, story, mode="mcqa"):
    """One that the story tells; an empty one failed."""
    ended = story[-1] if story else None
    shared = {"model": t(model), "episode_id": f"{scenario}/{name}", "scenario": scenario, "sample_id": name, "draw": 0, "mode": mode, "hint": False,
              "history": False, "shots": 0, "options_mode": "native", "match": "robust", "prompt_tokens": 100, "completion_tokens": 5}  # fmt: skip
    if not story:
        return {**shared, "stop_reason": "error", "status": "error", "failure": t("the picture cannot be read")}
    success = ended == "category_true"
    return {**shared, "turns": len(story), "interventions": len(story) - 1, "success": success, "p_success": float(success),
            "p_exhausted": float(len(story) == 4), "stop_reason": REASONS[ended], "first_turn_correct": story[0] == "category_true", "status": "ok"}  # fmt: skip


def turn(t, model, scenario, name, story, number):
    """One turn of a story: it moves one frame on where a valid request is not the last."""
    kind = story[number]
    index = KINDS.index(kind) if kind else None
    moves = number + 1 < len(story)
    said = f"{'ABCDE'[index]}. {OPTIONS[index][0]}" if kind else "mumble"
    return {
        "model": t(model), "episode_id": f"{scenario}/{name}", "turn": number + 1, "forced": False, "place": number / 3, "frame": number,
        "source_id": t("album"), "uri": t(f"{name}-{number}.png"), "prompt": t("What is hidden?"), "options": [t(text) for text, _ in OPTIONS],
        "option_kinds": KINDS, "answer": t(said), "match_kind": "letter" if kind else "mismatch", "matched_index": index, "matched_kind": kind,
        "action_verdict": "correct" if kind == "ask_valid" else "mismatch", "category_verdict": "correct" if kind == "category_true" else "mismatch",
        "action": "left" if moves else None, "next_frame": number + 1 if moves else None, "logprob": -0.5,
        "thumbnail": picture(f"{scenario}{name}{number}", True),
    }  # fmt: skip


def open_ended(t, model):
    """Answers in own words: one asks, one judge's reply could not be read."""
    about = [("ROD", "s0", [1, 0, 0]), ("ROD", "s1", None), ("QD", "s0", [0, 1]), ("QD", "s1", [0, 0])]
    return {
        "pb_episodes": [{**episode(t, model, scenario, s, ("abstain",), "oeg"), "match": "judge"} for scenario, s, _ in about],
        "pb_turns": [{**turn(t, model, scenario, s, ("abstain",), 0), "options": None, "option_kinds": None, "matched_index": None,
                      "answer": t("Could you move the slab?")} for scenario, s, _ in about],
        "pb_judgements": [judged(t, model, *found) for found in about],
    }  # fmt: skip


def judged(t, model, scenario, name, bits):
    """What a judge read; ``bits`` None: nothing."""
    refs = [t("move the slab"), t("move the camera"), t("cat")] if scenario == "ROD" else [t("add details"), t("cat")]
    ps, cc = (any(bits[:-1]), bool(bits[-1])) if bits else (None, None)
    return {"model": t(model), "episode_id": f"{scenario}/{name}", "turn": 1, "refs": refs, "n_proactive": len(refs) - 1,
            "raw": t("1,0" if bits else "well"), "bits": bits, "parse_ok": bits is not None, "ps": ps, "cc": cc, "agg": (ps or cc) if bits else None,
            "judge": t("small judge")}  # fmt: skip


def metric(t, model, mode, scenario, name, value, low, high, n, n_error=0, uniform=None):
    """One score."""
    return {"model": t(model), "mode": mode, "scenario": scenario, "metric": name, "value": value, "ci_low": low, "ci_high": high, "n": n,
            "n_error": n_error, "uniform": uniform}  # fmt: skip


def metrics(t, model):
    """Scores of one model in every scenario and as the mean of all."""
    shares = {
        **dict.fromkeys(("asked", "invalid", "abstained", "correct", "wrong", "unreadable"), 0.0),
        **SHARES[model],
    }
    for scenario in (*SCENARIOS, "macro"):
        n, wrong = (40, 1) if scenario == "macro" else (20, 1)
        acc, low, high = ACC[model]
        yield metric(t, model, "mcqa", scenario, "acc", acc, low, high, n, wrong, UNIFORM[scenario])
        yield metric(t, model, "mcqa", scenario, "psr", PSR[model], 0.9 * PSR[model], 1.1 * PSR[model], n, wrong, 0.3)
        yield metric(t, model, "mcqa", scenario, "first_turn_acc", 100 * shares["correct"], 0.0, 40.0, n, wrong, 10.0)
        yield metric(t, model, "mcqa", scenario, "exhausted", 100.0 * (model == "eager"), 0.0, 100.0, n, wrong)
        told = {"asked": shares["asked"] + shares["invalid"], "abstained": shares["abstained"],
                "predicted": shares["correct"] + shares["wrong"], "unreadable": shares["unreadable"]}  # fmt: skip
        for name, share in told.items():
            yield metric(
                t, model, "mcqa", scenario, f"first_{name}", 100 * share, 90 * share, min(100.0, 110 * share), n, wrong
            )
            yield metric(
                t, model, "mcqa", scenario, name, 100 * share, 90 * share, min(100.0, 110 * share), 2 * n, wrong
            )
        if model != "mute":
            yield metric(t, model, "mcqa", scenario, "reference_acc", 90.0, 80.0, 96.0, n)
        if model in DISCRIMINATION:
            yield metric(t, model, "frames", scenario, "discrimination", *DISCRIMINATION[model], n)


def open_metrics(t, model):
    """Shares of answers in own words that ask, name the category, or do one of both."""
    for scenario in (*SCENARIOS, "macro"):
        for name, value in (("ps", 50.0), ("cc", 25.0), ("agg", 75.0)):
            yield metric(t, model, "oeg", scenario, name, value, value - 20, value + 20, 4)


def by_turn(t, model, scenario):
    """Two turns: the first as ``SHARES`` say, the second answers all."""
    shares = {
        **dict.fromkeys(("asked", "invalid", "abstained", "correct", "wrong", "unreadable"), 0.0),
        **SHARES[model],
    }
    yield {"model": t(model), "mode": "mcqa", "scenario": scenario, "turn": 1, "alive": 20, **shares}
    if shares["asked"]:
        told = {**dict.fromkeys(shares, 0.0), "correct": 0.75, "wrong": 0.25}
        yield {
            "model": t(model),
            "mode": "mcqa",
            "scenario": scenario,
            "turn": 2,
            "alive": round(20 * shares["asked"]),
            **told,
        }


def curve(t, model, scenario):
    """The careful one asks less the more it sees."""
    steady = {"hasty": 0.05, "eager": 1.0}.get(model)
    for place in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        asked, right = 1 - place if steady is None else steady, 0.25 + 0.75 * place
        over = None if place == 0 else asked
        yield {
            "model": t(model), "scenario": scenario, "place": place, "n": 40, "asked": asked, "forced_correct": right,
            "over_asking": over, "over_low": None if over is None else max(0.0, over - 0.1), "over_high": None if over is None else min(1.0, over + 0.1),
            "under_asking": 1 - asked, "under_low": max(0.0, 0.9 - asked), "under_high": min(1.0, 1.1 - asked),
        }  # fmt: skip


def compared(t, model, other):
    """One scenario that rose for certain, one that did not."""
    for scenario, name, value, low, high in (
        ("macro", "acc", 50.0, 38.0, 61.0), ("ROD", "acc", 60.0, 40.0, 80.0), ("QD", "acc", 5.0, -10.0, 21.0), ("macro", "psr", 1.2, 0.9, 1.5),
        ("macro", "discrimination", 73.0, 50.0, 90.0)):  # fmt: skip
        yield {"model": t(model), "other": t(other), "mode": "mcqa", "scenario": scenario, "metric": name, "difference": value, "ci_low": low,
               "ci_high": high, "n": 20}  # fmt: skip


def trained(t, model, step, stuck=False):
    """A training step; ``stuck``: it asks always and earns what asking gives."""
    done = step / STEPS
    asked = 1.0 if stuck else 0.1 + 0.4 * done
    return {
        "model": t(model), "train_step": step, "reward_mean": 0.5 if stuck else 0.2 + 0.5 * done, "reward_std": 0.0 if stuck else 0.3,
        "frac_zero_std": 1.0 if stuck else 0.25, "share_ask": asked, "share_correct": 0.0 if stuck else 0.4 * done, "share_wrong": 0.0 if stuck else 0.4 * (1 - done),
        "share_abstain": 0.0 if stuck else 0.5 - 0.4 * done, "share_unreadable": 0.0, "kl": 0.02 * done, "entropy": 1.0 - 0.5 * done, "clip_frac": 0.0,
        "completion_len": 1.0, "lr": 1e-3, "grad_norm": 1.0, "loss": 0.0, "seconds": 0.25,
    }  # fmt: skip


def rollouts(t, model):
    """Answers at the first step, where it guesses, and at the last, where it asks if it cannot see."""
    for step in (1, STEPS):
        for frame, kind in ((0, "category_false" if step == 1 else "ask_valid"), (3, "category_true")):
            for i in range(8):
                yield {"model": t(model), "train_step": step, "prompt_id": f"ROD/s0/{frame}", "rollout": i, "turn": 1, "text": t("A"),
                       "reward": 1.0 * (kind == "category_true"), "advantage": 0.0, "matched_kind": kind}  # fmt: skip


def proactive_run(t=lambda text: text, run_id=RUN):
    """The run that made them."""
    run = audit(t, run_id=run_id).run
    run["run"] |= {"name": t("asking"), "description": t("Does it ask for help?"), "status": "finished"}
    run["variants"] = [{"variant": "", "step": "", "params": {}}]
    run["steps"] = [
        {"variant": "", "step": step, "uses": "proactive.evaluate", "version": "1", "artifact_key": step, "status": "done",
         "started": run["run"]["created"], "seconds": 2.0, "failed_items": 0, "rows": {}, "error": None}
        for step in steps()
    ]  # fmt: skip
    run["models"] = [
        {**run["models"][0], "model": t("tiny"), "note": t("trained by this project, far below a published model")}
    ]
    run["messages"], run["llm_calls"] = [], []
    return run
