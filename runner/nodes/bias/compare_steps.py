"""The step that puts two audits of the same pictures side by side. Light: imported to validate a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from runner.artifacts import Verdicts
from runner.context import StepContext
from runner.errors import DataError
from runner.steps import Artifact, Rows, Table, step


@dataclass(frozen=True)
class Comparison(Artifact):
    """Two classifiers on the same pictures."""

    groups: Annotated[Table, Rows("c2b_comparison")]


@step("c2b.compare", version="1")
def compare(
    ctx: StepContext,
    *,
    first: Verdicts,
    second: Verdicts,
    first_name: Annotated[str, Field(min_length=1, max_length=200)] = "first",
    second_name: Annotated[str, Field(min_length=1, max_length=200)] = "second",
    alpha: Annotated[float, Field(gt=0, lt=1, description="largest adjusted p of a difference")] = 0.05,
    min_group_size: Annotated[int, Field(ge=1, description="fewer pictures give no verdict")] = 10,
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95,
) -> Comparison:
    """Compare two classifiers on the pictures of one retrieval: no further search, question or prediction.

    Exact McNemar tests on the pictures where they differ, with intervals for paired proportions.
    """
    from results.tables import arrow_table
    from runner.nodes.bias.comparison import comparison_rows

    if first.targets != second.targets:
        raise DataError(
            f"the audits have other targets: {', '.join(first.targets)} and {', '.join(second.targets)}",
            hint="Both assessments must use the same $images.",
        )
    members = [part.members.to_pylist() for part in (first, second)]
    rows = comparison_rows(
        (first_name, members[0], first.groups.to_pylist()), (second_name, members[1], second.groups.to_pylist()),
        alpha=alpha, min_group_size=min_group_size, confidence=confidence,
    )  # fmt: skip
    if not rows and any(members):
        raise DataError("the audits share no picture", hint="Both assessments must use the same $images.")
    shared, largest = max((row["n"] for row in rows if row["target"] is None), default=0), max(map(_pictures, members))
    if shared < largest:
        ctx.warn(f"only {shared} of {largest} pictures were judged by both; the others count nowhere")
    return Comparison(arrow_table("c2b_comparison", rows))


def _pictures(members: list[dict[str, object]]) -> int:
    return len({(row["target"], row["source_id"], row["uri"]) for row in members})
