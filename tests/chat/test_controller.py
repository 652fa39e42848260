"""How the number of requests in flight follows what the endpoint says."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from runner.models.chat.controller import EPISODE_SECONDS, Gate, Limit, PerLoop


class Clock:
    """Time that stands until told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def clean_round(limit: Limit) -> None:
    for _ in range(limit.value):
        limit.succeeded(limit.value)


def test_clean_rounds_double_until_the_first_rate_limit() -> None:
    clock = Clock()
    limit = Limit(100, clock)
    values = [limit.value]
    for _ in range(4):
        clean_round(limit)
        values.append(limit.value)
    assert values == [8, 16, 32, 64, 100]
    limit.limited()
    assert limit.value == 80
    clean_round(limit)
    assert limit.value == 84


def test_an_episode_cuts_once() -> None:
    clock = Clock()
    limit = Limit(8, clock)
    for _ in range(5):
        limit.limited()
    assert limit.value == 6
    clock.now = EPISODE_SECONDS
    limit.limited(retry_after=60.0)
    assert limit.value == 4
    clock.now += 59.0
    limit.limited()
    assert limit.value == 4
    clock.now += 1.0
    limit.limited()
    assert limit.value == 3


def test_an_idle_round_grows_nothing() -> None:
    limit = Limit(100, Clock())
    for _ in range(100):
        limit.succeeded(2)
    assert limit.value == 8


def test_server_errors_pause_growth_and_cut_nothing() -> None:
    clock = Clock()
    limit = Limit(100, clock)
    limit.faltered()
    clean_round(limit)
    assert limit.value == 8
    clock.now = EPISODE_SECONDS
    clean_round(limit)
    assert limit.value == 16


@given(st.integers(1, 50), st.lists(st.sampled_from(["ok", "limited", "faltered", "wait"]), max_size=200))
def test_the_limit_stays_within_its_bounds(most: int, events: list[str]) -> None:
    clock = Clock()
    limit = Limit(most, clock)
    for event in events:
        if event == "ok":
            limit.succeeded(limit.value)
        elif event == "limited":
            limit.limited()
        elif event == "faltered":
            limit.faltered()
        else:
            clock.now += EPISODE_SECONDS
        assert 1 <= limit.value <= most


async def test_the_gate_never_lets_too_many_in_and_forgets_nobody() -> None:
    gate = Gate(Limit(3))
    inside, most, done = 0, 0, 0

    async def visit(place: int) -> None:
        nonlocal inside, most, done
        async with gate.slot():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            done += 1

    tasks = [asyncio.create_task(visit(i)) for i in range(200)]
    await asyncio.sleep(0)
    for task in tasks[50:150:3]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3 and gate.in_flight == 0
    assert done == sum(end is None for end in ends)


async def test_who_holds_a_deadline_goes_first() -> None:
    gate = Gate(Limit(1))
    order: list[str] = []

    async def visit(name: str, ahead: bool) -> None:
        async with gate.slot(ahead=ahead):
            order.append(name)

    async with gate.slot():
        tasks = [asyncio.create_task(visit(name, name == "retry")) for name in ("first", "second", "retry")]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["retry", "first", "second"]


def test_each_event_loop_has_its_own() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    per_loop = PerLoop(make)

    async def twice() -> tuple[object, object]:
        return per_loop.get(), per_loop.get()

    first, second = asyncio.run(twice()), asyncio.run(twice())
    assert first[0] is first[1] and second[0] is second[1] and first[0] is not second[0]
    assert len(per_loop.take_all()) == 1
