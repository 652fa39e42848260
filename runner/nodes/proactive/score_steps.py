"""Step `proactive.score`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runner.artifacts.proactive import ProactiveEpisodes, ProactiveSamples, ProactiveScores
from runner.context import StepContext
from runner.steps import step


@step("proactive.score", version="1")
def score(
    ctx: StepContext,
    *,
    samples: ProactiveSamples,
    episodes: Annotated[list[ProactiveEpisodes], Field(min_length=1, description="of models, policies and people")],
    compare_to: Annotated[
        list[str] | None, Field(description="labels that every other one is compared with, samples paired")
    ] = None,
    seed: Annotated[int | None, Field(ge=0, description="of the bootstrap; none = the run's seed")] = None,
) -> ProactiveScores:
    """Score episodes: accuracy, requests, asking by place and turn, with intervals, each beside exact uniform guessing."""
    from results.tables import arrow_table
    from runner.nodes.proactive import curves, scoring
    from runner.nodes.proactive.metrics import DRAWS
    from runner.nodes.proactive.score_reading import entry_of, samples_of
    from runner.nodes.proactive.uniform import UniformColumns

    seed = ctx.seed if seed is None else seed
    known = samples_of(samples)
    entries = [entry_of(one, known) for one in episodes]
    scoring.refuse_twins(entries)
    scored = [scoring.scored(entry, known) for entry in entries]
    compared = scoring.compared_rows(scored, compare_to or [], seed)
    references = [one for one in scored if one.entry.mode == "reference"]
    uniform = UniformColumns(known)
    measured = [
        row for one in ctx.track(scored, unit="lists") for row in scoring.metric_rows(one, references, uniform, seed)
    ]
    for one in scored:
        scoring.warn_of_failures(ctx.warn, one)
    return ProactiveScores(
        {"labels": [entry.label for entry in entries], "compare_to": compare_to or [], "seed": seed, "draws": DRAWS},
        arrow_table("pb_metrics", measured),
        arrow_table("pb_by_turn", [row for entry in entries for row in curves.by_turn_rows(entry)]),
        arrow_table("pb_curves", [row for entry in curves.of_each_label(entries) for row in curves.curve_rows(entry, known, seed)]),
        arrow_table("pb_compared", compared),
    )  # fmt: skip
