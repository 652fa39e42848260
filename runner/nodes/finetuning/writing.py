"""What a training leaves on disk: an adapter of peft, and the whole model in the layout it came from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from runner.models.base import VisionLanguageModel
from runner.models.lvlm.loading import PRUNED
from runner.nodes.finetuning.learner import merge, write_adapter
from runner.nodes.finetuning.running import Trained

WORDS = (
    "*.json", "*.jinja", "*.txt", "tokenizer.model", "spiece.model",
)  # fmt: skip
"""Small files beside the weights: tokenizer, processor, templates."""
NOT_COPIED = ("model.safetensors.index.json", "adapter_config.json")


def write(trained: Trained, model: VisionLanguageModel, adapter: Path, checkpoint: Path | None) -> None:
    """Fill ``adapter`` (nothing for a training of everything) and, where it is given, ``checkpoint``."""
    if trained.learner.adapted is not None:
        write_adapter(trained.learner, adapter)
    if checkpoint is not None:
        write_checkpoint(merge(trained.learner), model.folder, checkpoint)


def write_checkpoint(network: Any, source: Path, folder: Path) -> None:
    """Weights of ``network`` in the layout of ``source``, with its small files. The dtype is that of the network."""
    folder.mkdir(parents=True, exist_ok=True)
    if (source / PRUNED).is_file():
        _write_pruned(network, source, folder)
    else:
        network.save_pretrained(folder)
    present = {path.name for path in folder.iterdir()}
    for pattern in WORDS:
        for path in source.glob(pattern):
            if path.is_file() and path.name not in present and path.name not in NOT_COPIED:
                shutil.copyfile(path, folder / path.name)


def _write_pruned(network: Any, source: Path, folder: Path) -> None:
    """Sliced tensors under the names in which the source holds them: only their values are new."""
    from safetensors.torch import save_file

    weights = {name: w.detach().cpu().contiguous() for name, w in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
