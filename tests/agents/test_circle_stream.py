"""circle.stream: the context is made of pictures that came before."""

import math
from collections import Counter

import pytest
from circle_server import Watch, make_dataset, number
from openworld_material import model, rows_of

from agents.circle_runs import calls_of, streaming_calls
from agents.circle_steps import stream
from agents.circle_stream import Reservoir, earlier_places
from runner.context import local_context
from runner.errors import StepError

M, T, N = 3, 2, 8


async def run(tmp_path, watch=None, *, images=None, cache="cache", server=None, **settings):
    watch = watch or Watch()
    ctx = local_context(tmp_path / "step")
    images = images or make_dataset(tmp_path / "data", train=0, test=N)
    settings = {"memory": M, "rounds": T, "probe": False} | settings
    with model(tmp_path / cache, watch, **(server or {})) as (lmm, _):
        return await stream(ctx, lmm=lmm, images=images, **settings), watch, ctx


def order_of(answers):
    """Numbers of the pictures in the order of the stream."""
    return [number(row) for row in answers.answers.to_pylist()]


async def test_calls_a_picture_are_those_of_the_text(tmp_path):
    answers, watch, _ = await run(tmp_path)
    order, calls = order_of(answers), Counter(answers.calls["sample_id"].to_pylist())
    for place, name in enumerate(order):
        assert calls[f"{name:03}.png"] == streaming_calls(min(place, M), T)
    assert streaming_calls(16, 3) == 69 and calls_of(16, 3, 100) == 164  # the published figures
    # What was asked before comes from the reply cache: each picture is pseudo-labelled once.
    assert len(watch.of("pseudo")) <= N + 1 and sorted(order) == list(range(N))
    assert set(rows_of(answers.answers, "method", "prompt_key", "failure")) == {("streaming", "circle", None)}


async def test_only_earlier_pictures_are_shown(tmp_path):
    answers, watch, _ = await run(tmp_path)
    order = order_of(answers)
    place = {name: i for i, name in enumerate(order)}
    asked = {question.target: question for question in watch.of("query")}
    for name in order[1:]:
        shown = [picture for picture, _ in asked[name].examples]
        assert len(shown) == min(place[name], M) == len(set(shown))
        assert all(place[picture] < place[name] for picture in shown)
    first = [row for row in answers.calls.to_pylist() if row["sample_id"] == f"{order[0]:03}.png"]
    assert [(row["kind"], row["n_images"]) for row in first] == [("pseudo", 1)] + [("refine", 1)] * T + [("query", 1)]


async def test_rows_tell_which_labels_were_made_for_which_query(tmp_path):
    answers, watch, _ = await run(tmp_path)
    order = order_of(answers)
    assert [number(row) for row in sorted(answers.contexts.to_pylist(), key=lambda r: r["slot"])] == order
    assert set(answers.contexts["final_label"].to_pylist()) == {None}  # made anew for every query
    asked = {question.target: question for question in watch.of("query")}
    made = {}
    for row in answers.labels.to_pylist():
        made.setdefault((int(row["episode"][:3]), order[row["slot"]]), []).append(row["label"])
    for name in order[1:]:
        assert dict(asked[name].examples) == {
            p: ", ".join(labels[1:]) for (e, p), labels in made.items() if e == name and p != name
        }
    assert {len(labels) for labels in made.values()} == {T + 1}


async def test_the_stream_hangs_on_the_seed_alone(tmp_path):
    one, _, _ = await run(tmp_path, cache="a")
    two, _, _ = await run(tmp_path, Watch(seconds=0.01), cache="b")
    other, _, _ = await run(tmp_path, cache="a", seeds=[1])
    for name in ("contexts", "labels", "answers"):
        first, second = getattr(one, name), getattr(two, name)
        same = [c for c in first.column_names if c not in ("ms", "cached")]
        assert first.select(same).equals(second.select(same)), name
    assert order_of(one) != order_of(other)


async def test_a_context_may_serve_several_pictures(tmp_path):
    answers, watch, _ = await run(tmp_path, rebuild_every=4)
    order, calls = order_of(answers), Counter(answers.calls["sample_id"].to_pylist())
    assert [calls[f"{n:03}.png"] for n in order] == [T + 2, 1, 1, 1, (M + 1) * (T + 1) + 1, 1, 1, 1]
    asked = {question.target: [p for p, _ in question.examples] for question in watch.of("query")}
    assert asked[order[5]] == asked[order[6]] == [*asked[order[4]], order[4]]


async def test_pseudo_labels_alone(tmp_path):
    answers, watch, _ = await run(tmp_path, method="pseudo")
    assert watch.of("refine") == [] and set(answers.answers["method"].to_pylist()) == {"streaming_pseudo"}
    assert Counter(answers.calls["kind"].to_pylist()) == {"pseudo": 1 + 2 + 3 + 5 * 4, "query": N}


async def test_a_reservoir_keeps_labels_and_costs_t_plus_two_calls_a_picture(tmp_path):
    answers, watch, _ = await run(tmp_path, reservoir=True)
    order, calls = order_of(answers), Counter(answers.calls["sample_id"].to_pylist())
    assert set(calls.values()) == {streaming_calls(M, T, reservoir=True)} == {T + 2}
    assert len(watch.questions) == N * (T + 2) - len([q for q in watch.of("query") if not q.examples])
    finals = dict(zip(order, answers.contexts["final_label"].to_pylist(), strict=True))
    for question in watch.of("query"):
        assert dict(question.examples) == {p: finals[p] for p, _ in question.examples}
        assert len(question.examples) <= M


async def test_a_reservoir_is_offered_every_picture(tmp_path):
    """While there is room each picture of the stream so far is shown, so none was passed over."""
    answers, watch, _ = await run(tmp_path, reservoir=True, memory=N)
    order = order_of(answers)
    shown = {question.target: [p for p, _ in question.examples] for question in watch.of("query")}
    assert [shown[name] for name in order[1:]] == [order[:place] for place in range(1, N)]


async def test_a_reservoir_with_shared_contexts_is_refused_before_any_call(tmp_path):
    watch = Watch()
    with pytest.raises(StepError, match="rebuild_every is 4") as error:
        await run(tmp_path, watch, reservoir=True, rebuild_every=4, probe=True)
    assert "rebuild_every: 1" in error.value.hint and watch.questions == []


async def test_a_picture_that_cannot_be_read_is_a_failure_and_no_example(tmp_path):
    images = make_dataset(tmp_path / "data", train=0, test=N, broken=(2,))
    for cache, reservoir in (("a", False), ("b", True)):
        answers, watch, ctx = await run(tmp_path, images=images, cache=cache, reservoir=reservoir)
        lost = [number(row) for row in answers.answers.to_pylist() if row["failure"]]
        assert lost == [2] and len(ctx.failures) == 1 and len(order_of(answers)) == N
        assert len(watch.of("query")) >= N - 2


async def test_faults_leave_every_row(tmp_path):
    server = {"rate": 0.3, "faults": ("http_400", "http_500", "reset"), "seed": 1}
    answers, _, ctx = await run(tmp_path, server=server)
    rows = answers.answers.to_pylist()
    assert len(rows) == N and all((r["prediction"] is None) == (r["failure"] is not None) for r in rows)
    assert len(ctx.failures) == sum(call["failure"] is not None for call in answers.calls.to_pylist()) > 0


async def test_streams_of_several_seeds_stand_one_after_the_other(tmp_path):
    both, _, _ = await run(tmp_path, seeds=[3, 1], cache="a")
    alone = [(await run(tmp_path, seeds=[seed], cache="b"))[0] for seed in (3, 1)]
    for name in ("contexts", "labels", "answers"):
        columns = [c for c in getattr(both, name).column_names if c not in ("ms", "cached")]
        parts = [getattr(one, name).select(columns).to_pylist() for one in alone]
        assert getattr(both, name).select(columns).to_pylist() == parts[0] + parts[1], name


@pytest.mark.parametrize(("place", "count"), [(0, 4), (3, 4), (100, 4)])
def test_earlier_places(place, count):
    row = {"dataset": "d", "sample_id": "s"}
    drawn = earlier_places(row, place, count, 7)
    assert len(set(drawn)) == len(drawn) == min(place, count) and all(0 <= p < place for p in drawn)
    assert drawn == earlier_places(row, place, count, 7)


def test_a_reservoir_is_a_uniform_draw():
    """Each of 12 pictures stays in a reservoir of 3 with probability 1/4: counts lie within 5 standard deviations."""
    from agents.circle import ContextPicture

    kept, draws = Counter(), 2000
    for seed in range(draws):
        reservoir = Reservoir(3, seed)
        for place in range(12):
            reservoir.offer(ContextPicture(place, {}, None), ["a"])
        assert len({c.number for c in reservoir.pictures}) == 3
        kept.update(c.number for c in reservoir.pictures)
    spread = math.sqrt(draws * 0.25 * 0.75)
    assert all(abs(kept[place] - draws / 4) < 5 * spread for place in range(12))


def test_a_picture_without_a_label_is_not_kept():
    reservoir = Reservoir(3, 0)
    reservoir.offer(None, [])
    assert reservoir.pictures == []
