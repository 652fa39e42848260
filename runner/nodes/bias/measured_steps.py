"""Steps ``c2b.measure`` and ``c2b.separability``. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from runner.artifacts import Bindings, CheckedTargets, ImageIndex, MeasuredGroups, RetrievedImages, Separability
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ImageTextEncoder
from runner.steps import Cost, step


def _measure_cost(params: Mapping[str, Any]) -> Cost:
    """How many pictures there will be depends on the retrieval; each costs about a hundredth of a second."""
    return Cost(images=None, bytes=None)


@step("c2b.measure", version="2", estimate=_measure_cost)
def measure(
    ctx: StepContext,
    *,
    images: RetrievedImages,
    bindings: Bindings,
    checked: CheckedTargets | None = None,
    middle: Annotated[
        Literal["drop", "keep"],
        Field(description="two values: drop leaves out the middle third, where a picture is neither"),
    ] = "drop",
    cuts: Annotated[
        dict[str, list[float]],
        Field(description="attribute -> where its measurement is cut, from low to high; default: equal counts"),
    ] = {},  # noqa: B006
    match: Annotated[
        Literal["source", "none"],
        Field(description="source: each source has as many pictures in every group, so that sources are not compared"),
    ] = "source",
) -> MeasuredGroups:
    """Form groups by measuring the target's pictures (light, colour, size, ...) instead of believing captions.

    Pictures are those of all captions of the target together, without the ones that ``checked`` refuses. Measured on copies of
    at most 256 pixels.
    """
    from results.tables import arrow_table
    from runner.nodes.bias.measured import (
        CutsMisfit,
        bound_attributes,
        form_groups,
        measured_precisions,
        pools_of,
        wanted_of,
    )
    from runner.nodes.bias.measuring import measure_pictures

    bound = bound_attributes(bindings.bindings.to_pylist())
    pools = pools_of(images.captions.to_pylist(), images.retrieval.to_pylist(), checked)
    found = measure_pictures(ctx, images.corpus, wanted_of(bound, pools))
    try:
        formed = form_groups(bound, pools, found, middle, cuts, match=match, seed=ctx.seed)
    except CutsMisfit as error:
        raise StepError(str(error), step=ctx.step, hint="change cuts of this step, or leave them out") from None
    for b, reason in formed.unformed:
        ctx.warn(f"{b.measure.name}: {reason}", item=f"{b.target} / {b.attribute}")
    return MeasuredGroups(
        measurements=arrow_table("c2b_measurement", formed.measurements),
        bins=arrow_table("c2b_bin", formed.bins),
        members=arrow_table("c2b_measured_member", formed.members),
        precisions=arrow_table("c2b_precision", measured_precisions(formed.groups, checked)),
    )


@step("c2b.separability", version="1", estimate=_measure_cost)
def separability(
    ctx: StepContext,
    *,
    images: RetrievedImages,
    measured: MeasuredGroups | None = None,
    corpus: Annotated[ImageIndex | None, Field(description="with encoder: the index that was searched")] = None,
    encoder: ImageTextEncoder | None = None,
    nearest: Annotated[int, Field(ge=5, description="nearest pictures of a value, before any filter")] = 50,
    max_overlap: Annotated[float, Field(ge=0, le=1, description="share of them that another value may have too")] = 0.6,
    min_margin: Annotated[float, Field(description="least lean to the own caption, in standard deviations")] = 0.5,
    min_auc: Annotated[float, Field(ge=0.5, lt=1, description="least agreement with a measurement")] = 0.65,
    min_pictures: Annotated[int, Field(ge=2, description="fewer pictures decide nothing")] = 10,
) -> Separability:
    """Say which values can be told apart in what was retrieved for them; a gap between others is noise.

    With ``measured`` a measurement decides, where one is bound. ``corpus`` and ``encoder`` add the margin.
    """
    from results.tables import arrow_table
    from runner.nodes.bias import separability as science
    from runner.nodes.bias.separable import attributes_of, similarities_of

    if (corpus is None) != (encoder is None):
        raise StepError("corpus and encoder belong together: one without the other says nothing", step=ctx.step)
    bars = science.Bars(nearest, max_overlap, min_margin, min_auc, min_pictures)
    similar = similarities_of(corpus, encoder, images) if corpus is not None and encoder is not None else None
    rows = science.separability(attributes_of(images, measured, similar), bars)
    return Separability(arrow_table("c2b_separability", rows))
