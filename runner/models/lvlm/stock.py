"""What stock transformers makes of a config: whether it can hold a network that was cut, and the config to write for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.errors import ModelRefused
from runner.imports import building, importing

WIDTHS = ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")


def stock_class(config: Any) -> Any:
    """The class of transformers that a config describes: of image and text where it has a vision part, else of text."""
    with importing:
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    auto: Any = AutoModelForImageTextToText if getattr(config, "vision_config", None) else AutoModelForCausalLM
    try:
        return auto._model_mapping[type(config)]
    except KeyError as error:
        raise ModelRefused(f"transformers has no model for a config of {config.model_type!r}") from error


def on_meta(config: Any) -> Any:
    """The stock network of a config without memory for its weights."""
    import torch

    with building, torch.device("meta"):
        return stock_class(config)._from_config(config)


def config_of(given: dict[str, Any]) -> Any:
    """The config object of a ``config.json``'s content. Raises ``ModelRefused`` where transformers takes none such."""
    from huggingface_hub.errors import StrictDataclassError

    with importing:
        from transformers import CONFIG_MAPPING
    try:
        return CONFIG_MAPPING[given["model_type"]].from_dict(given)
    except KeyError as error:
        raise ModelRefused(f"transformers knows no model_type {given.get('model_type')!r}") from error
    except StrictDataclassError as error:
        raise ModelRefused(" ".join(str(error).split())[:300]) from error


def config_to_write(network: Any, format: str, source: Path, decoder: str) -> tuple[dict[str, Any], str | None]:
    """Content of ``config.json``, and what a reader must know of it."""
    config = network.config.to_dict() | {
        "architectures": [type(network).__name__], "dtype": str(network.dtype).removeprefix("torch.")
    }  # fmt: skip
    text = _text_part(network, config)
    if format == "manifest":
        text.update(source_widths(source, text))
        return config, None
    problem = _problem(config, network)
    if problem is None:
        return config, None
    twin = _as_mistral(network, config)
    if format == "uniform" and twin is not None and _problem(twin, network) is None:
        return (
            twin,
            "written as Mistral without a sliding window, the same function: Llama's config wants heads that divide the width",
        )
    raise ModelRefused(
        f"format {format}: the stock {config['architectures'][0]} cannot hold this model: {problem}",
        hint="Write `format: manifest`, which this project's loader reads.",
    )


def source_widths(source: Path, text: dict[str, Any]) -> dict[str, Any]:
    """Widths of the model before the cut, from which layers of a manifest are resized."""
    with importing:
        from transformers import AutoConfig
    given = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False).get_text_config()
    return {name: getattr(given, name, text.get(name)) for name in WIDTHS if name in text}


def _text_part(network: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config's dict that describes the decoder: itself, or one below it."""
    text = network.config.get_text_config()
    name = next((name for name, value in vars(network.config).items() if value is text), None)
    found: dict[str, Any] = config if name is None else config[name]
    return found


def _problem(config: dict[str, Any], network: Any) -> str | None:
    """Why a stock network of this config has not this network's shapes, or None."""
    try:
        stock = on_meta(config_of(config))
    except (ValueError, TypeError, KeyError, RuntimeError, ModelRefused) as error:
        return " ".join(str(error).split())[:300]
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    built = {name: tuple(value.shape) for name, value in stock.state_dict().items()}
    for name in sorted(wanted.keys() | built.keys()):
        if wanted.get(name) != built.get(name):
            return f"{name} is {wanted.get(name, 'missing')} here and {built.get(name, 'missing')} there"
    return None


def _as_mistral(network: Any, config: dict[str, Any]) -> dict[str, Any] | None:
    """The config of the same network as a Mistral; None where the text model is no Llama, or has biases."""
    copied: dict[str, Any] = json.loads(json.dumps(config))
    text = _text_part(network, copied)
    if text.get("model_type") != "llama" or text.get("attention_bias") or text.get("mlp_bias"):
        return None
    for name in ("attention_bias", "mlp_bias", "pretraining_tp"):
        text.pop(name, None)
    text |= {"model_type": "mistral", "sliding_window": None}
    if text is copied:
        text["architectures"] = ["MistralForCausalLM"]
    return copied
