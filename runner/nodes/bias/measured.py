"""From bindings and measurements to groups: rows of ``c2b_measurement``, ``c2b_bin``, ``c2b_measured_member``. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from runner.artifacts import CheckedTargets
from runner.data.places import Place
from runner.naming import normalised
from runner.nodes.bias.binning import Binned, Middle, category_bins, cut_bins, placed, quantile_bins
from runner.nodes.bias.matching import comparable, matched, thinned
from runner.nodes.bias.measures import MEASURES, Measure
from runner.nodes.bias.seeds import seed_of
from runner.nodes.bias.verification import Answers, precision_rows, quality_of

Row = dict[str, Any]
Taken = Mapping[str, Any]
Match = Literal["source", "none"]


class CutsMisfit(ValueError):
    """Cuts that the user gave do not suit their attribute."""


class Bound(NamedTuple):
    """An attribute of a target with its measurement; values from low to high, or each naming its category."""

    target: str
    attribute: str
    measure: Measure
    values: tuple[str, ...]

    def categories(self) -> dict[str, str]:
        """Value -> category, of a measurement that gives names."""
        named = {value: self.measure.category_named(value) for value in self.values}
        return {value: category for value, category in named.items() if category is not None}


class Pool(NamedTuple):
    """A target's pictures: those that are assessed, and those that the verifier refused. Sorted."""

    pictures: tuple[Place, ...]
    refused: tuple[Place, ...] = ()


class Group(NamedTuple):
    """One value of a bound attribute with its pictures, and the refused ones that measure alike."""

    bound: Bound
    value: str
    pictures: tuple[Place, ...]
    refused: tuple[Place, ...]


class Formed(NamedTuple):
    """Rows of the three tables, the groups behind them, and which attributes gave none, with the reason."""

    measurements: list[Row]
    bins: list[Row]
    members: list[Row]
    groups: list[Group]
    unformed: list[tuple[Bound, str]]


def bound_attributes(rows: Iterable[Row]) -> list[Bound]:
    """The attributes that have a measurement, from rows of ``c2b_binding``."""
    return [
        Bound(r["target"], r["attribute"], MEASURES[r["measure"]], tuple(r["bias_values"]))
        for r in rows
        if r["measure"] is not None
    ]


def pools_of(
    captions: Iterable[Row], retrieval: Iterable[Row], checked: CheckedTargets | None = None
) -> dict[str, Pool]:
    """Each target's pictures: kept for any of its captions, neutral ones included; apart, those that the verifier refused."""
    target_of = {row["caption_id"]: row["target"] for row in captions}
    kept: dict[str, set[Place]] = {}
    for row in retrieval:
        if row["kept"]:
            kept.setdefault(target_of[row["caption_id"]], set()).add(_place(row))
    refused = set()
    if checked is not None and checked.rejects:
        refused = {(row["target"], _place(row)) for row in checked.checks.to_pylist() if row["shows"] is False}
    return {
        target: Pool(
            tuple(sorted(p for p in places if (target, p) not in refused)),
            tuple(sorted(p for p in places if (target, p) in refused)),
        )
        for target, places in kept.items()
    }


def wanted_of(bound: Iterable[Bound], pools: Mapping[str, Pool]) -> dict[Place, set[str]]:
    """Which measurements each picture needs, by name."""
    wanted: dict[Place, set[str]] = {}
    for b in bound:
        pool = pools.get(b.target, Pool(()))
        for place in (*pool.pictures, *pool.refused):
            wanted.setdefault(place, set()).add(b.measure.name)
    return wanted


def form_groups(
    bound: Sequence[Bound],
    pools: Mapping[str, Pool],
    found: Mapping[Place, Taken],
    middle: Middle = "drop",
    cuts: Mapping[str, Sequence[float]] | None = None,
    *,
    match: Match = "source",
    seed: int = 0,
) -> Formed:
    """Cut each attribute's measurements into its values. Refused pictures move no edge. Raises ``CutsMisfit``.

    ``match='source'``: every source has the same number of pictures in each group (see ``matching``).
    """
    chosen = {normalised(attribute): edges for attribute, edges in (cuts or {}).items()}
    unknown = set(chosen) - {normalised(b.attribute) for b in bound if not b.measure.is_category}
    if unknown:
        raise CutsMisfit(f"cuts are given for {min(unknown)!r}, which is bound to no measurement in numbers")
    formed = Formed(_measurement_rows(found), [], [], [], [])
    for b in bound:
        pool = pools.get(b.target, Pool(()))
        own = chosen.get(normalised(b.attribute))
        done = _binned(b, _taken(b, pool.pictures, found), middle, own)
        if match == "source" and done.bins:
            pool = _comparable(pool, done)
            every = _binned(b, _taken(b, pool.pictures, found), middle, own)
            done, pool = _matched(b, every, pool, found, seed_of(seed, "measured", b.target, b.attribute))
        if done.reason is not None:
            formed.unformed.append((b, done.reason))
        formed.bins.extend(_bin_rows(b, done))
        groups = _groups(b, done, pool, found)
        formed.groups.extend(groups)
        formed.members.extend(row for group in groups for row in _member_rows(group, found))
    return formed


def _comparable(pool: Pool, done: Binned) -> Pool:
    """Without the sources that have no pictures for one of the values."""
    known = comparable(done.place, [place.source_id for place in pool.pictures], len(done.bins))
    return Pool(*(tuple(place for place in places if place.source_id in known) for places in pool))


def _matched(b: Bound, every: Binned, pool: Pool, found: Mapping[Place, Taken], seed: int) -> tuple[Binned, Pool]:
    """With the same number of pictures of every source in each bin; refused pictures are thinned alike."""
    sources, refused = ([place.source_id for place in places] for places in pool)
    at = matched(every.place, sources, len(every.bins), seed)
    if not (at >= 0).any():
        return Binned((), at, every.pool, every.reason or "no source of pictures shows every value"), pool
    counts = np.bincount(at[at >= 0], minlength=len(every.bins))
    within = "; compared within each source" if len(set(sources)) > 1 else ""
    bins = tuple(replace(one, n=int(n), rule=one.rule + within) for one, n in zip(every.bins, counts, strict=True))
    places = placed(every.bins, _taken(b, pool.refused, found))
    left = thinned(places, refused, every.place, at, sources, seed)
    kept = tuple(place for place, group in zip(pool.refused, left, strict=True) if group >= 0)
    return Binned(bins, at, every.pool, every.reason), Pool(pool.pictures, kept)


def _taken(b: Bound, places: Iterable[Place], found: Mapping[Place, Taken]) -> list[Any]:
    return [found[place][b.measure.name] for place in places]


def _binned(b: Bound, taken: Sequence[Any], middle: Middle, cuts: Sequence[float] | None) -> Binned:
    if b.measure.is_category:
        return category_bins(taken, b.categories())
    numbers = np.array([np.nan if value is None else value for value in taken], np.float64)
    if cuts is None:
        return quantile_bins(numbers, b.values, middle)
    try:
        return cut_bins(numbers, b.values, cuts)
    except ValueError as error:
        raise CutsMisfit(f"{b.attribute}: {error}") from None


def _groups(b: Bound, done: Binned, pool: Pool, found: Mapping[Place, Taken]) -> list[Group]:
    refused = placed(done.bins, _taken(b, pool.refused, found))
    return [
        Group(
            b,
            bin_.value,
            tuple(place for place, at in zip(pool.pictures, done.place, strict=True) if at == i),
            tuple(place for place, at in zip(pool.refused, refused, strict=True) if at == i),
        )
        for i, bin_ in enumerate(done.bins)
    ]


def _measurement_rows(found: Mapping[Place, Taken]) -> list[Row]:
    return [
        {**place._asdict(), "measure": name, **_value(MEASURES[name], value)}
        for place, taken in sorted(found.items())
        for name, value in taken.items()
    ]


def _value(measure: Measure, value: Any) -> Row:
    return {"measured": None, "category": value} if measure.is_category else {"measured": value, "category": None}


def _name(b: Bound, value: str) -> Row:
    return {"target": b.target, "attribute": b.attribute, "value": value, "measure": b.measure.name}


def _bin_rows(b: Bound, done: Binned) -> list[Row]:
    return [
        {
            **_name(b, bin_.value), "unit": b.measure.unit, "low": bin_.low, "high": bin_.high, "category": bin_.category,
            "n": bin_.n, "pool": done.pool, "rule": bin_.rule,
        }
        for bin_ in done.bins
    ]  # fmt: skip


def _member_rows(group: Group, found: Mapping[Place, Taken]) -> list[Row]:
    measure = group.bound.measure
    return [
        {**_name(group.bound, group.value), **place._asdict(), "measured": _value(measure, found[place][measure.name])["measured"]}
        for place in group.pictures
    ]  # fmt: skip


def measured_precisions(groups: Iterable[Group], checked: CheckedTargets | None) -> list[Row]:
    """Rows of ``c2b_precision`` of the measured groups, from what the verifier said of their pictures; none without one."""
    if checked is None:
        return []
    shows = {(row["target"], _place(row)): row["shows"] for row in checked.checks.to_pylist()}
    scores = {(r["target"], _place(r)): r["score"] for r in checked.checks.to_pylist() if r["score"] is not None}
    said = {(r["target"], r["attribute"], _place(r)): r["value"] for r in checked.value_checks.to_pylist()}
    qualities = {row["target"]: quality_of(row) for row in checked.verifier.to_pylist()}
    answers = [_answers(group, shows, scores, said) for group in groups]
    return precision_rows(answers, qualities, reject=checked.rejects)


def _answers(
    group: Group, shows: Mapping[Any, bool | None], scores: Mapping[Any, float], said: Mapping[Any, str | None]
) -> Answers:
    target, attribute = group.bound.target, group.bound.attribute
    places = [(target, place) for place in (*group.pictures, *group.refused)]
    found = [shows.get(place) for place in places]
    values = [said[target, attribute, place] for place in group.pictures if (target, attribute, place) in said]
    return Answers(
        target, attribute, group.value, "measured", found.count(True), found.count(False), found.count(None),
        len(values), values.count(group.value), tuple(scores[place] for place in places if place in scores),
    )  # fmt: skip


def _place(row: Row) -> Place:
    return Place(row["source_id"], row["uri"])
