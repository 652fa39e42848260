"""What a layout finds before items are drawn and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner.data.benchmarks.building import is_id, is_text
from runner.data.benchmarks.files import Skipped

Item = dict[str, Any]


class Raw(NamedTuple):
    """A record with the id it has in its file, its pictures (paths below the picture folder, or uris), and what shares its picture."""

    item_id: str
    record: dict[str, Any]
    uris: list[str]
    group: str | None = None


@dataclass
class Found:
    """Items of a benchmark as read: rows of ``vqa_item`` but for ``benchmark``; ``corpus``: source specs, the first one named as the items
    say. ``unpack``: writes pictures of the drawn items out, and gives the items with
    their places. ``n_total`` counts all items of the split, also those left out."""

    items: list[Item]
    corpus: list[dict[str, Any]]
    n_total: int
    unpack: Callable[[Item], Item] | None = None
    skipped: Skipped = field(default_factory=Skipped)
    notes: list[str] = field(default_factory=list)


def read_items(raws: Iterable[Raw], read: Callable[[dict[str, Any]], Item], skipped: Skipped) -> Iterator[Item]:
    """Items of records; what is malformed, or stands twice, goes to ``skipped``."""
    seen: set[str] = set()
    for raw in raws:
        try:
            item = read(raw.record)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            what = str(error.args[0] if error.args else error)
            skipped.add(f"malformed ({' '.join(what.split())[:100]})", raw.item_id)
            continue
        item |= {"item_id": raw.item_id, "uris": raw.uris, "pair_id": raw.group}
        if not all(map(is_text, _texts_of(item))):
            skipped.add("text that is not Unicode", raw.item_id.encode(errors="replace").decode())
            continue
        if not is_id(raw.item_id):
            skipped.add("the id is not one printable line of 1 to 500 characters", raw.item_id)
            continue
        if raw.item_id in seen:
            skipped.add("the id stands twice", raw.item_id)
            continue
        seen.add(raw.item_id)
        yield item


def _texts_of(item: Item) -> Iterator[str]:
    for value in item.values():
        yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str))
