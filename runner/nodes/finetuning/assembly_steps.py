"""Steps `lvlm.assemble`, `lvlm.merge`. Light: imported to validate a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from runner.context import StepContext
from runner.models.base import VisionLanguageModel
from runner.references import AssetRef, InputPath
from runner.steps import Artifact, Folder, step

LANGUAGE = AssetRef("asset:smollm2-135m")
VISION = AssetRef("asset:dinov2-small-focus")


@dataclass(frozen=True)
class AssembledLvlm(Artifact):
    """A stock LLaVA folder whose projector knows nothing yet. ``checkpoint``: the folder; ``summary``: its parts."""

    checkpoint: Folder
    summary: dict[str, Any]


@step("lvlm.assemble", version="1")
def assemble(
    ctx: StepContext,
    *,
    language: Annotated[InputPath, Field(description="GGUF file of a Llama, or a folder that holds one")] = LANGUAGE,
    vision: Annotated[InputPath, Field(description="DINOv2 weights of timm, safetensors file or its folder")] = VISION,
    image_size: Annotated[int, Field(ge=14, le=1022, multiple_of=14, description="pixels of a side")] = 84,
    feature_layer: Annotated[int, Field(le=-1, ge=-12, description="block whose patches are read; -1: the last")] = -4,
    dtype: Annotated[Literal["float32", "bfloat16"], Field(description="of the written weights")] = "bfloat16",
    seed: Annotated[int | None, Field(ge=0, description="of the untrained projector; none = the run's")] = None,
) -> AssembledLvlm:
    """Put a vision tower, an untrained 2-layer projector and a small language model together as a stock LLaVA.

    It answers nothing sensible before its projector is trained (`lvlm.finetune`) or an adapter that holds one is loaded with it.
    """
    from runner.assets import resolve
    from runner.models.lvlm import tiny

    words, eyes = _file(resolve(language), "*.gguf"), _file(resolve(vision), "*.safetensors")
    seed, out = ctx.seed if seed is None else seed, ctx.folder("checkpoint")
    tiny.assemble(words, eyes, out, image_size=image_size, feature_layer=feature_layer, dtype=dtype, seed=seed)
    told = {"language": words.name, "vision": eyes.name, "image_size": image_size, "feature_layer": feature_layer}
    return AssembledLvlm(out, {**told, "seed": seed})


@dataclass(frozen=True)
class WholeLvlm(Artifact):
    """A model and its adapter as one checkpoint. ``checkpoint``: the folder, in the layout it was loaded from."""

    checkpoint: Folder
    summary: dict[str, Any]


@step("lvlm.merge", version="1")
def merge(
    ctx: StepContext,
    *,
    model: VisionLanguageModel,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Field(description="of the written weights; none = the model's"),
    ] = None,
) -> WholeLvlm:
    """Write a model with its adapter merged into its weights (in float32, then rounded once)."""
    import torch

    from runner.models.lvlm.pruned import save_like

    dtype = dtype or model.dtype  # type: ignore[assignment]
    network = model.load(dtype="float32").network.to(getattr(torch, str(dtype)))
    with torch.no_grad():
        written = save_like(network, model.folder, ctx.folder("checkpoint"))
    return WholeLvlm(
        ctx.folder("checkpoint"),
        {"model": model.name, "dtype": dtype, "bytes": written.bytes, "sha256": written.sha256},
    )


def _file(path: Any, pattern: str) -> Any:
    """The one file of a folder, or the file itself. Raises ``ModelRefused``."""
    from runner.errors import ModelRefused

    found = sorted(path.glob(pattern)) if path.is_dir() else [path]
    if len(found) != 1:
        raise ModelRefused(f"{path.name} holds {len(found)} files {pattern}", hint="name the file itself")
    return found[0]
