"""Scores of items to scores of benchmarks, with intervals, and how much of an original's quality is retained. Pure numpy.

Items drawn together (``pair_id``: the pictures of MME, the pictures that several questions share) are resampled together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.intervals import wilson_interval

Row = Mapping[str, Any]
Values = NDArray[np.float64]

DRAWS = 1000
LIMITS = (2.5, 97.5)
TASK_POINTS = 200.0
"""What a task of MME is worth: 100 x accuracy + 100 x share of pictures with both questions right."""
_AT_ONCE = 1 << 20


class Estimate(NamedTuple):
    """A score and its bootstrap ``draws`` [draws]: the same seed and items give the same draws of items, so draws of two models
    on the same items are paired."""

    value: float
    draws: Values


class Part(NamedTuple):
    """Items of a benchmark or of one category, as arrays [n]: ``score`` (0 where the model failed), ``said`` and ``true`` (1 yes, 0 no, -1
    neither), ``group`` (numbers from 0)."""

    score: Values
    said: NDArray[np.int64]
    true: NDArray[np.int64]
    group: NDArray[np.int64]

    @property
    def binary(self) -> bool:
        """Whether every score is 0 or 1."""
        return bool(np.isin(self.score, (0.0, 1.0)).all())


def aggregate(benchmark: Row, rows: Sequence[Row], *, draws: int = DRAWS) -> list[dict[str, Any]]:
    """Rows of ``vqa_score`` without ``model`` and ``seconds``: all items first, then by category.

    ``benchmark``: its entry in ``VqaItems.benchmarks``. ``rows``: items with their answers: ``item_id``, ``category``, ``pair_id``, ``answers``,
    ``parsed``, ``score`` (None: the model failed, which counts 0). Shares that are 0 or 1 item by item, each item on its own, have
    Wilson's interval, all else a percentile bootstrap over items or groups.
    """
    categories = categories_of(rows)
    named = {None: list(rows)} | (
        {c: [r for r in rows if r.get("category") == c] for c in categories} if len(categories) > 1 else {}
    )
    found = []
    for category, held in named.items():
        whole = category is None
        n_total = benchmark["n_total"] if whole else (benchmark.get("category_totals") or {}).get(category, len(held))
        base = {"benchmark": benchmark["benchmark"], "category": category, "n": len(held), "n_total": n_total}
        base["n_failed"] = sum(row["score"] is None for row in held)
        found += [base | values for values in _scores(benchmark, held, draws)]
    return found


def estimate(benchmark: Row, rows: Sequence[Row], *, draws: int = DRAWS) -> Estimate:
    """The benchmark's score in its own scale with its bootstrap draws; categories that are averaged or summed are resampled apart."""
    kind = benchmark["aggregate"]
    parts = _parts(rows, apart=kind in ("category_mean", "mme"))
    found = [
        _drawn(_SCORES.get(kind, accuracy), part, draws, f"{benchmark['benchmark']}/{i}")
        for i, part in enumerate(parts)
    ]
    join = np.sum if kind == "mme" else np.mean
    return Estimate(float(join([f.value for f in found])), np.asarray(join([f.draws for f in found], axis=0)))


def full_scale(benchmark: Row, rows: Sequence[Row]) -> float:
    """The largest score in its own scale: of MME 200 for each task there is."""
    return (
        TASK_POINTS * max(len(categories_of(rows)), 1)
        if benchmark["aggregate"] == "mme"
        else float(benchmark["full_scale"])
    )


def categories_of(rows: Sequence[Row]) -> list[str]:
    """Categories of items, in the order in which they first stand."""
    return list(dict.fromkeys(row["category"] for row in rows if row.get("category") is not None))


def retained(values: ArrayLike, originals: ArrayLike, full_scales: ArrayLike = 1.0) -> tuple[float, float]:
    """Percent of an original's quality: ``(ratio of means, mean of ratios)`` over benchmarks [B].

    100 x mean_b(value_b / scale_b) / mean_b(original_b / scale_b), AVG-% as the tables of arXiv 2507.20749 have it (their formula,
    inferred from the cells), and 100 x mean_b(value_b / original_b). NaN where
    there is no benchmark or an original scores 0 (the second only where any does).
    """
    value, original, scale = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (values, originals, full_scales)))
    if not value.size:
        return float("nan"), float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 100 * (value / scale).mean() / (original / scale).mean()
        each = 100 * (value / original).mean()
    return tuple(float(x) if np.isfinite(x) else float("nan") for x in (ratio, each))  # type: ignore[return-value]


# --- measures: sums of ratios of sums over items, so that resampling needs the sums of each group alone ----------------


class Ratio(NamedTuple):
    """``factor`` x sum of ``above`` / sum of ``below``, both [n] by item; NaN where the lower sum is 0."""

    above: Values
    below: Values
    factor: float = 1.0


Measure = Callable[[Part], list[Ratio]]


def accuracy(part: Part) -> list[Ratio]:
    """Mean score."""
    return [Ratio(part.score, np.ones(len(part.score)))]


def whole_pairs(part: Part) -> list[Ratio]:
    """Share of groups of which every item is right (MME's accuracy+)."""
    size = np.bincount(part.group)
    right = np.bincount(part.group, part.score) == size
    each = 1.0 / size[part.group]  # a group counts once, however many items it has
    return [Ratio(right[part.group] * each, each)]


def points(part: Part) -> list[Ratio]:
    """Points of a task of MME, 0..200 (Fu et al., 2023)."""
    return [ratio._replace(factor=100.0) for ratio in (*accuracy(part), *whole_pairs(part))]


def precision(part: Part) -> list[Ratio]:
    """Of the items answered yes, those that are."""
    said, true = _yes(part)
    return [Ratio(said * true, said)]


def recall(part: Part) -> list[Ratio]:
    """Of the items that are yes, those answered yes."""
    said, true = _yes(part)
    return [Ratio(said * true, true)]


def f1(part: Part) -> list[Ratio]:
    """Harmonic mean of precision and recall, 2 TP / (answered yes + truly yes)."""
    said, true = _yes(part)
    return [Ratio(2 * said * true, said + true)]


def yes_ratio(part: Part) -> list[Ratio]:
    """Share answered yes."""
    return [Ratio(_yes(part)[0], np.ones(len(part.score)))]


def _yes(part: Part) -> tuple[Values, Values]:
    return (part.said == 1).astype(np.float64), (part.true == 1).astype(np.float64)


_SCORES: dict[str, Measure] = {"pairs": whole_pairs, "mme": points}
_BESIDE: dict[str, dict[str, Measure]] = {
    "yes_no": {"precision": precision, "recall": recall, "f1": f1, "yes_ratio": yes_ratio},
    "mme": {"accuracy": accuracy, "accuracy_plus": whole_pairs},
    "pairs": {"accuracy": accuracy},
}
"""Measures that an aggregate has beside its score."""


def _scores(benchmark: Row, rows: Sequence[Row], draws: int) -> Iterator[dict[str, Any]]:
    main, scale = estimate(benchmark, rows, draws=draws), full_scale(benchmark, rows)
    part = _parts(rows, apart=False)[0]
    plain = benchmark["aggregate"] in ("mean", "yes_no")
    yield _row(benchmark["metric"], main, scale, part if plain else None)
    for name, measure in _BESIDE.get(benchmark["aggregate"], {}).items():
        found = _drawn(measure, part, draws, f"{benchmark['benchmark']}/0")
        yield _row(name, found, 1.0, part if measure is accuracy else None)


def _row(metric: str, found: Estimate, scale: float, share: Part | None) -> dict[str, Any]:
    low, high = interval(found, share)
    value = None if np.isnan(found.value) else found.value
    return {
        "metric": metric, "value": value, "ci_low": low, "ci_high": high, "share": None if value is None else value / scale,
    }  # fmt: skip


def interval(found: Estimate, share: Part | None = None) -> tuple[float | None, float | None]:
    """95 % limits. ``share``: the items whose mean score this is; where they are 0 or 1 and stand alone, or all score the same, Wilson's
    interval over the groups takes the place of the bootstrap, which would then be coarser, or without width."""
    if share is not None and len(share.score):
        groups = int(share.group.max()) + 1
        alone = share.binary and groups == len(share.score)
        if alone or (share.score.min() == share.score.max() and 0 <= share.score[0] <= 1):
            low, high = wilson_interval(found.value * groups, groups)
            return float(low), float(high)
    known = found.draws[~np.isnan(found.draws)]
    if np.isnan(found.value) or not len(known):
        return None, None
    low, high = np.percentile(known, LIMITS)
    return float(low), float(high)


def _parts(rows: Sequence[Row], *, apart: bool) -> list[Part]:
    """The items as arrays: one part, or one a category."""
    ordered = sorted(rows, key=lambda row: str(row["item_id"]))
    if not apart or not categories_of(rows):
        return [_part(ordered)]
    return [_part([row for row in ordered if row.get("category") == c]) for c in sorted(categories_of(rows))]


def _part(rows: Sequence[Row]) -> Part:
    names = [f"pair {row['pair_id']}" if row.get("pair_id") is not None else f"item {row['item_id']}" for row in rows]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    score = np.array([row["score"] or 0.0 for row in rows], np.float64)
    said = np.array([_polarity([row.get("parsed")]) for row in rows], np.int64)
    true = np.array([_polarity(row.get("answers") or []) for row in rows], np.int64)
    return Part(score, said, true, np.array([numbers[name] for name in names], np.int64))


def _polarity(texts: Sequence[str | None]) -> int:
    found = {(text or "").strip().lower() for text in texts}
    return 1 if "yes" in found else 0 if "no" in found else -1


def _drawn(measure: Measure, part: Part, draws: int, name: str) -> Estimate:
    """A measure with its bootstrap over groups; random numbers depend on ``name`` alone."""
    if not len(part.score):
        return Estimate(float("nan"), np.full(draws, np.nan))
    ratios = measure(part)
    sums = np.stack([np.bincount(part.group, values) for ratio in ratios for values in ratio[:2]], 1)
    generator = np.random.default_rng([*name.encode()])
    drawn = np.concatenate([counts @ sums for counts in _counts(len(sums), draws, generator)])
    value, *_ = _joined(sums.sum(0, keepdims=True), ratios)
    return Estimate(float(value), _joined(drawn, ratios))


def _joined(sums: Values, ratios: Sequence[Ratio]) -> Values:
    """Sums [draws, 2 x ratios] to the measure [draws]."""
    above, below = sums[:, ::2], sums[:, 1::2]
    shares = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return np.asarray(shares @ np.array([ratio.factor for ratio in ratios]))


def _counts(groups: int, draws: int, generator: np.random.Generator) -> Iterator[Values]:
    """How often each group is drawn, float64 [block, groups], block by block."""
    block = max(1, _AT_ONCE // groups)
    for start in range(0, draws, block):
        count = min(block, draws - start)
        drawn = generator.integers(groups, size=(count, groups)) + np.arange(count)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups).astype(np.float64)
