"""Step ``datasets.attributes``. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runner.artifacts import AttributedImages
from runner.context import StepContext
from runner.data.datasets.attributes.specs import AttributedSpecs
from runner.data.datasets.specs import Limit
from runner.data.datasets.steps import load_cost
from runner.steps import step


@step("datasets.attributes", version="1", estimate=load_cost)
def attributes(
    ctx: StepContext,
    *,
    datasets: Annotated[AttributedSpecs, Field(description="one dataset or several")],
    limit: Annotated[
        Limit | None, Field(description="pictures drawn of each split; {train: 0} leaves a split out")
    ] = None,
    per_class: Annotated[Limit | None, Field(description="pictures drawn of each class and split")] = None,
    per_group: Annotated[
        Limit | None, Field(description="pictures drawn of each class, combination of attribute values, and split")
    ] = None,
    seed: Annotated[int | None, Field(ge=0, description="of draws and of splits dealt out; default: the run's")] = None,
    thumbnails: Annotated[int, Field(ge=0, le=10_000, description="first pictures of each split shown")] = 24,
    check_files: Annotated[bool, Field(description="see that every picture of the splits is there")] = True,
) -> AttributedImages:
    """Load datasets whose pictures carry attributes, such as gender, place or skin tone, besides their class.

    Pictures without an attribute's value are left out and counted.
    """  # fmt: skip
    from results.tables import arrow_table
    from runner.data.datasets.attributes.loading import attribute_table
    from runner.data.datasets.attributes.loading import load as load_one
    from runner.data.datasets.loading import Options, check_names, rows_of

    specs = datasets if isinstance(datasets, list) else [datasets]
    check_names(specs)
    options = Options(limit, per_class, ctx.seed if seed is None else seed, thumbnails, check_files)
    made, rows = [], []
    for spec in ctx.track(specs, unit="datasets"):
        one = load_one(spec, options, per_group)
        for note in one.loaded.content.notes:
            ctx.warn(note, item=one.loaded.name)
        rows += rows_of(one.loaded, thumbnails, lambda text, item: ctx.warn(text, item=item))
        made.append(one)
    corpus = [source.spec for one in made for source in one.loaded.content.sources]
    return AttributedImages(
        [one.loaded.about for one in made], corpus, arrow_table("dataset_image", rows),
        [one.about for one in made], attribute_table(made),
    )  # fmt: skip
