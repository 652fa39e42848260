"""An edited CLIP as a folder that stock open_clip loads: its config, float32 weights, and the record of the edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from runner.errors import ModelRefused
from runner.models.base import ClipModel
from runner.nodes.sith.tower import precise

VISUAL = "visual."


def write_checkpoint(
    folder: Path, clip: ClipModel, visual: Mapping[str, Tensor] | None, record: dict[str, Any]
) -> None:
    """Write the model with ``visual``, a state dict of the vision tower, in place of its own; None writes no weights (a dry run)."""
    state = None
    if visual is not None:
        state = clip.network.state_dict() | {VISUAL + name: value for name, value in visual.items()}
    write_state(folder, clip, state, record)


def write_state(folder: Path, clip: ClipModel, state: Mapping[str, Tensor] | None, record: dict[str, Any]) -> None:
    """Write ``open_clip_config.json``, ``open_clip_model.safetensors`` (the whole ``state``) and ``edit.json``.

    Half precision becomes float32; notes of the original's config, such as that it is small, are kept. Raises
    ``ModelRefused`` where the model's config is not known.
    """
    from safetensors.torch import save_file

    if clip.config is None:
        raise ModelRefused(f"{clip.name}: its open_clip config is not known, so its weights cannot be written")
    if state is not None:
        tensors = {name: precise(value).cpu().clone().contiguous() for name, value in state.items()}
        save_file(tensors, folder / "open_clip_model.safetensors")
    _write_json(folder / "open_clip_config.json", clip.config)
    _write_json(folder / "edit.json", record)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True), "utf8")
