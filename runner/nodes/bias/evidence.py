"""What other steps found out about the retrieved pictures, in the words of the assessment. Plain rows in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runner.artifacts import CheckedTargets, MeasuredGroups, Separability
from runner.data.places import Place
from runner.nodes.bias.grid import CheckedShares, GroupName
from runner.nodes.bias.members import Doubt, Member

Row = dict[str, Any]

_NO_REASON = "the values of this attribute cannot be told apart in these pictures"


@dataclass(frozen=True)
class Evidence:
    """What a verifier saw, groups formed by measurement, and whether the values of an attribute can be told apart."""

    checked: CheckedTargets | None = None
    measured: MeasuredGroups | None = None
    separability: Separability | None = None

    def accepted(self, members: Iterable[Member]) -> list[Member]:
        """Without the pictures that the verifier refused, where it is asked to refuse."""
        if self.checked is None or not self.checked.rejects:
            return list(members)
        refused = {(row["target"], _place(row)) for row in self.checked.checks.to_pylist() if row["shows"] is False}
        return [m for m in members if (m.target, m.place) not in refused]

    def measured_members(self) -> list[Member]:
        """The pictures of the measured groups."""
        rows = [] if self.measured is None else self.measured.members.to_pylist()
        return [
            Member(0, r["target"], r["attribute"], r["value"], r["measure"], _place(r), None, "measured") for r in rows
        ]

    def measured_names(self) -> list[GroupName]:
        """The measured groups, empty ones included."""
        rows = [] if self.measured is None else self.measured.bins.to_pylist()
        return sorted({GroupName(r["target"], r["attribute"], r["value"], "measured") for r in rows})

    def shares(self) -> dict[GroupName, CheckedShares]:
        """Estimated shares of each group's pictures that show the target and the value."""
        parts = [part for part in (self.checked, self.measured) if part is not None]
        return {
            GroupName(r["target"], r["attribute"], r["value"], r["value_source"] or "caption"): CheckedShares(
                _number(r["target_precision"]), _number(r["value_precision"]), _number(r["target_low"])
            )
            for part in parts
            for r in part.precisions.to_pylist()
            if r["attribute"] is not None
        }

    def doubts(self) -> dict[GroupName, Doubt]:
        """What the separability test says of each caption group; measured groups are apart by construction."""
        rows = [] if self.separability is None else self.separability.groups.to_pylist()
        return {
            GroupName(r["target"], r["attribute"], r["value"]): Doubt(r["separable"], r["reason"] or _NO_REASON)
            for r in rows
        }


def _place(row: Row) -> Place:
    return Place(row["source_id"], row["uri"])


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
