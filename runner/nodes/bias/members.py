"""Which picture stands in which group, and what was counted there. Pure; plain rows in, plain rows out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from runner.data.places import Place
from runner.nodes.bias.grid import NOT_CHECKED, CheckedShares, GroupCounts, GroupName, ValueSource
from runner.nodes.bias.statistics import sanity_gate

Row = dict[str, Any]
IsRight = Callable[[str, Place], bool | None]


class Doubt(NamedTuple):
    """Whether a group's value can be told apart in the pictures (None = not tested), and why not."""

    separable: bool | None = None
    reason: str = ""


class Member(NamedTuple):
    """One picture in one group; ``attribute`` and ``value`` are None for neutral pictures.

    ``caption_id``: the caption that found it, or the measurement that put it there.
    """

    resample: int
    target: str
    attribute: str | None
    value: str | None
    caption_id: str
    place: Place
    similarity: float | None
    value_source: ValueSource = "caption"

    @property
    def group(self) -> GroupName | None:
        """The group; None for neutral pictures."""
        if self.attribute is None or self.value is None:
            return None
        return GroupName(self.target, self.attribute, self.value, self.value_source)


def members_of(captions: Iterable[Row], kept: Iterable[Row]) -> list[Member]:
    """Join kept rows of ``c2b_retrieval`` with their captions; a picture counts once a group, under its nearest caption."""
    by_id = {row["caption_id"]: row for row in captions}
    best: dict[tuple[Any, ...], Member] = {}
    for row in kept:
        caption = by_id[row["caption_id"]]
        group = (caption["resample"], caption["target"], caption["attribute"], caption["value"])
        place = Place(row["source_id"], row["uri"])
        member = Member(*group, row["caption_id"], place, row["similarity"])
        known = best.get((*group, place))
        if known is None or _order(member) < _order(known):
            best[*group, place] = member
    return sorted(best.values(), key=member_order)


def member_order(m: Member) -> tuple[Any, ...]:
    """By group, the nearest to its caption first."""
    return m.resample, m.target, m.attribute or "", m.value or "", m.value_source, _order(m)


def _order(member: Member) -> tuple[Any, ...]:
    """Nearest first; ties by name, so that nothing depends on the order of shards."""
    nearness = -member.similarity if member.similarity is not None else 0.0
    return nearness, member.place, member.caption_id


def group_names(captions: Iterable[Row]) -> list[GroupName]:
    """All groups that captions were written for, also those that no picture was found for."""
    names = {(c["target"], c["attribute"], c["value"]) for c in captions if c["attribute"] is not None}
    return [GroupName(*name) for name in sorted(names)]


def count_groups(
    names: Iterable[GroupName],
    members: Iterable[Member],
    is_right: IsRight,
    checked: Mapping[GroupName, CheckedShares] | None = None,
    doubts: Mapping[GroupName, Doubt] | None = None,
) -> list[GroupCounts]:
    """Counts per group and caption. ``is_right`` says None for pictures without a prediction; these count nowhere.

    ``doubts``: what was found out about telling the values apart.
    """
    captions: dict[GroupName, dict[str, list[int]]] = {name: {} for name in names}
    similarity: dict[GroupName, list[float]] = {name: [] for name in captions}
    for m in members:
        right = is_right(m.target, m.place)
        name = m.group
        if name is None or right is None:
            continue
        count = captions[name].setdefault(m.caption_id, [0, 0])
        count[0] += right
        count[1] += 1
        if m.similarity is not None:
            similarity[name].append(m.similarity)
    return [
        GroupCounts(
            name,
            tuple((k, n) for _, (k, n) in sorted(found.items())),
            sum(similarity[name]) / len(similarity[name]) if similarity[name] else float("nan"),
            (checked or {}).get(name, NOT_CHECKED),
            *(doubts or {}).get(name, Doubt()),
        )
        for name, found in captions.items()
    ]


def gate_rows(
    members: Iterable[Member], is_right: IsRight, targets: Sequence[str], chance: float, confidence: float
) -> list[Row]:
    """Rows of ``c2b_gate`` from neutral pictures: all targets together first (target None), then each."""
    counts = {target: [0, 0] for target in targets}
    for m in members:
        right = is_right(m.target, m.place)
        if m.attribute is None and right is not None:
            counts[m.target][0] += right
            counts[m.target][1] += 1
    k, n = (sum(count[i] for count in counts.values()) for i in (0, 1))
    each = [_gate_row(t, right, images, chance, confidence) for t, (right, images) in counts.items()]
    return [_gate_row(None, k, n, chance, confidence), *({**row, "passed": None} for row in each)]


def _gate_row(target: str | None, k: int, n: int, chance: float, confidence: float) -> Row:
    gate = sanity_gate(k, n, chance, confidence)
    known = n > 0
    return {
        "target": target, "n": n, "k": k, "acc": gate.acc if known else None, "wilson_low": gate.low if known else None,
        "wilson_high": gate.high if known else None, "chance": chance, "passed": gate.passed,
    }  # fmt: skip


def pick_examples(members: Iterable[Member], is_right: IsRight, per_group: int) -> list[Member]:
    """Pictures to show for each group: wrong and right ones by halves, nearest to their caption first."""
    groups: dict[GroupName, tuple[list[Member], list[Member]]] = {}
    for m in members:
        right = is_right(m.target, m.place)
        if m.group is not None and right is not None:
            groups.setdefault(m.group, ([], []))[right].append(m)
    picked: list[Member] = []
    for wrong, right_ones in groups.values():
        wrong.sort(key=_order)
        right_ones.sort(key=_order)
        share = max(per_group - per_group // 2, per_group - len(right_ones))
        chosen = wrong[:share]
        picked += chosen + right_ones[: per_group - len(chosen)]
    return picked
