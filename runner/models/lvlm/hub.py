"""Model folders of the hub: configurations, tokenizer and safetensors only, fetched when a step needs them."""

from __future__ import annotations

from pathlib import Path

from runner.errors import ModelRefused
from runner.imports import importing

FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "spiece.model", "merges.txt", "vocab.txt"]


def fetch(name: str) -> Path:
    """The folder of ``OWNER/NAME[@REVISION]``, from the hub's local cache where it is there. Raises ``ModelRefused``."""
    with importing:
        from huggingface_hub import snapshot_download
    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # the network, the hub and the name may each be wrong
        raise ModelRefused(
            f"{name}: cannot be fetched: {type(error).__name__}",
            hint="Check the name and the connection, or download it and give the folder in `path`.",
        ) from error
