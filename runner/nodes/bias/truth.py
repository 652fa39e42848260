"""How honest was the audit? Its groups compared with true labels that it never saw. Pure; rows in, rows out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runner.data.places import Place
from runner.naming import normalised
from runner.nodes.bias.assess import plain
from runner.nodes.bias.grid import Grid, GroupCounts, GroupName, make_grid
from runner.nodes.bias.scores import accuracies, bias_scores, flag_exact
from runner.nodes.bias.statistics import FINDINGS, mover_interval, pooled_others, wilson_interval

Row = dict[str, Any]
Agreement = Literal["agrees", "opposite", "not_confirmed", "missed", "nothing_to_find", "unknown"]


def truth_rows(
    groups: Iterable[Row],
    members: Iterable[Row],
    labels: Mapping[Place, str],
    label_map: Mapping[str, str],
    *,
    threshold: float,
    confidence: float,
    min_group_size: int,
) -> list[Row]:
    """Rows of ``c2b_truth``, one for each row of ``c2b_group``.

    ``labels``: true label by picture, mapped to task values by ``label_map`` (else by equal names; other labels are other
    things). Accuracy, phi and intervals are taken over the pictures that truly show the target.
    """
    verdict = {_name(g): g["verdict"] for g in groups}
    meaning = {normalised(label): value for label, value in label_map.items()}
    seen: dict[GroupName, list[int]] = {name: [0, 0, 0] for name in verdict}
    for m in members:
        name = _name(m)
        label = labels.get(Place(m["source_id"], m["uri"]))
        if name not in seen or label is None:
            continue
        shows = normalised(meaning.get(normalised(label), label)) == normalised(m["target"])
        seen[name][0] += 1
        seen[name][1] += shows
        seen[name][2] += shows and m["correct"]
    grid = make_grid(GroupCounts(name, ((k, n),)) for name, (_, n, k) in seen.items())
    return _rows(grid, seen, verdict, threshold, confidence, min_group_size) if seen else []


def _name(row: Row) -> GroupName:
    return GroupName(row["target"], row["attribute"], row["value"], row["value_source"] or "caption")


def _rows(
    grid: Grid,
    seen: Mapping[GroupName, list[int]],
    verdict: Mapping[GroupName, str],
    threshold: float,
    confidence: float,
    min_group_size: int,
) -> list[Row]:
    k, n = grid.k, grid.n
    low, high = mover_interval(k, n, confidence)
    cells: dict[str, NDArray[Any]] = {
        "true_n": n,
        "true_k": k,
        "true_acc": accuracies(k, n),
        "true_phi": bias_scores(k, n),
    }
    cells["true_low"], cells["true_high"] = wilson_interval(k, n, confidence)
    cells |= {"true_phi_low": low, "true_phi_high": high}
    columns = {name: grid.gather(values) for name, values in cells.items()}
    enough = grid.gather((n >= min_group_size) & (pooled_others(k, n)[1] >= min_group_size))
    real = grid.gather(flag_exact(k, n, threshold) & ((low > 0) | (high < 0)))
    rows: list[Row] = []
    for i, name in enumerate(g.name for g in grid.groups):
        labelled, shows, _ = seen[name]
        sign = np.sign(columns["true_phi"][i]) * bool(real[i])
        rows.append({
            **name._asdict(), "labelled": labelled, "true_target_precision": shows / labelled if labelled else None,
            **{column: plain(values[i]) for column, values in columns.items()}, "verdict": verdict[name],
            "agreement": agreement(verdict[name], int(sign) if enough[i] and not np.isnan(sign) else None),
        })  # fmt: skip
    return rows


def agreement(verdict: str, true_sign: int | None) -> Agreement:
    """A verdict against the sign of the true score.

    ``true_sign``: +1 / -1 where the true score is beyond the threshold and its interval excludes 0, 0 where it is not,
    None where too few labelled pictures show the target. A finding ``agrees``, is ``opposite``, or is ``not_confirmed``
    (0). Any other verdict ``missed`` a true difference or had ``nothing_to_find``. ``unknown``: nothing can be said, or the
    audit itself said that it could not (too little data).
    """
    if true_sign is None or verdict in ("undefined", "insufficient_data", "not_testable"):
        return "unknown"
    if verdict in FINDINGS:
        said = 1 if verdict == "favoured" else -1
        return "not_confirmed" if true_sign == 0 else "agrees" if said == true_sign else "opposite"
    return "missed" if true_sign else "nothing_to_find"
