"""Pictures sorted by hand into TARGET/ATTRIBUTE/VALUE folders, in the shape that retrieval gives."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from results.tables import arrow_table
from retrieval.quality import DUPLICATE, REASONS
from retrieval.tables import Group
from runner.artifacts import RetrievedImages
from runner.context import StepContext
from runner.data.images import ImageLimits, UnreadableImage, decode
from runner.data.sources import Record, open_source
from runner.errors import DataError

_FAULTS = {"too_large": "large", "too_small": "small"}


def read_tree(
    ctx: StepContext,
    path: str,
    task: str,
    classes: list[str] | None,
    limits: ImageLimits,
    *,
    keep_duplicates: bool = False,
) -> RetrievedImages:
    """Every picture of the tree as a candidate of its group; unreadable ones and repeats in a group are rejected.

    Raises ``DataError`` where the folders are not classes of the task.
    """
    source = open_source({"folder_tree": path})
    rows: dict[Group, list[dict[str, Any]]] = {}
    first: dict[tuple[Group, str], str] = {}
    for record in ctx.track(source, unit="images"):
        group: Group = (record.metadata["target"], record.metadata["attribute"], record.metadata["value"])
        rows.setdefault(group, []).append(_row(record, group, first, limits, keep_duplicates))
    if source.problems.counts():
        ctx.warn(f"left out: {source.problems.counts()}", item=source.source_id)
    targets = sorted({target for target, _, _ in rows})
    return RetrievedImages(
        task=_task(task, targets, classes),
        targets=targets,
        corpus=[source.spec],
        encoder={},
        captions=arrow_table("c2b_caption", [_caption(number, group) for number, group in enumerate(rows)]),
        retrieval=_retrieval(rows),
        counts=_counts(rows),
    )


def _task(description: str, targets: list[str], classes: list[str] | None) -> dict[str, Any]:
    values = classes or targets
    missing = sorted(set(targets) - set(values))
    if missing:
        raise DataError(
            f"the folder {missing[0]!r} is no class of the task; classes: {', '.join(values)}",
            hint="Name the first folders like the classes.",
        )
    if len(values) < 2:
        raise DataError(
            f"a task needs at least two classes, found {len(values)}",
            hint="Give all classes of the classifier with `classes:`; folders are TARGET/ATTRIBUTE/VALUE/*.jpg.",
        )
    return {
        "description": description,
        "outputs": [{"name": "class", "type": "multi", "values": values, "caption_names": {}}],
    }


def _row(
    record: Record, group: Group, first: dict[tuple[Group, str], str], limits: ImageLimits, keep_duplicates: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {"source_id": record.source_id, "uri": record.uri, "reject_reason": None}
    try:
        decode(record.data, limits)
    except UnreadableImage as error:
        return {**row, "reject_reason": _FAULTS.get(error.reason, "undecodable")}
    found = first.setdefault((group, hashlib.sha256(record.data).hexdigest()), record.uri)
    if found == record.uri or keep_duplicates:
        return row
    return {**row, "reject_reason": REASONS[DUPLICATE], "duplicate_of": found}


def _caption_id(number: int) -> str:
    return f"folder-{number:05d}"


def _caption(number: int, group: Group) -> dict[str, Any]:
    target, attribute, value = group
    return {
        "resample": 0, "caption_id": _caption_id(number), "target": target, "attribute": attribute, "value": value,
        "text": f"{target}, {attribute}: {value}", "is_neutral": False, "status": "kept",
    }  # fmt: skip


def _retrieval(rows: dict[Group, list[dict[str, Any]]]) -> Any:
    listed = [
        {**row, "caption_id": _caption_id(number), "rank": rank, "kept": row["reject_reason"] is None}
        for number, found in enumerate(rows.values())
        for rank, row in enumerate(found)
    ]
    return arrow_table("c2b_retrieval", listed)


def _counts(rows: dict[Group, list[dict[str, Any]]]) -> Any:
    listed = []
    for (target, attribute, value), found in rows.items():
        reasons = [row["reject_reason"] for row in found]
        rejected = {reason: reasons.count(reason) for reason in sorted({r for r in reasons if r})}
        listed.append({
            "target": target, "attribute": attribute, "value": value, "fetched": len(found),
            "kept": reasons.count(None), "rejected": json.dumps(rejected),
        })  # fmt: skip
    return arrow_table("c2b_retrieval_count", listed)
