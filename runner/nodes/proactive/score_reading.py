"""Tables of episodes as arrays by sample: what every metric is computed from. Numpy and pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples
from runner.errors import DataError
from runner.nodes.proactive.metrics import Numbers, Values
from runner.nodes.proactive.records import SCENARIOS

KINDS = ("ask_valid", "ask_invalid", "abstain", "category_true", "category_false", "unreadable")
"""What a turn came down to, in the order of the columns of ``Turns.kinds``."""

LISTED = ("mcqa", "person", "exact", "frames", "reference")
"""Modes in which options are shown."""


class Turns(NamedTuple):
    """Turns [T] of episodes that are no failures: ``episode`` (row among them), ``turn`` from 1, ``forced``, ``place`` (NaN: not known), ``kinds``
    float64 [T, 6] (shares by ``KINDS``: one 1 where something was answered, probabilities where the model was asked for them),
    ``right`` (probability or fact that the right category was named, whether it counted or not), ``best`` (1 where the likeliest
    category is the right one, a part of 1 where several are as likely; NaN: not known), ``can_ask`` (a request was among the options)."""

    episode: Numbers
    turn: Numbers
    forced: np.ndarray[Any, np.dtype[np.bool_]]
    place: Values
    kinds: Values
    right: Values
    best: Values
    can_ask: np.ndarray[Any, np.dtype[np.bool_]]

    @property
    def asks(self) -> Values:
        """Share of requests, helpful or not [T]."""
        return np.asarray(self.kinds[:, 0] + self.kinds[:, 1])

    def taken(self, rows: np.ndarray[Any, Any]) -> Turns:
        """Some of them (a mask, or numbers)."""
        return Turns(*(column[rows] for column in self))


class Entry(NamedTuple):
    """Episodes of one label and mode. Arrays [E] of those that are no failures: ``scenario`` (number in ``SCENARIOS``), ``sample`` (names) and
    ``columns`` (float64; NaN where there is nothing); ``n_error`` by scenario. ``unread``: by scenario and sample the share of its judged draws,
    failures too, of which the judge's reply could not be read."""

    label: str
    mode: str
    options_mode: str
    identity: str
    scenario: Numbers
    sample: np.ndarray[Any, Any]
    columns: dict[str, Values]
    n_error: dict[str, int]
    turns: Turns
    unread: dict[str, dict[str, float]]

    @property
    def scenarios(self) -> list[str]:
        """Scenarios with episodes, failures too, in their usual order."""
        there = set(np.unique(self.scenario).tolist())
        return [name for i, name in enumerate(SCENARIOS) if i in there or self.n_error.get(name)]


Samples = Mapping[tuple[str, str], Mapping[str, Any]]
"""Rows of ``pb_samples`` by scenario and sample."""


def samples_of(samples: ProactiveSamples) -> Samples:
    """Samples by name; where both splits have one of a name, that of the test split."""
    rows = samples.samples.drop_columns(["uris", "visible", "question"]).to_pylist()
    return {(row["scenario"], row["sample_id"]): row for row in sorted(rows, key=lambda row: row["split"] == "test")}


def entry_of(episodes: ProactiveEpisodes, samples: Samples) -> Entry:
    """One artifact as arrays. Raises ``DataError`` where it holds a sample that is not among the samples."""
    table = episodes.episodes
    names = list(zip(texts(table["scenario"]), texts(table["sample_id"]), strict=True))
    strange = next((name for name in names if name not in samples), None)
    if strange is not None:
        raise DataError(
            f"episodes of {episodes.label!r} play {'/'.join(strange)}, which is not among the samples",
            hint="score episodes with the samples they were played on",
        )
    modes = set(texts(table["mode"])) or {str(episodes.settings.get("mode", "mcqa"))}
    if len(modes) > 1:
        raise DataError(f"episodes of {episodes.label!r} mix the modes {', '.join(sorted(modes))}")
    fine = np.array([status == "ok" for status in texts(table["status"])], bool)
    scenario = np.array([SCENARIOS.index(name) for name, _ in names], np.int64)
    failed = np.bincount(scenario[~fine], minlength=len(SCENARIOS))
    kept = table.filter(pa.array(fine))
    right = [samples[name]["answer"] for name, ok in zip(names, fine.tolist(), strict=True) if ok]
    options = set(texts(table["options_mode"]))
    return Entry(
        episodes.label, modes.pop(), options.pop() if len(options) == 1 else "native", str(episodes.model.get("identity") or ""),
        scenario[fine], np.array(texts(kept["sample_id"]), object),
        _episode_columns(kept) | _judged_columns(episodes.judgements, kept),
        {name: int(failed[i]) for i, name in enumerate(SCENARIOS)}, _turns(episodes.turns, kept, right),
        _unread(episodes.judgements, table),
    )  # fmt: skip


def _episode_columns(table: pa.Table) -> dict[str, Values]:
    told = {
        "success": "p_success", "interventions": "interventions", "exhausted": "p_exhausted", "first": "first_turn_correct",
    }  # fmt: skip
    return {name: numbers(table[column]) for name, column in told.items()}


def _judged_columns(judgements: pa.Table, episodes: pa.Table) -> dict[str, Values]:
    """``ps``, ``cc``, ``agg``: whether any answer of the episode has the idea; NaN where no judgement could be read."""
    of = pc.index_in(judgements["episode_id"], value_set=episodes["episode_id"].combine_chunks())
    known = np.asarray(of.is_valid())
    place = np.asarray(of.fill_null(0), np.int64)[known]
    found = {}
    for name in ("ps", "cc", "agg"):
        values = np.full(len(episodes), np.nan)
        np.fmax.at(values, place, numbers(judgements[name])[known])
        found[name] = values
    return found


def _unread(judgements: pa.Table, episodes: pa.Table) -> dict[str, dict[str, float]]:
    """An episode whose judge could not be read is a failure, so that failures are looked at too."""
    worst = dict[str, bool]()
    for name, fine in zip(texts(judgements["episode_id"]), judgements["parse_ok"].to_pylist(), strict=True):
        worst[name] = worst.get(name, False) or not fine
    drawn: dict[str, dict[str, list[bool]]] = {}
    for row in episodes.select(["scenario", "sample_id", "episode_id"]).to_pylist():
        if row["episode_id"] in worst:
            drawn.setdefault(row["scenario"], {}).setdefault(row["sample_id"], []).append(worst[row["episode_id"]])
    return {name: {sample: sum(of) / len(of) for sample, of in own.items()} for name, own in drawn.items()}


def texts(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> list[str]:
    """A column of texts, NULL as the empty one."""
    return [value or "" for value in column.to_pylist()]


def numbers(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> Values:
    """A column of numbers or booleans as float64 [n], NaN for NULL."""
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _turns(table: pa.Table, episodes: pa.Table, truth: list[str]) -> Turns:
    of = pc.index_in(table["episode_id"], value_set=episodes["episode_id"].combine_chunks())
    table, of = table.filter(of.is_valid()), of.filter(of.is_valid())
    episode = np.asarray(of, np.int64)
    answer = np.array(truth, object)[episode]
    answered, probable = _answered(table, answer), _probable(table, answer)
    # What was answered counts; probabilities where nothing was, as in exact evaluations.
    kinds, right, best = (np.where(np.isnan(one), other, one) for one, other in zip(answered, probable, strict=True))
    return Turns(
        episode, np.asarray(numbers(table["turn"]), np.int64), numbers(table["forced"]) == 1, numbers(table["place"]), kinds, right, best, _can_ask(table)
    )  # fmt: skip


def _can_ask(table: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether a request was shown, helpful or not [T]."""
    size = np.asarray(pc.fill_null(pc.list_value_length(table["option_kinds"]), 0), np.int64)
    requests = pc.is_in(pc.list_flatten(table["option_kinds"]), value_set=pa.array(KINDS[:2]))
    row = np.repeat(np.arange(len(table)), size)
    return np.bincount(row[np.asarray(requests, bool)], minlength=len(table)) > 0


def _answered(table: pa.Table, answer: np.ndarray[Any, Any]) -> tuple[Values, Values, Values]:
    """Kinds, right and best of turns with an answer to a list of options; NaN elsewhere."""
    said = np.asarray(table["match_kind"].is_valid()) & np.asarray(table["options"].is_valid())
    code = pc.index_in(table["matched_kind"], value_set=pa.array(KINDS)).fill_null(len(KINDS) - 1)
    kinds = np.where(said[:, None], np.eye(len(KINDS))[np.asarray(code, np.int64)], np.nan)
    index = np.nan_to_num(numbers(table["matched_index"]), nan=-1).astype(np.int64)
    options: list[list[str] | None] = table["options"].to_pylist()
    named = np.array(
        [
            shown is not None and 0 <= i < len(shown) and shown[i] == text
            for i, shown, text in zip(index.tolist(), options, answer, strict=True)
        ],
        bool,
    )
    right = np.where(said, named, np.nan).astype(np.float64)
    return kinds, right, np.where(np.isnan(right), np.nan, right)


def _probable(table: pa.Table, answer: np.ndarray[Any, Any]) -> tuple[Values, Values, Values]:
    """Kinds, right and best of turns with probabilities of the options; NaN elsewhere."""
    rows = len(table)
    size = np.asarray(pc.fill_null(pc.list_value_length(table["probabilities"]), 0), np.int64)
    has = size > 0
    if not has.any():
        return np.full((rows, len(KINDS)), np.nan), np.full(rows, np.nan), np.full(rows, np.nan)
    part = table.filter(pa.array(has))
    row = np.repeat(np.flatnonzero(has), size[has])
    p = numbers(pc.list_flatten(part["probabilities"]))
    code = np.asarray(pc.index_in(pc.list_flatten(part["option_kinds"]), value_set=pa.array(KINDS)), np.int64)
    shown = np.array(texts(pc.list_flatten(part["options"])), object)
    kinds = np.bincount(row * len(KINDS) + code, p, rows * len(KINDS)).reshape(rows, len(KINDS))
    true = shown == answer[row]
    right = np.bincount(row, p * true, rows)
    category = code >= KINDS.index("category_true")
    likeliest = np.full(rows, -1.0)
    np.maximum.at(likeliest, row[category], p[category])
    tied = category & (p == likeliest[row])
    best = np.bincount(row, tied & true, rows) / np.maximum(np.bincount(row, tied, rows), 1)
    return (np.where(has[:, None], kinds, np.nan), np.where(has, right, np.nan), np.where(has, best, np.nan))


class Drawings:
    """What is resampled together, of all samples of an entry: drawings, or samples that stand alone.

    Where one drawing is behind samples of several scenarios, all drawings of the entry are numbered and drawn at once (``groups``: how many), so
    that means over scenarios know what these have in common; a scenario's number of samples then varies a little from draw to draw.
    Else each scenario has numbers and draws of its own (``groups`` None).
    """

    def __init__(self, entry: Entry, samples: Samples) -> None:
        self._samples = samples
        names = [SCENARIOS[i] for i in entry.scenario.tolist()]
        played = dict.fromkeys(zip(names, entry.sample.tolist(), strict=True))
        played |= dict.fromkeys((scenario, name) for scenario, own in entry.unread.items() for name in own)
        ties = {(samples[place]["drawn_with"], place[0]) for place in played}
        tied = [tie for tie, _ in ties if tie is not None]
        keys = dict.fromkeys(self._key(*place) for place in played)
        self._number = {key: i for i, key in enumerate(keys)} if len(tied) > len(set(tied)) else None
        self.groups = len(keys) if self._number else None

    def _key(self, scenario: str, name: str) -> tuple[str, ...]:
        tie = self._samples[scenario, name]["drawn_with"]
        return ("alone", scenario, name) if tie is None else ("drawn", tie)

    def of(self, scenario: str, names: Sequence[str]) -> Numbers:
        """Numbers int64 [n] of these samples."""
        keys = [self._key(scenario, name) for name in names]
        number = self._number or {key: i for i, key in enumerate(dict.fromkeys(keys))}
        return np.array([number[key] for key in keys], np.int64)

    def seed(self, seed: int, scenario: str) -> list[int]:
        """Of the scenario's draws: one for all where they are drawn at once."""
        return [seed] if self.groups else [seed, *scenario.encode()]
