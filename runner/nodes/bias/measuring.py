"""Each picture is read and measured once, whatever the number of captions that found it.

Measurements are kept in the item cache by (measurement, its version, bytes of the picture). Decoding and measuring run in
threads; reading goes on meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from runner.context import StepContext, item_key
from runner.data.images import UnreadableImage, decode
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.nodes.bias.measures import MEASURES, reduced, take_all

Taken = dict[str, float | str | None]

_AHEAD = 64


def measure_pictures(
    ctx: StepContext, corpus: Sequence[dict[str, Any]], wanted: Mapping[Place, Iterable[str]]
) -> dict[Place, Taken]:
    """The wanted measurements of each picture, by name; None where one cannot be taken (unreadable, too small, no object)."""
    found: dict[Place, Taken] = {place: dict.fromkeys(sorted(names)) for place, names in wanted.items()}
    if not found:
        return found
    ctx.advance("images", 0, len(found))
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="measure") as pool:
        for place, result in _in_order(ctx, pool, read_pictures(open_sources(list(corpus)), found), found):
            found[place] = result
            ctx.advance("images", 1)
    return found


def _in_order(
    ctx: StepContext, pool: ThreadPoolExecutor, pictures: Iterable[tuple[Place, bytes]], wanted: Mapping[Place, Taken]
) -> Iterator[tuple[Place, Taken]]:
    """Results in the order of the pictures, at most ``_AHEAD`` of them under way."""
    waiting: deque[tuple[Place, Future[Taken]]] = deque()
    for place, data in pictures:
        ctx.check()
        waiting.append((place, pool.submit(_measured, ctx, data, tuple(wanted[place]))))
        if len(waiting) >= _AHEAD:
            first, future = waiting.popleft()
            yield first, future.result()
    for place, future in waiting:
        yield place, future.result()


def _measured(ctx: StepContext, data: bytes, names: tuple[str, ...]) -> Taken:
    """Measure one picture, what is not in the cache."""
    content = hashlib.sha256(data).hexdigest()
    keys = {name: item_key("c2b.measure", name, MEASURES[name].version, content) for name in names}
    stored = {name: ctx.items.get(key) for name, key in keys.items()}
    taken: Taken = {name: json.loads(value) for name, value in stored.items() if value is not None}
    missing = tuple(name for name in names if name not in taken)
    if missing:
        fresh = _fresh(data, missing)
        for name, value in fresh.items():
            ctx.items.put(keys[name], json.dumps(value).encode())
        taken |= fresh
    return {name: taken[name] for name in names}


def _fresh(data: bytes, names: tuple[str, ...]) -> Taken:
    try:
        pixels = reduced(decode(data))
    except (UnreadableImage, ValueError):
        return dict.fromkeys(names)
    # NaN (nothing to measure) is not equal to itself, and no JSON.
    return {name: value if value == value else None for name, value in take_all(pixels, names).items()}
