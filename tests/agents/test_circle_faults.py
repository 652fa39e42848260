"""In-context runs against servers that fail, models that say nothing, and caches that know everything."""

import pytest
from circle_server import Watch, make_dataset, number, reply_to
from fault_server import serving
from openworld_material import model, rows_of

from agents.circle_steps import classify
from runner.context import local_context
from runner.errors import EndpointError, StepError
from runner.models.chat.providers import OpenAI
from runner.models.registry import Services

FAULTS = (
    "rate_limit",
    "http_500",
    "http_503_html",
    "reset",
    "cut_body",
    "broken_json",
    "null_content",
    "empty_choices",
)
TABLES = ("contexts", "labels", "calls", "answers")


async def run(tmp_path, watch, *, cache="cache", server=None, name="step", concurrency=16, **settings):
    ctx = local_context(tmp_path / name)
    images = make_dataset(tmp_path / "data", train=8, test=8)
    with model(tmp_path / cache, watch, concurrency=concurrency, **(server or {})) as (lmm, sent):
        settings = {"shots": 4, "rounds": 2, "probe": False} | settings
        return await classify(ctx, lmm=lmm, images=images, **settings), ctx, sent


def same(first, second, *without):
    for name in TABLES:
        one, other = getattr(first, name), getattr(second, name)
        columns = [c for c in one.column_names if c not in ("ms", *without)]
        assert one.select(columns).equals(other.select(columns)), name


async def test_a_server_that_fails_a_third_of_the_time_gives_the_same_rows(tmp_path):
    calm, _, _ = await run(tmp_path, Watch(), cache="a")
    rough, ctx, sent = await run(tmp_path, Watch(), cache="b", server={"rate": 0.3, "faults": FAULTS, "seed": 4})
    assert sent.requests > 20 and sum(sent.seen[fault] for fault in FAULTS) > 3
    assert ctx.failures == []
    same(calm, rough)


async def test_faults_that_patience_does_not_outlast_are_recorded_row_by_row(tmp_path):
    """Every query has a row with an answer or a failure, every picture a label or a flag, and failures are told."""
    faults = ("http_400", "rate_limit", "http_500", "broken_json", "length", "content_filter")
    answers, ctx, _ = await run(tmp_path, Watch(), server={"rate": 0.3, "faults": faults, "seed": 5})
    rows, labels = answers.answers.to_pylist(), answers.labels.to_pylist()
    assert len(rows) == 8 and all((row["prediction"] is None) == (row["failure"] is not None) for row in rows)
    calls = answers.calls.to_pylist()
    lost = [call for call in calls if call["failure"]]
    assert lost and len(ctx.failures) == len(lost)
    assert sum(row["flag"] == "failed" for row in labels) == sum(call["kind"] != "query" for call in lost)
    assert sum(row["failure"] is not None for row in rows) == sum(call["kind"] == "query" for call in lost)


async def test_questions_that_are_never_answered_are_asked_again(tmp_path):
    script = ("hang", "ok", "hang")
    images, watch = make_dataset(tmp_path / "data"), Watch()
    with serving(answer=watch, script=script) as sent:
        config = OpenAI(model="scripted", base_url=sent.base_url, timeout=0.5, deadline=20, max_retries=4)
        lmm = config.load(Services(cache=tmp_path / "cache"))
        ctx = local_context(tmp_path / "step")
        answers = await classify(ctx, lmm=lmm, images=images, shots=2, rounds=1, probe=False)
        lmm.close()
    assert sent.seen["hang"] == 2 and ctx.failures == [] and len(watch.questions) == 8
    assert None not in answers.answers["prediction"].to_pylist()


async def test_replaying_asks_nothing_and_gives_identical_tables(tmp_path):
    first, _, _ = await run(tmp_path, Watch())
    again, _, sent = await run(tmp_path, Watch(lambda question: "something else"))
    assert sent.requests == 0
    same(first, again, "cached")
    assert {row["cached"] for row in again.calls.to_pylist()} == {True}


async def test_an_error_of_the_run_stops_it_and_keeps_what_was_answered(tmp_path):
    script = ("ok",) * 6 + ("http_401",)
    stops = pytest.raises(EndpointError, match="Incorrect API key")
    with stops:
        await run(tmp_path, Watch(), server={"script": script}, concurrency=1)
    answers, _, sent = await run(tmp_path, Watch())
    assert sent.requests == 20 - 6 and None not in answers.answers["prediction"].to_pylist()


async def test_a_failed_pseudo_label_leaves_its_picture_out(tmp_path):
    """The server refuses the first question for good; the others go on without that picture."""
    watch = Watch()
    answers, ctx, _ = await run(tmp_path, watch, server={"script": ("http_400",)}, concurrency=1)
    context = [number(row) for row in answers.contexts.to_pylist()]
    assert answers.contexts["final_label"].to_pylist()[0] is None
    assert rows_of(answers.labels, "round", "slot", "label", "joined", "flag")[0] == (0, 0, None, None, "failed")
    assert {q.kind: {p for p, _ in q.examples} | {q.target} for q in watch.questions if q.kind == "refine"} == {
        "refine": set(context[1:])
    }
    assert all([p for p, _ in q.examples] == context[1:] for q in watch.of("query"))
    assert len(ctx.failures) == 1 and "left out of the context" in ctx.failures[0][1]
    assert answers.settings["runs"][0]["context"] == 3 and len(watch.of("refine")) == 6


async def test_a_failed_refinement_keeps_the_label(tmp_path):
    answers, ctx, _ = await run(tmp_path, Watch(), server={"script": ("ok",) * 4 + ("http_400",)}, concurrency=1)
    lost = next(row for row in answers.labels.to_pylist() if row["flag"] == "failed")
    context = [number(row) for row in answers.contexts.to_pylist()]
    first = f"thing {context[0]}"
    assert (lost["round"], lost["slot"], lost["label"], lost["joined"]) == (1, 0, first, f"{first}, {first}")
    assert lost["reply"] is None and not lost["changed"] and "its label stays" in ctx.failures[0][1]


async def test_no_label_at_all_ends_the_step(tmp_path):
    nothing = pytest.raises(StepError, match="no picture of the context of shades got a label")
    with nothing:
        await run(tmp_path, Watch(), server={"script": ("http_400",) * 4}, concurrency=1)


async def test_replies_without_a_label_keep_the_previous_one(tmp_path):
    def commas(question):
        return " , ," if question.kind == "refine" and question.round == 1 else reply_to(question)

    answers, ctx, _ = await run(tmp_path, Watch(commas))
    flags = {(row["round"], row["flag"], row["changed"]) for row in answers.labels.to_pylist()}
    assert flags == {(0, None, True), (1, "kept_previous", False), (2, None, True)} and ctx.failures == []
    context = [number(row) for row in answers.contexts.to_pylist()]
    shown = [row["joined"] for row in answers.labels.to_pylist() if row["round"] == 1]
    assert shown == [f"thing {p}, thing {p}" for p in context]


async def test_cut_replies_are_labels_with_a_flag(tmp_path):
    answers, _, _ = await run(tmp_path, Watch(), server={"rate": 1.0, "faults": ("length",)}, rounds=1)
    assert {row["flag"] for row in answers.labels.to_pylist()} == {"cut"}
    assert set(answers.answers["finish_reason"].to_pylist()) == {"length"}


async def test_comma_lists_of_nothing_are_an_empty_answer(tmp_path):
    def nothing(question):
        return " , ," if question.kind == "query" else reply_to(question)

    answers, _, _ = await run(tmp_path, Watch(nothing))
    assert set(rows_of(answers.answers, "prediction", "judged", "n_items", "first_item", "failure")) == {
        ("", "", 0, None, None)
    }


@pytest.mark.parametrize("order", ["fixed", "prefix_tree"])
async def test_several_datasets_travel_together(tmp_path, order):
    one, two = make_dataset(tmp_path / "d", name="one"), make_dataset(tmp_path / "d", name="two", train=7, test=3)
    import pyarrow as pa

    both = type(one)(one.datasets + two.datasets, one.corpus + two.corpus, pa.concat_tables([one.images, two.images]))
    watch = Watch()
    with model(tmp_path / "cache", watch) as (lmm, sent):
        answers = await classify(
            local_context(tmp_path / "step"), lmm=lmm, images=both, shots=3, rounds=1, seeds=[0, 5], probe=False,
            context_order=order, label="mine",
        )  # fmt: skip
    assert answers.method == "mine" and set(answers.answers["method"].to_pylist()) == {"mine"}
    counts = {(d, s): 0 for d in ("one", "two") for s in (0, 5)}
    for row in answers.answers.to_pylist():
        counts[row["dataset"], row["seed"]] += 1
    assert counts == {("one", 0): 4, ("one", 5): 4, ("two", 0): 3, ("two", 5): 3}
    assert answers.calls.num_rows == 4 * 3 * 2 + 14 and sent.requests <= answers.calls.num_rows
    assert {tuple(r.values()) for r in answers.settings["runs"]} == {
        (d, s, 1, 3) for d in ("one", "two") for s in (0, 5)
    }


def silent(kind, targets=None):
    """Replies in which questions of a kind (about some of the pictures) are met with silence."""

    def reply(question):
        is_met = question.kind == kind and (targets is None or question.target in targets)
        return "" if is_met else reply_to(question)

    return reply


async def test_an_empty_refinement_keeps_the_label_and_is_no_failure(tmp_path):
    answers, ctx, _ = await run(tmp_path, Watch(silent("refine")))
    flags = {(row["round"], row["flag"], row["reply"], row["changed"]) for row in answers.labels.to_pylist()}
    assert flags == {(0, None, f"thing {number(row)}", True) for row in answers.contexts.to_pylist()} | {
        (round_, "kept_previous", "", False) for round_ in (1, 2)
    }
    assert ctx.failures == [] and set(answers.calls["failure"].to_pylist()) == {None}


async def test_an_empty_answer_is_scored_and_found_again(tmp_path):
    for method, key in (("circle", "circle"), ("pseudo", "base")):
        answers, ctx, _ = await run(tmp_path, Watch(silent("query")), method=method, cache=method, name=method)
        found = rows_of(answers.answers, "prompt_key", "reply", "prediction", "judged", "n_items", "failure")
        assert set(found) == {(key, "", "", "", 0, None)} and ctx.failures == []
        again, _, sent = await run(tmp_path, Watch(), method=method, cache=method)
        assert sent.requests == 0
        same(answers, again, "cached")


async def test_an_empty_pseudo_label_leaves_its_picture_out_and_says_why(tmp_path):
    first = number((await run(tmp_path, Watch(), cache="a"))[0].contexts.to_pylist()[0])
    answers, ctx, _ = await run(tmp_path, Watch(silent("pseudo", {first})), cache="b", name="other")
    assert answers.contexts["final_label"].to_pylist()[0] is None
    assert rows_of(answers.labels, "slot", "reply", "label", "flag")[0] == (0, "", None, "failed")
    assert set(answers.calls["failure"].to_pylist()) == {None}
    assert ["a blank reply; it is left out of the context" in text for _, text in ctx.failures] == [True]
    assert answers.settings["runs"][0]["context"] == 3 and None not in answers.answers["prediction"].to_pylist()
