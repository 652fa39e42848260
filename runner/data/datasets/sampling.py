"""Which pictures of a split are taken when not all are wanted."""

from __future__ import annotations

from collections import Counter

from runner.data.datasets.content import Content, Picture, share
from runner.data.datasets.specs import SPLITS, SplitCounts, count_of
from runner.errors import DataError

Counts = int | SplitCounts | None


def sample(name: str, content: Content, limit: Counts, per_class: Counts, seed: int) -> list[Picture]:
    """Draw from each split on its own; the order of the split is kept.

    Every picture has a number in [0, 1) from the seed and its ``sample_id``. ``per_class`` takes of each class the
    pictures with the smallest numbers (a stratified sample), then ``limit`` those of what is left (uniform, without
    replacement): a larger limit only adds pictures. 0 leaves a split out.
    Raises ``DataError`` where a split that is wanted ends up empty.
    """
    taken: list[Picture] = []
    for split in SPLITS:
        most, each = count_of(limit, split), count_of(per_class, split)
        rows = _draw([p for p in content.pictures if p.split == split], most, each, seed)
        named = any(isinstance(counts, SplitCounts) and getattr(counts, split) for counts in (limit, per_class))
        if not rows and 0 not in (most, each) and (split in content.splits or named):
            raise DataError(
                f"{name}: the split {split} has no picture",
                hint=f"`limit: {{{split}: 0}}` leaves it out; where splits are dealt out, change `fractions` or the seed.",
            )
        taken += rows
    if not taken:
        raise DataError(f"{name}: `limit` or `per_class` leave every split out")
    return taken


def _draw(rows: list[Picture], limit: int | None, per_class: int | None, seed: int) -> list[Picture]:
    if limit is None and per_class is None:
        return rows
    order = sorted(rows, key=lambda row: share("sample", seed, row.sample_id))
    if per_class is not None:
        seen: Counter[int] = Counter()
        kept = []
        for row in order:
            seen[row.class_index] += 1
            if seen[row.class_index] <= per_class:
                kept.append(row)
        order = kept
    chosen = {row.sample_id for row in order[:limit]}
    return [row for row in rows if row.sample_id in chosen]
