"""timm models by hub name (``hf-hub:OWNER/NAME@REVISION``): config and safetensors only, fetched when loaded."""

from __future__ import annotations

from pathlib import Path

from runner.errors import ModelRefused

HUB = "hf-hub:"
_FILES = ["config.json", "model.safetensors"]


def fetch(name: str) -> Path:
    """The folder of a hub model, from the hub's local cache where it is there. Raises ``ModelRefused``."""
    from runner.imports import importing

    with importing:
        from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    except Exception as error:  # the network, the hub and the name may each be wrong
        raise ModelRefused(
            f"{name}: cannot be fetched: {type(error).__name__}",
            hint="Check the name and the connection, or download it and give the folder.",
        ) from error
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise ModelRefused(
            f"{name}: it has no {' and no '.join(missing)}", hint="Only timm models in safetensors are loaded."
        )
    return folder
