"""A classifier that runs in PyTorch, and its loaders: Hugging Face folder, timm folder, checkpoint with architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from runner.context import item_key
from runner.errors import ModelRefused
from runner.imports import building, importing
from runner.models.base import Classifier
from runner.models.classifier import preprocess as pre
from runner.models.classifier.architectures import build, usual_preprocessing
from runner.models.classifier.labels import check_labels, labels_from_id2label, need_labels
from runner.models.classifier.sniff import read_json
from runner.models.classifier.weights import fill, read_safetensors, read_state_dict, sha256_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.base import FloatArray

Head = Literal["softmax", "multilabel"]


class TorchClassifier(Classifier):
    """A network in evaluation mode without gradients; batches are cut to ``batch_size`` images."""

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        name: str,
        format: str,
        weights_sha256: str,
        labels: tuple[str, ...],
        preprocess: pre.Preprocess,
        head: Head,
        device: str,
        batch_size: int,
    ) -> None:
        self.name, self.format, self.labels, self.head = name, format, labels, head
        self.preprocess, self.batch_size, self.device = preprocess, batch_size, device
        self.identity = item_key(weights_sha256, format, labels, preprocess.as_dict(), head)
        self._network = network.to(device).eval().requires_grad_(False)
        if any(module.training for module in self._network.modules()):
            raise ModelRefused(f"{name}: a part of the network stays in training mode")

    def prepare(self, image: Image) -> FloatArray:
        """Preprocess one picture."""
        return self.preprocess(image)

    def logits(self, batch: FloatArray) -> FloatArray:
        """Class scores, float32 [n, labels]."""
        with torch.inference_mode():
            parts = [self._forward(torch.from_numpy(batch[i : i + self.batch_size])) for i in range(0, len(batch), self.batch_size)]  # fmt: skip
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)

    def _forward(self, batch: torch.Tensor) -> FloatArray:
        output = self._network(batch.to(self.device))
        scores: FloatArray = getattr(output, "logits", output).float().cpu().numpy()
        return scores


def load_checkpoint(
    path: Path,
    format: str,
    *,
    labels: Sequence[str] | None,
    architecture: str | None,
    preprocess: pre.Preprocess | None,
    **settings: Any,
) -> TorchClassifier:
    """A safetensors file or a restricted state dict, in the network named by ``architecture``."""
    if architecture is None:
        raise ModelRefused(
            f"{path}: this file holds weights only; which network they belong to must be said",
            hint="Give `architecture:`, such as timm:resnet18, torchvision:resnet50 or runner:cifar_resnet56.",
        )
    names = need_labels(labels, str(path))
    if preprocess is None:
        usual = usual_preprocessing(architecture)
        raise ModelRefused(
            f"{path}: this file does not say how pictures are preprocessed",
            hint=f"Give `preprocess: {usual or '{size: ..., mean: [...], std: [...]}'}`"
            + (", as this architecture is mostly trained, if that is so here." if usual else "."),
        )
    tensors = read_safetensors(path) if format == "safetensors" else read_state_dict(path)
    network = build(architecture, len(names), tensors)
    fill(network, tensors, str(path))
    sha = item_key(sha256_of([path]), architecture)
    return TorchClassifier(
        network, format=format, weights_sha256=sha, labels=names, preprocess=preprocess, **settings
    )  # fmt: skip


def load_timm(
    path: Path, *, labels: Sequence[str] | None, preprocess: pre.Preprocess | None, **settings: Any
) -> TorchClassifier:
    """A folder with timm's ``config.json`` and ``model.safetensors``."""
    config = read_json(path / "config.json")
    pretrained = config.get("pretrained_cfg")
    pretrained = pretrained if isinstance(pretrained, Mapping) else config
    names = check_labels(labels, "labels") if labels is not None else _timm_labels(config, pretrained, path)
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise ModelRefused(f"{path}: there is no model.safetensors in this folder")
    tensors = read_safetensors(weights)
    network = build(f"timm:{config['architecture']}", len(names), tensors)
    fill(network, tensors, str(weights))
    chosen = preprocess or pre.from_timm(dict(pretrained))
    sha = item_key(sha256_of([weights]), config["architecture"])
    return TorchClassifier(network, format="timm", weights_sha256=sha, labels=names, preprocess=chosen, **settings)


def _timm_labels(config: Mapping[str, Any], pretrained: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    where = str(path / "config.json")
    names = config.get("label_names") or pretrained.get("label_names")
    described = config.get("label_descriptions") or pretrained.get("label_descriptions")
    if isinstance(names, list) and isinstance(described, Mapping):
        names = [described.get(name, name) for name in names]
    return need_labels(names if isinstance(names, list) else None, where)


def load_huggingface(
    path: Path, *, labels: Sequence[str] | None, preprocess: pre.Preprocess | None, **settings: Any
) -> TorchClassifier:
    """A folder with ``config.json``, ``model.safetensors`` (or its shards) and ``preprocessor_config.json``."""
    config = read_json(path / "config.json")
    _refuse_reaching_config(config, path)
    where = str(path / "config.json")
    names = (
        check_labels(labels, "labels") if labels is not None else labels_from_id2label(config.get("id2label"), where)
    )
    files = _weight_files(path)
    chosen = preprocess or _huggingface_preprocess(path)
    network = _huggingface_network(path)
    sha = item_key(sha256_of([path / "config.json", *files]))
    return TorchClassifier(
        network, format="huggingface", weights_sha256=sha, labels=names, preprocess=chosen, **settings
    )  # fmt: skip


def _refuse_reaching_config(config: Mapping[str, Any], path: Path) -> None:
    """Settings that would fetch or run something that is not in the folder."""
    for name in ("quantization_config", "use_pretrained_backbone"):
        if config.get(name):
            raise ModelRefused(f"{path}: config.json sets {name}, which is not loaded here")
    if (path / "adapter_config.json").exists():
        raise ModelRefused(f"{path}: this folder holds an adapter that names another model", hint="Merge it first.")


def _weight_files(path: Path) -> list[Path]:
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = read_json(index).get("weight_map")
        files = sorted({str(name) for name in names.values()}) if isinstance(names, Mapping) else []
        if not files or any(Path(name).name != name or not (path / name).is_file() for name in files):
            raise ModelRefused(f"{index}: it names shards that are not in its folder")
        return [path / name for name in files]
    old = sorted(p.name for p in path.glob("*.bin"))
    raise ModelRefused(
        f"{path}: there is no model.safetensors in this folder"
        + (f" (only {', '.join(old)}, a pickle)" if old else ""),
        hint="Ask its author for safetensors."
        + (
            f" Or say `trust: code` and `sha256: {sha256_of([path / old[0]])}`, to take its tensors out in a confined process."
            if old == ["pytorch_model.bin"]
            else ""
        ),
    )


def _huggingface_preprocess(path: Path) -> pre.Preprocess:
    file = path / "preprocessor_config.json"
    if not file.is_file():
        raise ModelRefused(
            f"{path}: there is no preprocessor_config.json, so it is not known how pictures are preprocessed",
            hint="Give `preprocess: {size: ..., mean: [...], std: [...]}`.",
        )
    return pre.from_huggingface(read_json(file))


def _huggingface_network(path: Path) -> torch.nn.Module:
    with importing:
        from transformers import AutoModelForImageClassification

    # Each of these is said, not left to its default: unset, `auto_map` asks at the terminal and an attention setting
    # of the config may name code on a hub.
    try:
        with building:
            network, loading = AutoModelForImageClassification.from_pretrained(
                str(path),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                attn_implementation="eager",
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # listed in the loading info, and refused below
                output_loading_info=True,
            )
    except Exception as error:  # a stranger's folder may fail in any way
        raise ModelRefused(f"{path}: transformers cannot load it: {type(error).__name__}: {error}") from error
    wrong = {kind: sorted(map(str, loading[kind])) for kind in _LOADING_PROBLEMS if loading.get(kind)}
    if wrong:
        listed = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names[:4])}" for kind, names in wrong.items())
        raise ModelRefused(f"{path}: the weights do not fit the config: {listed}")
    return network  # type: ignore[no-any-return]


_LOADING_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
