"""Answers of a tiny network saved one by one, models beside their original, losses, speed, scores of lmms-eval."""

import json

import numpy as np
import pytest
from PIL import Image

from agents.vqa_steps import vqa
from runner.context import local_context
from runner.data.benchmarks.building import conversations, vqa_items
from runner.errors import DataError
from runner.models.lvlm.loading import Lvlm, read
from runner.nodes.intervals import paired_difference_interval
from runner.nodes.vqa import answering
from runner.nodes.vqa.answering import Answer, Answers, answer_items, scored
from runner.nodes.vqa.losses import loss_rows, ratio_interval
from runner.nodes.vqa.steps import compare, import_lmms_eval, loss, speed
from tests.chat.tiny_vlm import make_tiny_vlm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Lvlm(make_tiny_vlm(tmp_path_factory.mktemp("tiny") / "m", "llava"), dtype="float32")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40 + 20 * number, 50), colour).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return [{"folder": str(folder), "name": "p"}]


def questions(corpus, uris=("0.png", "1.png", "2.png")):
    rows = [
        {"benchmark": "b", "item_id": f"i{n}", "question": f"Which colour {n}?", "answers": ["red"], "uris": [uri], "source_id": "p"}
        for n, uri in enumerate(uris)
    ] + [{"benchmark": "c", "item_id": "k", "question": "Which?", "answers": ["B"], "choices": ["x", "y"]}]  # fmt: skip
    about = [{"benchmark": "b", "metric": "exact_match"}, {"benchmark": "c", "metric": "multiple_choice"}]
    return vqa_items(about, corpus, rows)


async def test_answers_are_saved_and_a_bad_picture_costs_itself_alone(model, pictures, tmp_path, monkeypatch):
    ctx = local_context(tmp_path)
    items = questions(pictures, ("0.png", "bad.png", "2.png"))
    first = await vqa(ctx, model=model, items=items, max_new_tokens=4, batch_size=2, label="tiny")
    rows = {row["item_id"]: row for row in first.answers.to_pylist()}
    assert rows["i1"]["answer"] is None and "cannot be read" in rows["i1"]["failure"] and len(ctx.failures) == 1
    assert all(rows[name]["answer"] is not None and rows[name]["failure"] is None for name in ("i0", "i2", "k"))
    whole = {row["benchmark"]: row for row in first.scores.to_pylist()}
    assert (whole["b"]["n"], whole["b"]["n_failed"]) == (3, 1) and whole["c"]["n"] == 1
    monkeypatch.setattr(answering, "generate", lambda *a, **k: pytest.fail("asked again"))
    again = await vqa(ctx, model=model, items=items, max_new_tokens=4, batch_size=3, label="tiny")
    assert again.answers.equals(first.answers)


def test_one_question_that_cannot_run_costs_itself_alone(model, pictures, tmp_path, monkeypatch):
    generate = answering.generate

    def fails(loaded, asked, **settings):
        if any("colour 1" in question.text for question in asked):
            raise DataError("too long")
        return generate(loaded, asked, **settings)

    monkeypatch.setattr(answering, "generate", fails)
    items = questions(pictures)
    found = answer_items(
        local_context(tmp_path), model.load(), items.benchmarks, items.items.to_pylist(), items.corpus, identity="m"
    ).found
    assert found["b", "i1"] == Answer(None, "too long")
    assert sum(answer.failure is None for answer in found.values()) == 3


async def test_likelihood_gives_a_letter(model, pictures, tmp_path):
    told = await vqa(
        local_context(tmp_path), model=model, items=questions(pictures), multiple_choice="likelihood", max_new_tokens=1
    )
    assert next(row["answer"] for row in told.answers.to_pylist() if row["item_id"] == "k") in ("A", "B")


# --- comparing -------------------------------------------------------------------------------------------------------


def rated(right, label, pairs=None):
    """Scores of a model that is right where ``right`` says so."""
    rows = [
        {"benchmark": "b", "item_id": f"i{n}", "question": "?", "answers": ["yes"], "pair_id": pairs and pairs[n]}
        for n in range(len(right))
    ]
    items = vqa_items([{"benchmark": "b", "metric": "exact_match"}], [], rows)
    answers = Answers({("b", f"i{n}"): Answer("yes" if r else "no") for n, r in enumerate(right)}, {"b": 1.0})
    return scored(items, answers, model={}, label=label, settings={})


def test_a_model_beside_itself_retains_everything(tmp_path):
    same = rated([1, 1, 0, 1], "o")
    told = compare(local_context(tmp_path), original=same, others={"same": same})
    [row], [whole] = told.bench_score.to_pylist(), told.bench_aggregate.to_pylist()
    assert row["retained"] == 1 and row["difference"] == 0 and row["ci_low"] <= 0 <= row["ci_high"] and row["n"] == 4
    assert whole["avg_ratio_of_means"] == whole["ci_low"] == whole["ci_high"] == whole["avg_mean_of_ratios"] == 100


def test_equal_differences_leave_doubt(tmp_path):
    """Questions in groups, answered alike by both: resampling them would claim to know the difference exactly."""
    pairs = [f"g{n // 2}" for n in range(20)]
    original = [1, 0] * 10
    told = compare(
        local_context(tmp_path), original=rated(original, "o", pairs),
        others={"same": rated(original, "same", pairs), "none": rated([0] * 20, "none", pairs)},
    )  # fmt: skip
    same, none = told.bench_score.to_pylist()
    low, high = paired_difference_interval(5, 0, 0, 5)
    assert (
        same["difference"] == 0 and (same["ci_low"], same["ci_high"]) == pytest.approx((low, high)) and low < 0 < high
    )
    low, high = paired_difference_interval(0, 5, 0, 5)
    assert none["difference"] == -0.5 and (none["ci_low"], none["ci_high"]) == pytest.approx((low, high))
    assert none["ci_low"] < -0.5 < none["ci_high"] < 0


def test_retained_quality_and_the_paired_interval(tmp_path):
    rng = np.random.default_rng(0)
    original = (rng.random(400) < 0.8).astype(int)
    other = original * (rng.random(400) < 0.9)
    told = compare(local_context(tmp_path), original=rated(original, "o"), others={"cut": rated(other, "cut")})
    [row], [whole] = told.bench_score.to_pylist(), told.bench_aggregate.to_pylist()
    difference = other.mean() - original.mean()
    assert row["difference"] == pytest.approx(difference) and row["retained"] == pytest.approx(
        other.mean() / original.mean()
    )
    spread = 1.96 * (other - original).std() / 20  # items paired: far narrower than two independent shares
    assert row["ci_low"] == pytest.approx(difference - spread, abs=0.006)
    assert row["ci_high"] == pytest.approx(difference + spread, abs=0.006)
    assert whole["avg_ratio_of_means"] == pytest.approx(100 * other.mean() / original.mean())
    assert whole["ci_low"] < whole["avg_ratio_of_means"] < whole["ci_high"] < 100
    grouped = [f"g{n // 4}" for n in range(400)]
    told = compare(
        local_context(tmp_path / "g"),
        original=rated(original, "o", grouped),
        others={"cut": rated(other, "cut", grouped)},
    )
    assert told.bench_score.to_pylist()[0]["ci_low"] == pytest.approx(row["ci_low"], abs=0.02)


def test_only_items_put_to_both_count_and_none_is_an_error(tmp_path):
    ctx = local_context(tmp_path)
    told = compare(ctx, original=rated([1, 1, 0, 0], "o"), others={"short": rated([1, 0], "short")})
    row = told.bench_score.to_pylist()[0]
    assert (row["n"], row["value_original"], row["value"]) == (2, 1.0, 0.5)
    assert any("2 of the 4" in message["text"] for message in ctx.journal.messages)
    strange = rated([1], "x")
    strange.benchmarks[0]["metric"] = "anls"
    with pytest.raises(DataError, match="scored by anls"):
        compare(ctx, original=rated([1], "o"), others={"x": strange})


# --- losses, speed ---------------------------------------------------------------------------------------------------


def test_loss_by_domain_is_that_of_the_records(model, pictures, tmp_path):
    turns = [("user", "<image>\nWhich animal?"), ("assistant", "a dog")]
    rows = [
        {"record_id": f"r{n}", "domain": "de"[n % 2], "turns": turns, "uris": [f"{n}.png"], "source_id": "p", "split": "eval"}
        for n in range(3)
    ]  # fmt: skip
    data = conversations("talks", ["d", "e"], rows, pictures)
    ctx = local_context(tmp_path)
    told = loss(ctx, model=model, data=data, batch_size=2)
    held = {row["domain"]: row for row in told.perplexity.to_pylist()}
    records = told.records.to_pylist()
    assert held[None]["nll"] == pytest.approx(sum(r["nll"] for r in records) / sum(r["tokens"] for r in records))
    assert (
        held["d"]["n"] == 2
        and held["e"]["n"] == 1
        and held["d"]["perplexity"] == pytest.approx(np.exp(held["d"]["nll"]))
    )
    assert held["d"]["ci_low"] <= held["d"]["nll"] <= held["d"]["ci_high"]
    ctx.items.put_many = lambda values: pytest.fail("computed again") if values else None
    assert loss(ctx, model=model, data=data, batch_size=3).perplexity.equals(told.perplexity)


def test_a_ratio_resamples_groups():
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9, 300)
    sums = counts * 2.0 + rng.normal(size=300)
    low, high = ratio_interval(sums, counts, [str(n) for n in range(300)])
    error = (
        np.sqrt(((sums - counts * sums.sum() / counts.sum()) ** 2).sum()) / counts.sum()
    )  # of a ratio, by the delta method
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15) and low < sums.sum() / counts.sum() < high
    assert np.isnan(ratio_interval([0.0], [0], ["a"])).all()
    assert loss_rows("m", "d", ["x"], [])[0]["tokens"] == 0


def test_speed_counts_tokens(model, pictures, tmp_path):
    told = speed(local_context(tmp_path), models={"tiny": model}, items=questions(pictures), new_tokens=4, repeats=1)
    [row] = told.timing.to_pylist()
    assert row["prefill_tps"] > 0 and row["peak_bytes"] > 0 and told.settings["models"]["tiny"]["prompt_tokens"] > 16
    assert read(model.folder).sees


# --- lmms-eval -------------------------------------------------------------------------------------------------------


def written(folder, date, value, scores):
    folder.mkdir(parents=True, exist_ok=True)
    told = {"gqa": {"alias": "gqa", "exact_match,none": value, "exact_match_stderr,none": 0.1, "other,none": 0.3}}
    counts = {"gqa": {"original": 100, "effective": len(scores)}}
    (folder / f"{date}_results.json").write_text(json.dumps({"results": told, "n-samples": counts}))
    lines = [
        json.dumps({"doc_id": n, "target": "red", "filtered_resps": [["red"]], "exact_match": {"score": s} if n else s})
        for n, s in enumerate(scores)
    ]
    (folder / f"{date}_samples_gqa.jsonl").write_text("\n".join([*lines, "{torn"]))


def test_the_newest_results_of_lmms_eval_are_read(tmp_path):
    written(tmp_path / "m", "20250101_000000", 0.1, [0.0])
    written(tmp_path / "m", "20250601_000000", 0.75, [1.0, 1.0, 0.0, 1.0])
    ctx = local_context(tmp_path / "run")
    told = import_lmms_eval(ctx, path=str(tmp_path / "m"), label="theirs")
    [row] = told.scores.to_pylist()
    assert (row["metric"], row["value"], row["n"], row["n_total"]) == ("exact_match", 0.75, 4, 100)
    assert row["ci_low"] < 0.75 < row["ci_high"] and len(told.answers) == 4
    assert any("no JSON" in message["text"] for message in ctx.journal.messages)
    same = compare(ctx, original=told, others={"same": told}).bench_aggregate.to_pylist()[0]
    assert same["avg_ratio_of_means"] == 100
    other = import_lmms_eval(ctx, path=str(tmp_path / "m"), label="x", tasks={"gqa": "other"}).scores.to_pylist()[0]
    assert other["value"] == 0.3 and other["n_failed"] == 4
    with pytest.raises(DataError, match="no task 'mme'"):
        import_lmms_eval(ctx, path=str(tmp_path / "m"), label="x", tasks={"mme": "score"})
    with pytest.raises(DataError, match="no finite number 'nope'"):
        import_lmms_eval(ctx, path=str(tmp_path / "m"), label="x", tasks={"gqa": "nope"})
    with pytest.raises(DataError, match="there is no"):
        import_lmms_eval(ctx, path=str(tmp_path / "run"), label="x")
