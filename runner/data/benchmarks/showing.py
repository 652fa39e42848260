"""Small pictures of the first questions of each benchmark, for pages that show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from runner.artifacts import VqaItems
from runner.data.datasets.loading import thumbnails_of
from runner.data.places import Place
from runner.data.sources import open_sources


def with_thumbnails(items: VqaItems, count: int, warn: Callable[[str, str], None]) -> VqaItems:
    """The items with a thumbnail of the first picture of the first ``count`` of each benchmark.

    ``warn(text, uri)`` is told of pictures that cannot be read; their items have none.
    """
    places = _first(items.items, count)
    wanted = list(dict.fromkeys(place for place in places if place is not None))
    sources = open_sources([dict(spec) for spec in items.corpus]) if wanted else []
    small = thumbnails_of(sources, wanted, warn)
    column = pa.array([None if place is None else small.get(place) for place in places], pa.binary())
    at = items.items.schema.get_field_index("thumbnail")
    return replace(items, items=items.items.set_column(at, items.items.schema.field(at), column))


def _first(rows: pa.Table, count: int) -> list[Place | None]:
    """The first picture's place for the first ``count`` rows of each benchmark; None for the others and without pictures."""
    seen: Counter[str] = Counter()
    found: list[Place | None] = []
    for row in rows.select(["benchmark", "source_id", "uris"]).to_pylist():
        seen[row["benchmark"]] += 1
        shown = seen[row["benchmark"]] <= count and row["uris"]
        found.append(Place(row["source_id"], row["uris"][0]) if shown else None)
    return found
