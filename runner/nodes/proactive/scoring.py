"""Scores of several models on the same samples, each beside the exact value of uniform guessing, and paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np

from runner.errors import DataError, UsageError
from runner.nodes.proactive import metrics
from runner.nodes.proactive.metrics import Estimate, Numbers, Ratio, Values
from runner.nodes.proactive.records import SCENARIOS
from runner.nodes.proactive.score_reading import KINDS, LISTED, Drawings, Entry, Samples
from runner.nodes.proactive.uniform import UniformColumns

Row = dict[str, Any]
Columns = Mapping[str, Values]

PLAYED = ("mcqa", "person", "exact", "oeg_multiturn")
"""Modes in which requests are met, so that accuracy and psr mean the same."""
OPEN = ("oeg", "oeg_multiturn")
ENDS = ("frames", "exact")
SHARES = {
    "asked": (0, 1), "asked_valid": (0,), "asked_invalid": (1,), "abstained": (2,), "predicted": (3, 4), "predicted_right": (3,),
    "predicted_wrong": (4,), "unreadable": (5,),
}  # fmt: skip
"""Shares of turns: columns of ``KINDS`` that each counts."""
SHARED = ("mcqa", "person", "reference")
"""Modes of which every turn is told; where there are categories only, all but the unreadable are predictions."""
COMPARED = ("acc", "psr", "discrimination")


class Scenario(NamedTuple):
    """One entry's samples [n] of one scenario: ``names`` in order, ``columns`` by sample (means over draws; ``most_requests``: that can be met),
    ``group``: what is resampled together, ``episodes``: that are no failures."""

    names: list[str]
    columns: Columns
    group: Numbers
    episodes: int
    n_error: int


def by_scenario(entry: Entry, samples: Samples, drawings: Drawings) -> dict[str, Scenario]:
    """The entry's samples by scenario; a scenario of failures only has none."""
    episodes = episode_columns(entry)
    found = {}
    for scenario in entry.scenarios:
        rows = np.flatnonzero(entry.scenario == SCENARIOS.index(scenario))
        names, of = np.unique(entry.sample[rows].astype(str), return_inverse=True)
        columns = {name: _means(values[rows], of, len(names)) for name, values in episodes.items()}
        turns = [samples[scenario, name]["max_turns"] for name in names.tolist()]
        columns["most_requests"] = np.array(turns, np.float64) - 1
        group = drawings.of(scenario, names.tolist())
        found[scenario] = Scenario(names.tolist(), columns, group, len(rows), entry.n_error.get(scenario, 0))
    return found


def _means(values: Values, of: Numbers, size: int) -> Values:
    """Means by sample [size] of the draws that have a value; NaN where none has."""
    known = ~np.isnan(values)
    count = np.bincount(of[known], minlength=size)
    total = np.bincount(of[known], values[known], size)
    return np.asarray(np.divide(total, count, out=np.full(size, np.nan), where=count > 0), np.float64)


def episode_columns(entry: Entry) -> dict[str, Values]:
    """All that metrics need, by episode [E]: its own columns, ``after`` (success after a request), ``kind_i`` (turns of each kind), ``first_i`` (what
    the first turn came down to), ``ask_first``, ``ask_last`` (requests at both ends of the way; NaN where it has one frame, or
    shows no request there: a growing crop withdraws them all at its last view)."""
    size, turns = len(entry.scenario), entry.turns.taken(~entry.turns.forced)
    columns = dict(entry.columns)
    at_first = np.full((size, len(KINDS)), np.nan)
    at_first[turns.episode[turns.turn == 1]] = turns.kinds[turns.turn == 1]
    answered = turns.taken(~np.isnan(turns.kinds[:, 0]))
    counted = [np.bincount(answered.episode, answered.kinds[:, i], size) for i in range(len(KINDS))]
    totals = np.stack(counted, 1).astype(np.float64)
    for i in range(len(KINDS)):
        columns |= {f"kind_{i}": totals[:, i], f"first_{i}": at_first[:, i]}
    if entry.mode == "exact":
        right = np.full(size, np.nan)
        right[turns.episode[turns.turn == 1]] = turns.right[turns.turn == 1]
        columns["first"] = right
        columns["after"] = columns["success"] - at_first[:, KINDS.index("category_true")]
    else:
        columns["after"] = np.where(columns["interventions"] > 0, columns["success"], 0.0)
    low, high = np.full(size, np.iinfo(np.int64).max), np.zeros(size, np.int64)
    np.minimum.at(low, turns.episode, turns.turn)
    np.maximum.at(high, turns.episode, turns.turn)
    for name, end in (("ask_first", low), ("ask_last", high)):
        there = (turns.turn == end[turns.episode]) & (low < high)[turns.episode] & turns.can_ask
        columns[name] = np.full(size, np.nan)
        columns[name][turns.episode[there]] = turns.asks[there]
    return columns


def ratios_of(mode: str, columns: Columns) -> dict[str, Ratio]:
    """The metrics that a mode has, in order; also of the uniform policy's columns."""
    c, found = columns, dict[str, Ratio]()
    mean = metrics.mean_of
    if mode in PLAYED or mode == "reference":
        found["acc"] = mean(c["success"])
    if mode in PLAYED:
        most = float(np.max(c["most_requests"], initial=0.0)) if "most_requests" in c else 0.0
        found |= {"psr": mean(c["interventions"], 1.0, ends=(0.0, most)), "exhausted": mean(c["exhausted"])}
        known = ~np.isnan(c["after"])
        met = np.where(known, c["interventions"], 0.0)
        found["success_per_request"] = metrics.success_per_request(np.where(known, c["after"], 0.0), met)
    if mode in LISTED and mode not in ("frames", "reference"):
        found["first_turn_acc"] = mean(c["first"])
        for name, kinds in _WHOLE.items():
            found[f"first_{name}"] = mean(sum((c[f"first_{i}"] for i in kinds), np.zeros(len(c["success"]))))
    if mode in SHARED:
        total = sum((c[f"kind_{i}"] for i in range(len(KINDS))), np.zeros(len(c["success"])))
        told = SHARES if mode != "reference" else {"unreadable": SHARES["unreadable"]}
        for name, kinds in told.items():
            found[name] = Ratio(sum((c[f"kind_{i}"] for i in kinds), np.zeros(len(total))), total)
    if mode in ENDS:
        both = ~np.isnan(c["ask_first"] + c["ask_last"])
        first, last = (np.where(both, c[name], 0.0) for name in ("ask_first", "ask_last"))
        found["discrimination"] = metrics.discrimination(first, last)._replace(below=both.astype(np.float64))
        found |= {"asked_at_first": mean(c["ask_first"]), "asked_at_last": mean(c["ask_last"])}
    if mode in OPEN:
        found |= {name: mean(c[name]) for name in ("ps", "cc", "agg")}
    return found


_WHOLE = {name: SHARES[name] for name in ("asked", "abstained", "predicted", "unreadable")}
"""Shares that add up to all turns."""


# --- rows ------------------------------------------------------------------------------------------------------------


class Drawn(TypedDict):
    """Settings of draws."""

    groups: int | None
    seed: list[int]


class Scored(NamedTuple):
    """An entry with its samples and the ratios of its metrics, by scenario, and what is resampled together."""

    entry: Entry
    scenarios: dict[str, Scenario]
    ratios: dict[str, dict[str, Ratio]]
    drawings: Drawings

    def drawn(self, seed: int, name: str) -> Drawn:
        """How the samples of a scenario are drawn."""
        return {"groups": self.drawings.groups, "seed": self.drawings.seed(seed, name)}


def scored(entry: Entry, samples: Samples) -> Scored:
    """The entry's samples and ratios."""
    drawings = Drawings(entry, samples)
    scenarios = by_scenario(entry, samples, drawings)
    ratios = {name: ratios_of(entry.mode, found.columns) for name, found in scenarios.items()}
    return Scored(entry, scenarios, ratios, drawings)


def metric_rows(one: Scored, references: Sequence[Scored], uniform: UniformColumns, seed: int) -> list[Row]:
    """Rows of ``pb_metrics`` of one entry: by scenario, then their plain means. ``references``: entries of mode ``reference``, of which that of the
    same label, else the only one of the same model, says what could be reached."""
    entry = one.entry
    beside = _reference_of(one, references)
    found: dict[str, dict[str, Estimate]] = {}
    rows: dict[str, list[Row]] = {}
    for name, scenario in one.scenarios.items():
        ratios, drawn = one.ratios[name], one.drawn(seed, name)
        measured = metrics.estimates(list(ratios.values()), scenario.group, **drawn)
        estimates = dict(zip(ratios, measured, strict=True))
        if "discrimination" in ratios:
            first, last = _ends(scenario.columns)
            estimates["discrimination"] = metrics.difference(first, last, scenario.group, **drawn)
        counts = {metric: _count(metric, ratio, scenario) for metric, ratio in ratios.items()}
        guessed = ratios_of(entry.mode, uniform.columns(entry, name, scenario.names))
        chance = {metric: _value(ratio) for metric, ratio in guessed.items() if uniform.knows(entry.mode, metric)}
        if name in entry.unread:
            estimates["judge_failed"], counts["judge_failed"] = _judge_failed(one, name, seed)
        if beside is not None and name in beside.scenarios:
            _add_reference(one, beside, name, seed, estimates, counts)
            chance |= _guessed_reference(one, beside, name, uniform)
        found[name] = estimates
        rows[name] = [
            _row(entry, name, metric, estimate, counts[metric], scenario.n_error, chance.get(metric))
            for metric, estimate in estimates.items()
        ]
    return [row for part in rows.values() for row in part] + _macro_rows(entry, found, rows)


def _ends(columns: Columns) -> tuple[Ratio, Ratio]:
    """Requests at both ends of the way, of samples that have both: where all agree, each end keeps the uncertainty that so few leave."""
    both = ~np.isnan(columns["ask_first"] + columns["ask_last"])
    first, last = (metrics.mean_of(np.where(both, columns[name], np.nan)) for name in ("ask_first", "ask_last"))
    return first, last


def _judge_failed(one: Scored, name: str, seed: int) -> tuple[Estimate, int]:
    """Percent of the judged samples of which the judge's reply could not be read, whether that made them failures or not."""
    unread = one.entry.unread[name]
    group = one.drawings.of(name, list(unread))
    ratio = metrics.mean_of(list(unread.values()))
    return metrics.estimates([ratio], group, **one.drawn(seed, name))[0], len(unread)


def _macro_rows(
    entry: Entry, found: Mapping[str, Mapping[str, Estimate]], rows: Mapping[str, Sequence[Row]]
) -> list[Row]:
    flat = [row for part in rows.values() for row in part]
    made = []
    for metric in dict.fromkeys(row["metric"] for row in flat):
        own = [row for row in flat if row["metric"] == metric]
        known = [row for row in own if row["value"] is not None]
        estimate = metrics.macro_estimate([found[row["scenario"]][metric] for row in known])
        chances = [row["uniform"] for row in known]
        chance = float(np.mean(chances)) if chances and None not in chances else None
        n_error = sum(row["n_error"] for row in own)
        made.append(_row(entry, "macro", metric, estimate, sum(row["n"] for row in own), n_error, chance))
    return made


def _row(entry: Entry, scenario: str, metric: str, found: Estimate, n: int, n_error: int, uniform: float | None) -> Row:
    return {
        "model": entry.label, "mode": entry.mode, "scenario": scenario, "metric": metric, "value": _known(found.value),
        "ci_low": _known(found.low), "ci_high": _known(found.high), "n": n, "n_error": n_error,
        "uniform": None if uniform is None else _known(uniform),
    }  # fmt: skip


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _value(ratio: Ratio) -> float:
    below = float(ratio.below.sum())
    return ratio.factor * float(ratio.above.sum()) / below if below > 0 else float("nan")


def _count(metric: str, ratio: Ratio, scenario: Scenario) -> int:
    """Turns for shares of turns (of several draws: of all), samples for what compares two frames, else episodes."""
    if metric in SHARES:
        draws = scenario.episodes / max(len(scenario.names), 1)
        return round(float(ratio.below.sum()) * draws)
    if metric in ("discrimination", "asked_at_first", "asked_at_last", "ps", "cc", "agg"):
        return int((ratio.below > 0).sum())
    return scenario.episodes


# --- the most telling frame, and other models ---------------------------------------------------------------------------


def _reference_of(one: Scored, references: Sequence[Scored]) -> Scored | None:
    if one.entry.mode not in PLAYED:
        return None
    same = [other for other in references if other.entry.label == one.entry.label]
    kin = [other for other in references if one.entry.identity and other.entry.identity == one.entry.identity]
    return same[0] if same else kin[0] if len(kin) == 1 else None


def _add_reference(
    one: Scored, beside: Scored, name: str, seed: int,
    estimates: dict[str, Estimate], counts: dict[str, int],
) -> None:  # fmt: skip
    """``reference_acc`` of all its samples, and ``gap`` = reference - acc of the samples that both have."""
    reference = beside.scenarios[name]
    ratio = beside.ratios[name]["acc"]
    estimates["reference_acc"] = metrics.estimates([ratio], reference.group, **beside.drawn(seed, name))[0]
    estimates["gap"], shared = _paired(beside, one, name, "acc", seed)
    counts |= {"reference_acc": reference.episodes, "gap": shared}


def _guessed_reference(one: Scored, beside: Scored, name: str, uniform: UniformColumns) -> dict[str, float]:
    """What uniform guessing has of both, ``gap`` on the samples that the model's has."""
    best = ratios_of("reference", uniform.columns(beside.entry, name, beside.scenarios[name].names))
    found = {"reference_acc": _value(best["acc"])}
    if uniform.knows(one.entry.mode, "gap"):
        mine, theirs = _shared(one, beside, name, "acc")
        names = np.array(one.scenarios[name].names, object)[mine].tolist()
        guessed = ratios_of(one.entry.mode, uniform.columns(one.entry, name, names))["acc"]
        clear = best["acc"]._replace(above=best["acc"].above[theirs], below=best["acc"].below[theirs])
        found["gap"] = _value(clear) - _value(guessed)
    return found


def _shared(first: Scored, second: Scored, name: str, metric: str) -> tuple[Numbers, Numbers]:
    """Places in both of the samples that both have a value of."""
    one, other = first.scenarios[name], second.scenarios[name]
    _, mine, theirs = np.intersect1d(one.names, other.names, return_indices=True)
    known = (first.ratios[name][metric].below[mine] > 0) & (second.ratios[name][metric].below[theirs] > 0)
    return mine[known], theirs[known]


def _paired(first: Scored, second: Scored, name: str, metric: str, seed: int) -> tuple[Estimate, int]:
    """``first`` - ``second`` of the samples that both have a value of, and their number."""
    mine, theirs = _shared(first, second, name, metric)
    group, drawn = first.scenarios[name].group[mine], first.drawn(seed, name)
    if drawn["groups"] is None:
        group = np.unique(group, return_inverse=True)[1].astype(np.int64)
    if metric == "discrimination":
        return _paired_ends(first.scenarios[name].columns, second.scenarios[name].columns, (mine, theirs), group, drawn), len(mine)  # fmt: skip
    a, b = first.ratios[name][metric], second.ratios[name][metric]
    parts = [r._replace(above=r.above[at], below=r.below[at]) for r, at in ((a, mine), (b, theirs))]
    return metrics.difference(parts[0], parts[1], group, **drawn), len(mine)


def _paired_ends(first: Columns, second: Columns, places: tuple[Numbers, Numbers], group: Numbers, drawn: Drawn) -> Estimate:  # fmt: skip
    """Difference of two discriminations, each with the uncertainty of its own ends."""
    found = []
    for columns, at in zip((first, second), places, strict=True):
        begin, end = (ratio._replace(above=ratio.above[at], below=ratio.below[at]) for ratio in _ends(columns))
        found.append(metrics.difference(begin, end, group, **drawn))
    return metrics.less(*found)


def compared_rows(all_scored: Sequence[Scored], labels: Sequence[str], seed: int) -> list[Row]:
    """Rows of ``pb_compared``: every entry against those of ``labels``, samples paired. A label is looked for in the same mode first, then in
    another one in which the metric means the same. Raises ``UsageError`` for an unknown label."""
    there = list(dict.fromkeys(one.entry.label for one in all_scored))
    unknown = [label for label in labels if label not in there]
    if unknown:
        raise UsageError(
            f"compare_to: no episodes are labelled {', '.join(map(repr, unknown))}",
            hint=f"labels there are: {', '.join(there)}",
        )
    return [
        row
        for label in dict.fromkeys(labels)
        for one in all_scored if one.entry.label != label
        for metric in COMPARED
        for row in _compared(one, label, metric, all_scored, seed)
    ]  # fmt: skip


def _compared(one: Scored, label: str, metric: str, all_scored: Sequence[Scored], seed: int) -> list[Row]:
    family: Callable[[str], bool] = (
        (lambda mode: mode in ENDS) if metric == "discrimination" else (lambda mode: mode in PLAYED)
    )
    mode = one.entry.mode
    others = [
        s
        for s in all_scored
        if s.entry.label == label and (s.entry.mode == mode or (family(mode) and family(s.entry.mode)))
    ]
    other = min(others, key=lambda s: s.entry.mode != mode, default=None)
    if other is None:
        return []
    shared = [
        name for name in one.scenarios
        if name in other.scenarios and metric in one.ratios[name] and metric in other.ratios[name]
    ]  # fmt: skip
    found = {name: _paired(one, other, name, metric, seed) for name in shared}
    found = {name: pair for name, pair in found.items() if not np.isnan(pair[0].value)}
    if found:
        whole = metrics.macro_estimate([estimate for estimate, _ in found.values()])
        found["macro"] = whole, sum(n for _, n in found.values())
    return [
        {
            "model": one.entry.label, "other": label, "mode": mode, "scenario": name, "metric": metric,
            "difference": _known(estimate.value), "ci_low": _known(estimate.low), "ci_high": _known(estimate.high), "n": n,
        }
        for name, (estimate, n) in found.items()
    ]  # fmt: skip


def refuse_twins(entries: Sequence[Entry]) -> None:
    """Raise ``DataError`` where two have the same label and mode: their rows could not be told apart."""
    seen = set[tuple[str, str]]()
    for entry in entries:
        key = entry.label, entry.mode
        if key in seen:
            raise DataError(
                f"two lists of episodes are labelled {entry.label!r} in the mode {entry.mode}",
                hint="give each step that plays them a `label:` of its own",
            )
        seen.add(key)


def warn_of_failures(warn: Callable[[str], None], one: Scored) -> None:
    """Say where so many episodes failed, or judgements could not be read, that the rest may not stand for all."""
    for name, scenario in one.scenarios.items():
        played = scenario.episodes + scenario.n_error
        if scenario.n_error * 10 >= played:
            warn(f"{one.entry.label}, {name}: {scenario.n_error:,} of {played:,} episodes failed and count nowhere")
        unread = list(one.entry.unread.get(name, {}).values())
        if sum(unread) * 10 >= max(len(unread), 1):
            warn(f"{one.entry.label}, {name}: {sum(unread):g} of {len(unread):,} samples have judgements that could not be read")  # fmt: skip
