"""TensorFlow.js graph models, run by torch: the operators that the small face networks use, and no others.

A model is a JSON file (nodes, and a manifest of weights) with raw little-endian weights beside it; nothing in it is
code. Tensors are NHWC, as the graphs expect. Source: the layout of TensorFlow's GraphDef and of TF.js' weights manifest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from runner.errors import ModelRefused

Node = Mapping[str, Any]
MOST_BYTES = 1 << 28
_DTYPES = {"float32": np.float32, "int32": np.int32, "float16": np.float16, "uint8": np.uint8, "uint16": np.uint16}


def read_weights(manifest: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Tensor]:
    """Weights by name. ``quantization``: float16 is widened, integers become ``q * scale + min``. Raises ValueError."""
    found = {}
    for group in manifest:
        data = b"".join(_bytes_of(folder, name) for name in group["paths"])
        offset = 0
        for entry in group["weights"]:
            tensor, offset = _weight(entry, data, offset)
            found[str(entry["name"])] = tensor
        if offset != len(data):
            raise ValueError(f"{len(data) - offset} bytes of weights are left over")
    return found


def _bytes_of(folder: Path, name: str) -> bytes:
    path = folder / name
    if Path(name).name != name or path.is_symlink() or path.stat().st_size > MOST_BYTES:
        raise ValueError(f"weights may not be read from {name!r}")
    return path.read_bytes()


def _weight(entry: Mapping[str, Any], data: bytes, offset: int) -> tuple[Tensor, int]:
    packed = entry.get("quantization") or {}
    stored = np.dtype(_DTYPES[packed.get("dtype", entry["dtype"])]).newbyteorder("<")
    count = int(np.prod(entry["shape"], dtype=np.int64))
    values = np.frombuffer(data, stored, count, offset).reshape(entry["shape"])
    wanted = _DTYPES[entry["dtype"]]
    if packed and stored.kind != "f":
        values = values * packed["scale"] + packed["min"]
    return torch.from_numpy(np.array(values, wanted)), offset + count * stored.itemsize


class TfjsGraph:
    """A graph model. Raises ``ModelRefused`` where it is damaged or has an operator that is not known here."""

    def __init__(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            nodes = content["modelTopology"]["node"]
            self.weights = read_weights(content["weightsManifest"], path.parent)
            self._nodes = {str(node["name"]): node for node in nodes}
            (self._input,) = (name for name, node in self._nodes.items() if node["op"] == "Placeholder")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ModelRefused(f"{path}: not a TF.js graph model with one input: {error!r}") from error
        unknown = {node["op"] for node in nodes} - {*OPERATORS, "Const", "Placeholder"}
        if unknown:
            raise ModelRefused(f"{path}: operators {', '.join(sorted(unknown))} are not known here")

    @torch.inference_mode()
    def run(self, batch: Tensor, outputs: Sequence[str]) -> list[Tensor]:
        """The named nodes' values for a batch float32 [n, h, w, channels]. Raises ``ModelRefused`` for another name."""
        values: dict[str, Tensor] = {**self.weights, self._input: batch}
        for name in outputs:
            self._value(name, values)
        return [values[name] for name in outputs]

    def _value(self, wanted: str, values: dict[str, Tensor]) -> None:
        """Evaluate what ``wanted`` stands on, then itself; a stack of names, since graphs are deep."""
        waiting = [wanted]
        while waiting:
            name = waiting[-1]
            if name in values:
                waiting.pop()
                continue
            if name not in self._nodes or len(waiting) > 2 * len(self._nodes):
                raise ModelRefused(f"the graph has no value {name!r}, or goes round in a circle")
            node = self._nodes[name]
            needs = [_plain(i) for i in node.get("input", []) if not i.startswith("^")]
            missing = [need for need in needs if need not in values]
            if missing:
                waiting += missing
            else:
                values[name] = OPERATORS[node["op"]](node, *(values[need] for need in needs))


def _plain(name: str) -> str:
    """``node:0`` and ``node`` are the same output."""
    return name.removesuffix(":0")


# --- attributes ------------------------------------------------------------------------------------------------------


def _text(node: Node, name: str, default: str = "") -> str:
    value = node["attr"].get(name, {}).get("s")
    return base64.b64decode(value).decode() if value else default


def _texts(node: Node, name: str) -> list[str]:
    return [base64.b64decode(v).decode() for v in node["attr"].get(name, {}).get("list", {}).get("s", [])]


def _pair(node: Node, name: str) -> tuple[int, int]:
    """Height and width of a four-element NHWC attribute."""
    values = [int(v) for v in node["attr"].get(name, {}).get("list", {}).get("i", [])] or [1, 1, 1, 1]
    return values[1], values[2]


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's SAME: as much as makes ``ceil(size / stride)`` outputs; the odd pixel goes to the end."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _padded(node: Node, x: Tensor, kernel: tuple[int, int], value: float = 0.0) -> Tensor:
    """``x`` [n, channels, h, w] with the node's padding applied. Raises ``ModelRefused`` for explicit padding."""
    kind = _text(node, "padding")
    if kind == "VALID":
        return x
    if kind != "SAME":
        raise ModelRefused(f"{node['name']}: padding {kind!r} is not known here")
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    rows, columns = (same_padding(x.shape[2 + i], kernel[i], strides[i], dilations[i]) for i in (0, 1))
    return functional.pad(x, (*columns, *rows), value=value)


# --- operators -------------------------------------------------------------------------------------------------------

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Relu6": lambda x: x.clamp(0, 6),
    "Elu": functional.elu,
}


def _finish(node: Node, x: Tensor, more: Sequence[Tensor]) -> Tensor:
    """The operators fused into a node; BiasAdd and Prelu take one further input each, in order."""
    further = list(more)
    for name in _texts(node, "fused_ops"):
        if name == "BiasAdd":
            x = x + further.pop(0)
        elif name == "Prelu":
            x = torch.where(x >= 0, x, x * further.pop(0))
        elif name in _ACTIVATIONS:
            x = _ACTIVATIONS[name](x)
        else:
            raise ModelRefused(f"{node['name']}: fused operator {name} is not known here")
    return x


def _convolution(node: Node, x: Tensor, kernel: Tensor, *more: Tensor) -> Tensor:
    """``kernel`` is [h, w, inside, outside]."""
    given = _padded(node, x.permute(0, 3, 1, 2), (kernel.shape[0], kernel.shape[1]))
    made = functional.conv2d(
        given, kernel.permute(3, 2, 0, 1), stride=_pair(node, "strides"), dilation=_pair(node, "dilations")
    )
    return _finish(node, made.permute(0, 2, 3, 1), more)


def _depthwise(node: Node, x: Tensor, kernel: Tensor, *more: Tensor) -> Tensor:
    """``kernel`` is [h, w, channels, multiplier]; output channel c * multiplier + m."""
    rows, columns, channels, multiplier = kernel.shape
    given = _padded(node, x.permute(0, 3, 1, 2), (rows, columns))
    weights = kernel.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, rows, columns)
    made = functional.conv2d(
        given, weights, stride=_pair(node, "strides"), dilation=_pair(node, "dilations"), groups=channels
    )
    return _finish(node, made.permute(0, 2, 3, 1), more)


def _max_pool(node: Node, x: Tensor) -> Tensor:
    kernel = _pair(node, "ksize")
    given = _padded(node, x.permute(0, 3, 1, 2), kernel, value=-torch.inf)
    return functional.max_pool2d(given, kernel, _pair(node, "strides")).permute(0, 2, 3, 1)


def _matmul(node: Node, x: Tensor, matrix: Tensor, *more: Tensor) -> Tensor:
    attributes = node["attr"]
    if attributes.get("transpose_a", {}).get("b") or attributes.get("transpose_b", {}).get("b"):
        raise ModelRefused(f"{node['name']}: transposed matrices are not known here")
    return _finish(node, x @ matrix, more)


def _axes(node: Node, axes: Tensor) -> tuple[list[int], bool]:
    return [int(a) for a in axes.reshape(-1)], bool(node["attr"].get("keep_dims", {}).get("b", False))


def _mean(node: Node, x: Tensor, axes: Tensor) -> Tensor:
    where, keep = _axes(node, axes)
    return x.mean(where, keepdim=keep)


def _max(node: Node, x: Tensor, axes: Tensor) -> Tensor:
    where, keep = _axes(node, axes)
    return x.amax(where, keepdim=keep)


def _pad(node: Node, x: Tensor, widths: Tensor) -> Tensor:
    return functional.pad(x, [int(w) for pair in widths.flip(0).tolist() for w in pair])


OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Identity": lambda node, x: x,
    "Conv2D": _convolution,
    "_FusedConv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "FusedDepthwiseConv2dNative": _depthwise,
    "MatMul": _matmul,
    "_FusedMatMul": _matmul,
    "MaxPool": _max_pool,
    "Mean": _mean,
    "Max": _max,
    "Pad": _pad,
    "Reshape": lambda node, x, shape: x.reshape([int(s) for s in shape]),
    "Add": lambda node, x, y: x + y,
    "AddV2": lambda node, x, y: x + y,
    "BiasAdd": lambda node, x, y: x + y,
    "Mul": lambda node, x, y: x * y,
    "Minimum": lambda node, x, y: torch.minimum(x, y),
    "Maximum": lambda node, x, y: torch.maximum(x, y),
    "Relu": lambda node, x: torch.relu(x),
    "Sigmoid": lambda node, x: torch.sigmoid(x),
    "Softmax": lambda node, x: torch.softmax(x, -1),
}
"""What can be run; each takes the node (for its attributes) and its inputs."""
