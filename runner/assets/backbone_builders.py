"""Weights of vision backbones: from an exported graph to safetensors under timm's names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.errors import AssetError

WIDTH, DEPTH, PATCHES = 384, 12, 37 * 37
NOTE = "DINOv2-S/14 dulled by fine-tuning on saliency: fit to show structure, not for claims on accuracy"
_SAME = {  # timm's names of what the graph names itself, below a block
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_MATRICES = {"attn.proj.weight": "attention/output/dense", "mlp.fc1.weight": "mlp/fc1", "mlp.fc2.weight": "mlp/fc2"}
_QKV = ("query", "key", "value")


def dinov2_focus(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """The backbone of a saliency network -> ``model.safetensors`` of timm's ``vit_small_patch14_dinov2`` (518 pixels).

    Its header says that the weights are dulled. Raises ``AssetError`` where the graph is another one.
    """
    import numpy as np
    from safetensors.numpy import save_file

    try:
        tensors = focus_tensors(staging / "focus.onnx")
    except Exception as error:  # a graph that is another one, or damaged, may fail in any way
        raise AssetError(f"the saliency network's graph is not the expected one ({error})") from error
    told = {"runner": json.dumps({"small": True, "notes": [NOTE]})}
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, built / "model.safetensors", told)


def focus_tensors(path: Path) -> dict[str, Any]:
    """Tensors of the backbone by timm's names, float32 numpy.

    Vectors are named in the graph. Matrices are anonymous: each is the second input of a ``MatMul`` node whose name tells
    the layer, stored transposed. The position embedding was cut into the CLS token's row and the grid's. Raises
    ``KeyError`` or ``ValueError``.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    named = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    grid = _only(named, (1, PATCHES, WIDTH))
    first = _only({name: value for name, value in named.items() if "cls_token" not in name}, (1, 1, WIDTH))
    found = {
        "cls_token": named["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate([first, grid], 1),
        "patch_embed.proj.weight": named["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": named["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": named["backbone.layernorm.weight"],
        "norm.bias": named["backbone.layernorm.bias"],
    }
    for number in range(DEPTH):
        found |= _block(named, products, number)
    return found


def _block(named: Mapping[str, Any], products: Mapping[str, str], number: int) -> dict[str, Any]:
    """The tensors of one block."""
    import numpy as np

    ours, theirs = f"blocks.{number}.", f"backbone.encoder.layer.{number}."
    node = f"/backbone/encoder/layer.{number}/"

    def matrix(where: str) -> Any:
        return named[products[f"{node}{where}/MatMul"]].T

    same = {ours + name: named[theirs + source] for name, source in _SAME.items()}
    matrices = {ours + name: matrix(where) for name, where in _MATRICES.items()}
    joint = {
        f"{ours}attn.qkv.weight": np.concatenate([matrix(f"attention/attention/{part}") for part in _QKV]),
        f"{ours}attn.qkv.bias": np.concatenate([named[f"{theirs}attention.attention.{part}.bias"] for part in _QKV]),
    }
    return same | matrices | joint


def _only(named: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """The one tensor of this shape. Raises ``ValueError``."""
    found = [value for value in named.values() if value.shape == shape]
    if len(found) != 1:
        raise ValueError(f"{len(found)} tensors have the shape {list(shape)}")
    return found[0]
