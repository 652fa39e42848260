"""Step ``datasets.load``. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from runner.artifacts import Datasets
from runner.context import StepContext
from runner.data.datasets.specs import SPLITS, DatasetSpecs, Limit
from runner.steps import Cost, step


def load_cost(params: Mapping[str, Any]) -> Cost:
    """Pictures read for thumbnails, at most; of the others only the names are read."""
    datasets = params.get("datasets") or []
    count = len(datasets) if isinstance(datasets, (list, tuple)) else 1
    return Cost(images=count * len(SPLITS) * params.get("thumbnails", 24), bytes=None)


@step("datasets.load", version="2", estimate=load_cost)
def load(
    ctx: StepContext,
    *,
    datasets: Annotated[DatasetSpecs, Field(description="one dataset or several")],
    limit: Annotated[
        Limit | None, Field(description="pictures drawn of each split, uniformly; {train: 0} leaves a split out")
    ] = None,
    per_class: Annotated[
        Limit | None, Field(description="pictures drawn of each class and split, before limit")
    ] = None,
    seed: Annotated[int | None, Field(ge=0, description="of draws and of splits dealt out; default: the run's")] = None,
    thumbnails: Annotated[int, Field(ge=0, le=10_000, description="first pictures of each split shown")] = 24,
    check_files: Annotated[bool, Field(description="see that every picture of the splits is there")] = True,
) -> Datasets:
    """Load classification datasets: pictures of their splits with the text of each one's class.

    Public datasets are read from a local copy: pictures as their archives unpack, and CoOp's split file or tables.
    """
    from results.tables import arrow_table
    from runner.data.datasets.loading import Options, check_names, rows_of
    from runner.data.datasets.loading import load as load_one

    specs = datasets if isinstance(datasets, list) else [datasets]
    check_names(specs)
    options = Options(limit, per_class, ctx.seed if seed is None else seed, thumbnails, check_files)
    about, corpus, rows = [], [], []
    for spec in ctx.track(specs, unit="datasets"):
        loaded = load_one(spec, options)
        for note in loaded.content.notes:
            ctx.warn(note, item=loaded.name)
        about.append(loaded.about)
        corpus += [source.spec for source in loaded.content.sources]
        rows += rows_of(loaded, thumbnails, lambda text, item: ctx.warn(text, item=item))
    return Datasets(about, corpus, arrow_table("dataset_image", rows))
