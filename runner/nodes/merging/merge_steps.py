"""Steps `merge.experts`, `merge.write`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from runner.artifacts import Experts, FinetunedLvlm, MergedLvlm
from runner.context import StepContext
from runner.models.base import VisionLanguageModel
from runner.nodes.merging.specs import MergeSpec
from runner.references import AssetRef, InputPath
from runner.steps import step

if TYPE_CHECKING:
    from pathlib import Path

Weight = Annotated[float, Field(allow_inf_nan=False)]


def _some(paths: dict[str, Any]) -> dict[str, Any]:
    for name in paths:
        if not name.isprintable() or not 0 < len(name) <= 100:
            raise ValueError(f"{name[:60]!r} cannot name an expert: one printable line of 1 to 100 characters")
    return paths


@step("merge.experts", version="1")
def experts(
    ctx: StepContext,
    *,
    base: VisionLanguageModel,
    paths: Annotated[
        dict[str, InputPath],
        Field(description="name of each expert: folder of peft (LoRA) or a whole checkpoint"),
        AfterValidator(_some),
    ] = {},  # noqa: B006
    trained: Annotated[dict[str, FinetunedLvlm], Field(description="experts that steps trained")] = {},  # noqa: B006
) -> Experts:
    """Experts of one base, checked to belong together, with the cosines of what they change; their order is that of all weights."""
    from results.tables import arrow_table
    from runner.errors import StepError
    from runner.nodes.merging.describing import describe

    twice = sorted(paths.keys() & trained.keys())
    if twice:
        raise StepError(f"expert {twice[0]!r} is named under paths and under trained", step=ctx.step)
    folders = {name: _local(path) for name, path in paths.items()}
    folders |= {name: _folder_of(one) for name, one in trained.items()}
    found = describe(base_folder(base), folders, base_name=base.name)
    for text in found.warnings:
        ctx.warn(text)
    models = [
        {"name": fact.name, "kind": fact.kind, "path": str(fact.path.absolute()), "weights": None, "summary": {"merged": fact.merged,
         "copied": fact.copied, "ignored": len(fact.ignored)}} for fact in found.facts
    ]  # fmt: skip
    return Experts(
        base={"name": base.name, "identity": base.identity, "folder": str(base.folder)}, domains=list(folders), models=models,
        folder=ctx.folder("folder"), experts=arrow_table("dmo_expert", found.experts),
        geometry=arrow_table("dmo_geometry", found.geometry), log=arrow_table("recovery_step", []),
    )  # fmt: skip


@step("merge.write", version="1")
def write(
    ctx: StepContext,
    *,
    base: VisionLanguageModel,
    experts: Experts,
    weights: Annotated[dict[str, Weight], Field(min_length=1, description="of the experts; those left out have 0")],
    merge: MergeSpec = MergeSpec(),  # noqa: B008 - frozen
    label: Annotated[str, Field(min_length=1, max_length=200, description="what results call the merge")] = "merged",
) -> MergedLvlm:
    """Write one merge: a whole checkpoint in the base's layout and, where it is linear and all experts are LoRA, one adapter."""
    from runner.nodes.merging.writing import write_merge

    return write_merge(ctx, base, base_folder(base), experts, weights, merge, label)


def base_folder(base: VisionLanguageModel) -> Path:
    """Where the base's own weights stand. Raises ``ModelRefused`` where an adapter would be merged into them first."""
    from runner.errors import ModelRefused

    if base.adapter is not None:
        raise ModelRefused(
            f"{base.name} is a folder with an adapter, so its weights stand nowhere as a whole",
            hint="write them first (merge: true of the step that trained it) and name that checkpoint as the base",
        )
    return base.folder


def _local(path: str) -> Path:
    from pathlib import Path

    if not isinstance(path, AssetRef):
        return Path(path)
    from runner.assets import ensure

    return ensure(path.name).path


def _folder_of(trained: FinetunedLvlm) -> Path:
    """The adapter, else the whole model."""
    return trained.adapter if (trained.adapter / "adapter_config.json").is_file() else trained.checkpoint
