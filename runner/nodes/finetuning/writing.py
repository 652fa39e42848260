"""What a training leaves on disk: an adapter of peft, and the whole model in the layout it came from."""

from __future__ import annotations

from pathlib import Path

from runner.models.base import VisionLanguageModel
from runner.nodes.finetuning.learner import merge, write_adapter
from runner.nodes.finetuning.running import Trained


def write(trained: Trained, model: VisionLanguageModel, adapter: Path, checkpoint: Path | None) -> None:
    """Fill ``adapter`` (nothing for a training of everything) and, where it is given, ``checkpoint``."""
    from runner.models.lvlm.pruned import save_like

    if trained.learner.adapted is not None:
        write_adapter(trained.learner, adapter)
    if checkpoint is not None:
        save_like(merge(trained.learner), model.folder, checkpoint)
