"""Runs inside the sandbox: reads an opted-in PyTorch file, computes scores, hands out tensors as raw bytes.

Whatever is asked here may already be under the control of the file; only the confinement around it counts.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

from runner.models.sandbox.child import Answer, Refusal

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module", "ema")
_SAMPLE_INPUTS = "data/sample_inputs/"


def serve(file: int) -> Answer:
    """The service: ``load``, ``logits``, ``names``, ``tensor``."""
    import torch

    loaded = _Loaded()

    def answer(header: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], bytes | memoryview]:
        with torch.inference_mode():
            if header["op"] == "load":
                return loaded.load(_read(file, header["sha256"]), header["format"]), b""
            if header["op"] == "logits":
                return loaded.logits(body, header["shape"])
            return loaded.names() if header["op"] == "names" else loaded.tensor(header["name"])

    return answer


def _read(file: int, sha256: str) -> bytes:
    """The file, judged by the very bytes that are then used; its descriptor is closed."""
    with os.fdopen(file, "rb") as stream:
        data = stream.read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Refusal("the file changed while it was being read")
    return data


class _Loaded:
    """What came out of the file: a network, or tensors by name."""

    def __init__(self) -> None:
        self.network: Any = None
        self.tensors: dict[str, Any] = {}
        self.batch: int | None = None

    def load(self, data: bytes, format: str) -> dict[str, Any]:
        import torch

        if format == "torchscript":
            self.network = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        elif format == "pt2":
            check_exported(data)
            program = torch.export.load(io.BytesIO(data))
            self.network, self.batch = program.module(), _fixed_batch(program)
            self.tensors = dict(program.state_dict)
        else:
            self._unpickle(data, format)
        if self.network is not None and not self.tensors:
            self.tensors = dict(self.network.state_dict())
        kind = "network" if self.network is not None else "tensors"
        return {"kind": kind, "class": f"{type(self.network).__module__}.{type(self.network).__qualname__}"}

    def _unpickle(self, data: bytes, format: str) -> None:
        import torch

        try:
            if format == "pickle":
                import pickle

                content = pickle.loads(data)  # noqa: S301  opted in, and confined
            else:
                content = torch.load(
                    io.BytesIO(data), map_location="cpu", weights_only=False
                )  # opted in by its SHA-256, and confined
        except (ImportError, AttributeError) as error:
            raise Refusal(
                f"it asks for code that is not installed here ({error}); only classes of installed packages can be used"
            ) from error
        self.network, self.tensors = _sort(content)
        if self.network is not None:
            self.network = self.network.float().eval()

    def logits(self, body: bytearray, shape: list[int]) -> tuple[dict[str, Any], bytes | memoryview]:
        import numpy as np
        import torch

        if self.network is None:
            raise Refusal("it holds tensors and no network")
        batch = torch.from_numpy(np.frombuffer(body, np.float32).reshape(shape))
        step = self.batch or max(1, len(batch))
        scores = torch.cat([self._forward(batch[i : i + step]) for i in range(0, len(batch), step)])
        array = np.ascontiguousarray(scores.float().numpy())
        return {"shape": list(array.shape)}, array.data.cast("B")

    def _forward(self, batch: Any) -> Any:
        import torch

        count = len(batch)
        if self.batch and count < self.batch:  # a program of fixed batch size is filled up
            batch = torch.cat([batch, batch[-1:].expand(self.batch - count, *batch.shape[1:])])
        output = self.network(batch)
        output = output.get("logits", output.get("out")) if isinstance(output, Mapping) else output
        output = output[0] if isinstance(output, tuple | list) else getattr(output, "logits", output)
        return output[:count]

    def names(self) -> tuple[dict[str, Any], bytes]:
        rows = [[n, str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in self.tensors.items()]
        return {"tensors": rows}, b""

    def tensor(self, name: str) -> tuple[dict[str, Any], bytes | memoryview]:
        import torch

        data = self.tensors[name].detach().to_dense().contiguous().reshape(-1).view(torch.uint8).numpy()
        return {}, memoryview(data) if data.size else b""


def _sort(content: Any) -> tuple[Any, dict[str, Any]]:
    """(network, {}) or (None, tensors), also one level down under the usual names."""
    import torch

    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[name] for name in WRAPPERS if name in content]
    for value in reversed(candidates):
        if isinstance(value, torch.nn.Module):
            return value, {}
        if isinstance(value, Mapping) and value and all(isinstance(v, torch.Tensor) for v in value.values()):
            return None, {str(name): tensor for name, tensor in value.items()}
    raise Refusal(f"it holds a {type(content).__name__}, in which there is neither a network nor a state dict")


def check_exported(data: bytes) -> None:
    """Refuse a ``.pt2`` whose reading would un-pickle anything, or run a compiled library.

    ``torch.export.load`` reads entries marked ``use_pickle`` without restriction, and falls back to that for sample
    inputs that the restricted unpickler refuses.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise Refusal("two entries of the archive have the same name")
        for name in names:
            inner = name.partition("/")[2]
            if inner.startswith("data/aotinductor/"):
                raise Refusal(f"it holds a compiled library ({inner})")
            if inner.endswith("_config.json") and _asks_for_pickle(json.loads(archive.read(name))):
                raise Refusal(f"{inner} marks entries as pickles (use_pickle)")
            if inner.endswith(".pt") or inner.startswith(_SAMPLE_INPUTS):
                _check_restricted(archive.read(name), inner)


def _asks_for_pickle(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value.get("use_pickle")) or any(_asks_for_pickle(inner) for inner in value.values())
    return isinstance(value, list) and any(_asks_for_pickle(inner) for inner in value)


def _check_restricted(data: bytes, name: str) -> None:
    import torch

    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Refusal(f"{name} is a pickle that holds more than tensors ({type(error).__name__})") from error


def _fixed_batch(program: Any) -> int | None:
    """The batch size that an exported program insists on; None where it takes any."""
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.name in inputs and getattr(value, "ndim", 0) == 4:
            return value.shape[0] if isinstance(value.shape[0], int) else None
    return None
