"""pydantic's error list, settled: one complaint a place, with unions reduced to the member that was meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from runner.spec.explain import Explained, explain
from runner.spec.fill import MARK
from runner.spec.locate import Place, locate
from runner.spec.slots import PLAIN_LABEL, REFERENCE_LABEL
from runner.spec.source import Path

_ABSENT = ("missing", "union_tag_not_found")


@dataclass(frozen=True)
class Complaint:
    """One thing pydantic objects to: its kind, the place in the value, pydantic's own ``loc``, what was found there."""

    kind: str
    path: Path
    loc: tuple[str | int, ...]
    labels: tuple[tuple[int, str], ...]
    found: Any
    explained: Explained


def complaints(error: ValidationError, body: Any) -> list[Complaint]:
    """The complaints of ``error`` about ``body``, one for each place that is wrong."""
    entries = error.errors(include_url=False)
    kept = [entry for entry in entries if _counts(entry["loc"], body)]
    return _settled([_complaint(entry, body) for entry in kept])


def _complaint(entry: Any, body: Any) -> Complaint:
    loc = tuple(step for step in entry["loc"] if step not in (PLAIN_LABEL, REFERENCE_LABEL))
    kind = str(entry["type"])
    if kind == "union_tag_not_found":
        loc = (*loc, entry["ctx"]["discriminator"].strip("'"))
    place = locate(body, loc, missing=kind in _ABSENT)
    if kind == "union_tag_invalid":
        place = Place((*place.path, entry["ctx"]["discriminator"].strip("'")), place.labels)
    found = entry["ctx"]["tag"] if kind == "union_tag_invalid" else entry.get("input")
    return Complaint(kind, place.path, loc, place.labels, found, explain(entry))


def _counts(loc: tuple[str | int, ...], body: Any) -> bool:
    """Of a parameter that takes references or plain values, keep the errors of the kind that was meant."""
    if len(loc) < 2 or loc[1] not in (PLAIN_LABEL, REFERENCE_LABEL):
        return True
    value = body.get(loc[0])
    parts = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    meant = any(isinstance(part, str) and part.startswith(MARK) for part in parts)
    return (loc[1] == REFERENCE_LABEL) == meant and not (meant and len(loc) == 2)


def _settled(found: list[Complaint]) -> list[Complaint]:
    """Resolve the outermost union of each place, then those inside it."""
    groups: dict[Any, list[Complaint]] = {}
    for complaint in found:
        depth = complaint.labels[0][0] if complaint.labels else None
        key = complaint.loc if depth is None else (depth, complaint.path[:depth])
        groups.setdefault((depth is None, key), []).append(complaint)
    done: list[Complaint] = []
    for (is_plain, _), group in groups.items():
        done += group if is_plain else _one_member(group)
    return done


def _one_member(group: list[Complaint]) -> list[Complaint]:
    """The complaints of the member of a union that fits best, or one that names all members."""
    depth = group[0].labels[0][0]
    members: dict[str, list[Complaint]] = {}
    for complaint in group:
        members.setdefault(complaint.labels[0][1], []).append(_inside(complaint))
    inside = [member for member in members.values() if not any(_at_root(c, depth) for c in member)]
    if inside:
        return _settled(min(inside, key=lambda m: (-max(len(c.path) for c in m), len(m))))
    roots = [c for member in members.values() for c in member if _at_root(c, depth)]
    return [_joined(roots)] if len(roots) > 1 else _settled(roots)


def _at_root(complaint: Complaint, depth: int) -> bool:
    return len(complaint.path) <= depth and not (complaint.labels and complaint.labels[0][0] > depth)


def _inside(complaint: Complaint) -> Complaint:
    return Complaint(
        complaint.kind, complaint.path, complaint.loc, complaint.labels[1:], complaint.found, complaint.explained
    )


def _joined(roots: list[Complaint]) -> Complaint:
    """One complaint that says everything that could have stood there."""
    telling = [c for c in roots if c.explained.code != "wrong-type"]
    best = telling[0] if telling else roots[0]
    if best.explained.sentence:
        return best
    expected = list(dict.fromkeys(c.explained.expected for c in roots if c.explained.expected))
    text = " or ".join([", ".join(expected[:-1]), expected[-1]] if len(expected) > 1 else expected)
    return Complaint(best.kind, best.path, best.loc, (), best.found, best.explained._replace(expected=text))
