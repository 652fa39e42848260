"""The face parser's weights: from a checkpoint to safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runner.errors import AssetError


def bisenet(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """BiSeNet's state dict -> ``model.safetensors`` with the same keys; read by the restricted loader only."""
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        state = torch.load(staging / "parser.pth", weights_only=True, map_location="cpu")
        save_file({str(key): value.contiguous() for key, value in state.items()}, built / "model.safetensors")
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, ValueError, EOFError) as error:
        raise AssetError(f"the face parser's checkpoint is damaged ({type(error).__name__})") from error
