"""Step ``leakage.features``. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from runner.artifacts import PartFeatures, PartImages
from runner.context import StepContext
from runner.models.base import VisionBackbone
from runner.nodes.leakage.names import Control, Mode, Norm, Pool, Rule, boundary_leaks
from runner.steps import Cost, step

if TYPE_CHECKING:
    from runner.nodes.leakage.extracting import Recipe
    from runner.nodes.leakage.extraction import Extraction, Outcome

SOURCES = ("whole", "background")
"""Controls that are further sources of every extractor; the others are extractors of their own."""
Share = Annotated[float, Field(ge=0, le=1)]


class PatchRule(BaseModel):
    """How pixels of a mask become patches: any (touched), majority (half), all (whole patches only), nearest_exact (centre pixel)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pool: Rule = Field(default="majority", description="for pooling a whole picture's tokens")
    two_stage: Rule = Field(default="all", description="for two-stage vectors; others need strict_pixels")


class TwoStageSpec(BaseModel):
    """Vectors computed from a part's pixels alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = Field(
        default="packed",
        description="packed, token_drop and attn_mask give the same vectors (packed is fastest); pixel_fill and crop also serve CNNs",
    )
    pool: Literal["mean", "cls"] = Field(default="mean", description="mean of the part's tokens, or its CLS")
    fill: Literal["mean", "zero", "noise", "blur"] | tuple[Share, Share, Share] = Field(
        default="mean", description="what stands outside the part: the normalisation's mean colour, black, noise, own colours spread, RGB in 0..1"
    )  # fmt: skip
    strict_pixels: bool = Field(
        default=True, description="paint over pixels outside the part before anything is computed"
    )
    allow_boundary_leak: bool = Field(
        default=False, description="accept vectors that pixels outside the part can change"
    )


def layers_once(layers: str | list[int]) -> str | list[int]:
    """Refuse a list without a layer, and one in which a layer stands twice."""
    if not layers:
        raise ValueError("no layer is named")
    if isinstance(layers, list) and len(set(layers)) != len(layers):
        raise ValueError("a layer is named twice")
    return layers


def refuse_leaky(two: TwoStageSpec | None, info: ValidationInfo) -> TwoStageSpec | None:
    """Refuse a leaky two-stage that nobody allowed, where the rule of patches is known."""
    rule = ((info.data or {}).get("param_patch_rule") or PatchRule()).two_stage
    if two and boundary_leaks(two.mode, rule, two.strict_pixels) and not two.allow_boundary_leak:
        raise ValueError(
            f"mode {two.mode} with patch_rule.two_stage {rule} and strict_pixels false lets pixels outside a part into its "
            "vector; take strict_pixels true, or say allow_boundary_leak: true"
        )
    return two


def _controls(controls: list[Control], info: ValidationInfo) -> list[Control]:
    if len(set(controls)) != len(controls):
        raise ValueError("a control is named twice")
    if "mask_only" in controls and (info.data or {}).get("param_two_stage", True) is None:
        raise ValueError("mask_only is a control of two-stage vectors, which two_stage: null leaves out")
    return controls


def _estimate(params: Mapping[str, Any]) -> Cost:
    limit = params.get("limit")
    return Cost(images=None if limit is None else limit * len(params.get("splits", ())))


@step("leakage.features", version="2", estimate=_estimate)
def features(
    ctx: StepContext,
    *,
    backbone: VisionBackbone,
    images: PartImages,
    layers: Annotated[
        Literal["all"] | Annotated[list[int], Field(min_length=1)],
        Field(description="0 = patch embedding .. depth; negative from the end"),
        AfterValidator(layers_once),
    ] = "all",
    pooling: Annotated[Pool, Field(description="of single-stage vectors")] = "mean",
    norm: Annotated[Norm, Field(description="final norm on every layer, none, or also a CLIP's projection")] = "final",
    patch_rule: PatchRule = PatchRule(),  # noqa: B008 - frozen
    two_stage: Annotated[TwoStageSpec | None, AfterValidator(refuse_leaky)] = TwoStageSpec(),  # noqa: B008 - frozen
    controls: Annotated[
        list[Control], Field(description="further sources and extractors"), AfterValidator(_controls)
    ] = [],  # noqa: B006
    dtype: Literal["float16", "float32"] = "float16",
    batch: Annotated[int, Field(ge=1, le=4096, description="pictures computed and saved together")] = 16,
    splits: Annotated[list[Literal["train", "val", "test"]], Field(min_length=1)] = ["train", "val", "test"],  # noqa: B006
    limit: Annotated[int | None, Field(ge=1, description="pictures a split, drawn by the seed; default: all")] = None,
    pictures: Annotated[int, Field(ge=0, le=200, description="pictures shown with their parts coloured")] = 8,
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="default: the run's")] = None,
) -> PartFeatures:
    """Vectors of parts by layer: pooled from the whole picture, computed from the part alone, and controls.

    What counts as single-stage and two-stage follows "Metonymy in vision models" (2605.06095); rules, controls and defaults are
    definitions of this project.
    """
    from runner.nodes.leakage.extraction import run

    seed = ctx.seed if seed is None else seed
    recipe = _recipe(ctx, backbone, layers, pooling, norm, patch_rule, two_stage, controls, batch, seed)
    job = _job(ctx, backbone, images, recipe, controls, dtype, splits, limit)
    _warn_of_scaling(ctx, backbone, images)
    outcome = run(ctx, job, ctx.folder("vectors"))
    asked = {
        "pooling": pooling, "norm": norm, "patch_rule": patch_rule.model_dump(), "dtype": dtype, "seed": seed,
        "two_stage": two_stage and two_stage.model_dump() | {"leak_free": recipe.two is not None and recipe.two.leak_free},
        "controls": list(controls),
        "removed": {source: {str(layer): share for layer, share in shares.items()} for source, shares in outcome.removed.items()},
    }  # fmt: skip
    return _artifact(ctx, images, job, outcome, asked, pictures)


def _warn_of_scaling(ctx: StepContext, backbone: VisionBackbone, images: PartImages) -> None:
    """Scaling mixes pixels across the edges of masks: two-stage vectors do without those, single-stage vectors pool them."""
    from runner.nodes.leakage.loading import resized_sizes

    geometry = backbone.geometry
    sizes = resized_sizes(images, geometry) if images.about.get("exact_masks") else []
    if sizes:
        side = geometry.size if geometry.squash else geometry.short_side
        ctx.warn(
            f"{images.about['dataset']}: masks are exact at {sizes[0][0]} x {sizes[0][1]} pixels, but {backbone.name} scales "
            f"pictures to {side}: pixels at the edges of parts are mixed with what lies beside them, which two-stage vectors leave out, so that they see "
            f"less of each part; make pictures of side {side}"
        )


def _recipe(
    ctx: StepContext, backbone: VisionBackbone, layers: str | list[int], pooling: Pool, norm: Norm, rule: PatchRule,
    two: TwoStageSpec | None, controls: list[Control], batch: int, seed: int,
) -> Recipe:  # fmt: skip
    """Everything that can be refused before a picture is read is refused here."""
    from runner.errors import StepError
    from runner.nodes.leakage.extracting import Recipe, TwoStage
    from runner.nodes.leakage.features import check_two_stage
    from runner.nodes.leakage.pooling import check_norm, layer_numbers

    try:
        numbers = tuple(sorted(layer_numbers(backbone.depth, layers)))  # type: ignore[arg-type]
        check_norm(backbone, norm)
        settings = None if two is None else TwoStage(rule=rule.two_stage, **two.model_dump())
        if two is not None:
            check_two_stage(
                backbone, two.mode, two.pool, rule=rule.two_stage, strict_pixels=two.strict_pixels, fill=two.fill,
                allow_boundary_leak=two.allow_boundary_leak,
            )  # fmt: skip
        elif "mask_only" in controls:
            raise ValueError("mask_only is a control of two-stage vectors, which were not asked for")
    except ValueError as error:
        raise StepError(str(error), step=ctx.step) from error
    own = tuple(name for name in ("random_region", "mask_only", "swap", "no_artefacts") if name in controls)
    return Recipe(numbers, pooling, norm, rule.pool, settings, own, batch, seed)


def _job(
    ctx: StepContext, backbone: VisionBackbone, images: PartImages, recipe: Recipe, controls: list[Control], dtype: str,
    splits: list[Literal["train", "val", "test"]], limit: int | None,
) -> Extraction:  # fmt: skip
    from runner.data.parts.reading import PartReader
    from runner.data.sampling import sampled
    from runner.errors import DataError
    from runner.nodes.leakage.extraction import Extraction
    from runner.nodes.leakage.loading import Loader, draw_donors

    reader = PartReader(images)
    rows: list[int] = []
    for split in sorted(set(splits)):
        own = [row for row, name in enumerate(reader.splits) if name == split]
        rows += sampled(own, limit, recipe.seed, lambda row: reader.sample_ids[row])
    if not rows:
        raise DataError(f"{images.about['dataset']} has no picture in the splits {', '.join(splits)}")
    rows.sort()
    further = tuple(name for name in SOURCES if name in controls)
    donors = draw_donors(rows, reader.splits, recipe.seed) if "swap" in controls else {}
    loader = Loader(reader, backbone, images.about, further, donors, recipe.seed)
    return Extraction(backbone, recipe, reader, loader, rows, [*reader.parts, *further], dtype, ctx.scratch)


def _artifact(
    ctx: StepContext, images: PartImages, job: Extraction, outcome: Outcome, asked: dict[str, Any], pictures: int
) -> PartFeatures:
    import numpy as np
    import pyarrow as pa

    from results.tables import arrow_table
    from runner.nodes.leakage.extracting import described
    from runner.nodes.leakage.extraction import part_rows

    reader, backbone = job.reader, job.backbone
    present = dict(outcome.present)
    if "swap" in present:
        present["swap_donor"] = np.array(_donors(job, outcome), np.int64)
    model = {
        name: getattr(backbone, name)
        for name in ("name", "family", "identity", "kind_of_layers", "depth", "image_size", "prefix_tokens", "random_init", "small")
    }  # fmt: skip
    model |= {
        "layers": list(job.recipe.layers),
        "patch_sizes": list(backbone.patch_sizes),
        "notes": list(backbone.notes),
    }
    rule = asked["patch_rule"]["two_stage"]
    return PartFeatures(
        model=model, about=images.about, settings=asked, extractors=described(job.recipe), sources=job.sources,
        vectors=ctx.folder("vectors"), present=present,
        labels={name: np.ascontiguousarray(values[job.rows]) for name, values in images.labels.items()},
        rows=pa.table({"sample_id": [reader.sample_ids[r] for r in job.rows], "split": [reader.splits[r] for r in job.rows]}),
        parts=arrow_table("leak_parts", part_rows(job, outcome, images.about, rule)),
        pictures=arrow_table("leak_picture", _shown(job, outcome, images.about["dataset"], pictures)),
    )  # fmt: skip


def _donors(job: Extraction, outcome: Outcome) -> list[int]:
    """For each picture the place among the rows of the arrays of the one that surrounds its parts, -1 for none."""
    place = {row: i for i, row in enumerate(job.rows) if row not in outcome.unreadable}
    return [place.get(job.loader.donors.get(row, -1), -1) if row in place else -1 for row in job.rows]


def _shown(job: Extraction, outcome: Outcome, dataset: str, count: int) -> list[dict[str, Any]]:
    """Rows of ``leak_picture``."""
    from runner.data.images import UnreadableImage
    from runner.nodes.leakage.overlays import colours_of, overlay, picture, spread_out

    reader, recipe = job.reader, job.recipe
    readable = [row for row in job.rows if row not in outcome.unreadable]
    chosen = spread_out(readable, reader.splits, count, reader.sample_ids, recipe.seed)
    patch_size, found = job.backbone.patch_sizes[recipe.layers[-1]], []
    for row, image in sorted(reader.pictures(chosen), key=lambda pair: pair[0]):
        if isinstance(image, UnreadableImage):
            continue
        drawn = job.loader.draw(row, image)
        found.append(
            {
                "dataset": dataset, "model": job.backbone.name, "sample_id": reader.sample_ids[row], "split": reader.splits[row],
                "picture": picture(drawn.pixels), "overlay": overlay(drawn.pixels, drawn.masks, patch_size, recipe.rule),
                "parts": reader.parts, "colours": colours_of(len(reader.parts)),
            }
        )  # fmt: skip
    return found
