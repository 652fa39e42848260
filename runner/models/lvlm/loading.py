"""Vision-language models from folders: weights as data, an adapter merged, pruned layouts rebuilt.

``read(folder)`` gives a network that the caller owns and may change; ``Lvlm`` is the handle that steps are given. Only safetensors are
read and no code from the folder runs; what cannot be loaded is refused from its small files, before any weight is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ModelRefused
from runner.imports import building, importing
from runner.models.base import VisionLanguageModel

if TYPE_CHECKING:
    import torch

    from runner.models.chat.templates import ChatTemplate

DTYPES = ("float32", "bfloat16", "float16")
PRUNED = "pruning.json"
"""What says that a folder's layers have widths of their own (``runner.models.lvlm.pruned``)."""
ADAPTER = "adapter_config.json"
_WORDS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json", "spiece.model")
_SEEING = ("processor_config.json", "preprocessor_config.json")


@dataclass
class LoadedLvlm:
    """A network of transformers in evaluation mode, its own copy of the weights, and what feeds it.

    ``processor``: None for a model that reads text only. ``tokenizer``: None where the folder has none; such a model takes
    tensors but no records. ``name`` stands in messages. All parameters may take gradients.
    """

    network: Any
    processor: Any
    tokenizer: Any
    device: str
    name: str

    @property
    def sees(self) -> bool:
        """Whether it takes pictures."""
        return self.processor is not None

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        found: torch.dtype = self.network.dtype
        return found

    @cached_property
    def chat(self) -> ChatTemplate:
        """Its chat template. Raises ``ModelRefused`` where it has none that can be used."""
        from runner.models.chat.templates import ChatTemplate

        return ChatTemplate(self.tokenizer, self.name, self.processor)

    def close(self) -> None:
        """Let go of the weights."""
        self.network = None


class Lvlm(VisionLanguageModel):
    """The handle of a folder. Light until ``load``; every ``load`` reads the weights anew."""

    def __init__(
        self,
        folder: Path,
        *,
        adapter: Path | None = None,
        dtype: str = "bfloat16",
        device: str = "cpu",
        decoder: str = "auto",
        name: str = "",
        small: bool = False,
    ) -> None:
        """Raises ``ModelRefused`` where the folder holds no model that can be loaded safely."""
        config = check(folder)
        self.adapter = adapter if adapter is not None and check_adapter(adapter) else None
        self.folder, self.dtype, self.device, self.decoder = folder, dtype, device, decoder
        self.name = name or folder.name
        told = config.get("runner")
        told = told if isinstance(told, dict) else {}
        self.small = small or told.get("small") is True
        self.notes = tuple(str(note) for note in told.get("notes") or ())

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """SHA-256 (hex) of all files of folder and adapter, with the dtype."""
        from runner.models.chat.keys import canonical, content_sha256

        parts = [content_sha256(self.folder), self.adapter and content_sha256(self.adapter), self.dtype]
        return hashlib.sha256(canonical(parts).encode()).hexdigest()

    def load(self, *, dtype: str | None = None) -> LoadedLvlm:
        """A fresh copy; see ``read``."""
        loaded = read(self.folder, adapter=self.adapter, dtype=dtype or self.dtype, device=self.device)
        loaded.name = self.name
        return loaded


def read(
    folder: Path, *, adapter: Path | None = None, dtype: str = "bfloat16", device: str = "cpu", name: str = ""
) -> LoadedLvlm:
    """Network, processor and tokenizer of a folder in the stock layout, or of a pruned one (``pruning.json``).

    ``adapter``: a folder of peft, merged into the weights in float32 before they are cast to ``dtype`` (``float32``,
    ``bfloat16``, ``float16``); an empty folder is no adapter. Raises ``ModelRefused``: quantised or pickled weights, missing ones,
    a layout that transformers does not know.
    """
    import torch

    if dtype not in DTYPES:
        raise ModelRefused(f"dtype {dtype!r} is not among {', '.join(DTYPES)}")
    config, named = check(folder), name or folder.name
    merging = adapter is not None and check_adapter(adapter)
    network = _network(folder, config, getattr(torch, "float32" if merging else dtype))
    if adapter is not None and merging:
        network = merge_adapter(network, adapter).to(getattr(torch, dtype))
    processor, tokenizer = _words(folder, sees=sees(config))
    return LoadedLvlm(network.to(device).eval().requires_grad_(True), processor, tokenizer, device, named)


# --- checks before any weight is read --------------------------------------------------------------------------------


def check(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``. Raises ``ModelRefused`` for what is no model in a safe, whole, unquantised form."""
    config = _json(folder / "config.json", "`path` wants a model folder in the layout of transformers")
    for part in (config, *(v for v in config.values() if isinstance(v, dict))):
        if part.get("quantization_config"):
            raise ModelRefused(
                f"{folder}: its weights are quantised; they can be neither pruned, merged nor trained",
                hint="take the version of the model in bfloat16 or float16",
            )
    if not any(folder.glob("*.safetensors")):
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".gguf", ".ckpt"))
        found = f", only {others[0]}" if others else ""
        raise ModelRefused(
            f"{folder} holds no safetensors weights{found}",
            hint="pickled weights can run code and are not loaded; convert them to safetensors",
        )
    _check_shards(folder)
    return config


def check_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter (an empty one does not). Raises ``ModelRefused`` for a damaged one."""
    if folder.is_dir() and not any(folder.iterdir()):
        return False
    _json(folder / ADAPTER, "`adapter` wants a folder that peft has written")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelRefused(
            f"{folder} holds no adapter_model.safetensors", hint="pickled adapters can run code and are not loaded"
        )
    return True


def sees(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` describes a model that takes pictures."""
    return isinstance(config.get("vision_config"), dict)


def _json(path: Path, hint: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf8"))
    except FileNotFoundError as error:
        raise ModelRefused(f"{path.parent} holds no {path.name}", hint=hint) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path} cannot be read: {type(error).__name__}", hint=hint) from error
    if not isinstance(found, dict):
        raise ModelRefused(f"{path} holds no JSON object", hint=hint)
    return found


def _check_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    named = _json(index, "download the folder again").get("weight_map")
    files = {str(f) for f in named.values()} if isinstance(named, dict) else set()
    missing = sorted(f for f in files if not (folder / f).is_file())
    if missing:
        raise ModelRefused(
            f"{folder} lacks {len(missing)} of {len(files)} weight files, such as {missing[0]}",
            hint="download the folder again",
        )


# --- reading ---------------------------------------------------------------------------------------------------------


def _network(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Any:
    if (folder / PRUNED).is_file():
        from runner.models.lvlm.pruned import load

        return load(folder, dtype, "cpu")
    from safetensors import SafetensorError

    with importing:
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
        from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    kind: Any = AutoModelForImageTextToText if sees(config) else AutoModelForCausalLM
    try:
        with building:
            network, report = kind.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **_LOCAL
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelRefused(f"{folder} cannot be loaded: {error}", hint=_layout_hint(config)) from error
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelRefused(f"{folder} lacks weights that its config asks for, such as {some}")
    return network


_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def _layout_hint(config: dict[str, Any]) -> str | None:
    if "auto_map" not in config:
        return None
    return (
        "its layout needs code from the folder, which is not run: take the version in the layout of transformers (-hf)"
    )


def _words(folder: Path, *, sees: bool) -> tuple[Any, Any]:
    """Processor (None for text only) and tokenizer (None where there is none)."""
    with importing:
        from transformers import AutoProcessor, AutoTokenizer
    has_words = any((folder / name).is_file() for name in _WORDS)
    try:
        if sees and has_words and any((folder / name).is_file() for name in _SEEING):
            processor: Any = AutoProcessor.from_pretrained(folder, **_LOCAL)  # type: ignore[no-untyped-call]
            return processor, processor.tokenizer
        return None, AutoTokenizer.from_pretrained(folder, **_LOCAL) if has_words else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise ModelRefused(
            f"{folder}: its tokenizer or processor cannot be loaded: {text}", hint=_install_hint(error)
        ) from error


def _install_hint(error: Exception) -> str | None:
    """Processors that want packages which no other model here needs: SmolVLM's spells out numbers."""
    wants = isinstance(error, ImportError) and "num2words" in str(error)
    return "pip install num2words" if wants else None


def merge_adapter(network: Any, folder: Path) -> Any:
    """The network with a peft adapter merged into its weights, which should be float32. Raises ``ModelRefused``."""
    with importing:
        from peft import PeftModel
    try:
        with building:
            adapted = PeftModel.from_pretrained(network, str(folder), is_trainable=False)
        return adapted.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelRefused(
            f"{folder}: the adapter does not fit the model: {error}", hint="it belongs to another model or layout"
        ) from error
