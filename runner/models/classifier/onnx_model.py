"""A classifier in ONNX, run by onnxruntime on the CPU.

The model is read once, checked, and handed over as bytes with every external tensor already inside: the session never
opens a path that the model names.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from runner.context import item_key
from runner.errors import ModelRefused
from runner.models.base import Classifier
from runner.models.classifier.labels import need_labels

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.base import FloatArray
    from runner.models.classifier.preprocess import Preprocess

_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_REFUSED_OPS = {"EPContext": "it names a compiled program in another file"}
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}  # fmt: skip
_MAX_BYTES = (1 << 31) - 1


def read_model(path: Path) -> bytes:
    """The model's bytes, self-contained, after all checks. Raises ``ModelRefused``."""
    import onnx
    from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

    data = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelRefused(f"{path}: damaged ONNX model: {error}") from error
    own = {function.domain for function in model.functions}
    for node in nodes_of(model):
        if node.domain not in _DOMAINS | own:
            raise ModelRefused(f"{path}: operator {node.domain}::{node.op_type} needs a library of its own, which is not loaded")  # fmt: skip
        if node.op_type in _REFUSED_OPS:
            raise ModelRefused(f"{path}: operator {node.op_type} is refused: {_REFUSED_OPS[node.op_type]}")
    external = [tensor for tensor in tensors_of(model) if tensor.external_data or tensor.data_location == 1]
    if not external:
        return data
    for tensor in external:
        _bring_inside(tensor, path.parent)
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ModelRefused(f"{path}: with its external tensors the model is larger than 2 GiB") from error


def nodes_of(model: Any) -> Iterator[Any]:
    """Every node: of the graph, its subgraphs, functions and training graphs."""
    for graph in _graphs(model):
        for node in graph.node:
            yield from _node_and_below(node)


def tensors_of(model: Any) -> Iterator[Any]:
    """Every tensor stored in the model: initialisers, sparse ones, and attributes of any node."""
    for graph in _graphs(model):
        yield from _stored(graph)
    for node in nodes_of(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _stored(graph)


def _graphs(model: Any) -> Iterator[Any]:
    yield model.graph
    yield from model.functions
    for training in model.training_info:
        yield from (training.initialization, training.algorithm)


def _node_and_below(node: Any) -> Iterator[Any]:
    yield node
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _node_and_below(inner)


def _stored(graph: Any) -> Iterator[Any]:
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)


def _bring_inside(tensor: Any, folder: Path) -> None:
    """Replace a reference to a file by the bytes it refers to."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = f"external tensor {tensor.name!r}"
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
    except ValueError as error:
        raise ModelRefused(f"{where}: offset or length is no number") from error
    data = _read_external(folder, entries.get("location", ""), offset, length, where)
    del tensor.external_data[:]
    tensor.data_location = 0
    tensor.raw_data = data


def _read_external(folder: Path, location: str, offset: int, length: int, where: str) -> bytes:
    """Bytes of a regular file inside ``folder``, reached without ``..`` and without any link, symbolic or hard."""
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or location.startswith("/") or ".." in parts or ":" in parts[0]:
        raise ModelRefused(f"{where}: its location {location!r} must be a path inside the model's folder")
    place = folder
    for part in parts:
        place = place / part
        if place.is_symlink():
            raise ModelRefused(f"{where}: its location {location!r} passes through a symbolic link")
    try:
        descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise ModelRefused(f"{where}: {location!r} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ModelRefused(f"{where}: {location!r} is no regular file with one name (a hard link may be any file)")
        length = status.st_size - offset if length < 0 else length
        if offset < 0 or length < 0 or offset + length > status.st_size or length > _MAX_BYTES:
            raise ModelRefused(
                f"{where}: offset {offset} and length {length} leave {location!r} ({status.st_size} bytes)"
            )
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(offset)
            return file.read(length)
    finally:
        os.close(descriptor)


class OnnxClassifier(Classifier):
    """An ONNX session with one picture input and one score output."""

    format = "onnx"

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        labels: Sequence[str] | None,
        preprocess: Preprocess | None,
        head: Literal["softmax", "multilabel"],
        batch_size: int,
        threads: int | None,
    ) -> None:
        import onnxruntime

        self.name, self.head = name, head
        self.labels = need_labels(labels, str(path))
        if preprocess is None:
            raise ModelRefused(
                f"{path}: ONNX does not say how pictures are preprocessed",
                hint="Give `preprocess: {size: ..., mean: [...], std: [...], layout: chw}`.",
            )
        self.preprocess = preprocess
        data = read_model(path)
        try:
            self._session = onnxruntime.InferenceSession(
                data, session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # a stranger's graph may fail in any way
            raise ModelRefused(f"{path}: onnxruntime cannot load it: {error}") from error
        self._input = self._picture_input(path)
        self._output = self._score_output(path)
        self._undo = undo_activation(_producer(data, self._output))
        fixed = self._input.shape[0]
        self.batch_size = fixed if isinstance(fixed, int) else batch_size
        sha = hashlib.sha256(data).hexdigest()
        self.identity = item_key(sha, "onnx", self.labels, preprocess.as_dict(), head)

    def prepare(self, image: Image) -> FloatArray:
        """Preprocess one picture."""
        return self.preprocess(image)

    def logits(self, batch: FloatArray) -> FloatArray:
        """Class scores, float32 [n, labels]; an activation at the model's end is undone."""
        parts = [self._forward(batch[i : i + self.batch_size]) for i in range(0, len(batch), self.batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)

    def _forward(self, batch: FloatArray) -> FloatArray:
        count = len(batch)
        if isinstance(self._input.shape[0], int) and count < self.batch_size:  # a fixed batch is filled up
            batch = np.concatenate([batch, np.repeat(batch[-1:], self.batch_size - count, 0)])
        kind = _FLOATS[self._input.type]
        given = np.clip(np.rint(batch), 0, 255).astype(kind) if kind is np.uint8 else batch.astype(kind, copy=False)
        scores = self._session.run([self._output], {self._input.name: given})[0]
        return np.asarray(self._undo(np.asarray(scores, np.float32))[:count], np.float32)

    def _picture_input(self, path: Path) -> Any:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _FLOATS:
            shown = ", ".join(f"{i.name} {i.type}{i.shape}" for i in inputs)
            raise ModelRefused(f"{path}: expected one picture input of rank 4, found {shown}")
        wanted = inputs[0].shape[1:]
        if any(isinstance(w, int) and w != h for w, h in zip(wanted, self.preprocess.shape, strict=True)):
            raise ModelRefused(
                f"{path}: the model takes pictures of shape {wanted}, preprocessing makes {list(self.preprocess.shape)}",
                hint="Check `preprocess:` (size, layout, channels).",
            )
        return inputs[0]

    def _score_output(self, path: Path) -> str:
        outputs = [o for o in self._session.get_outputs() if o.type in _FLOATS and len(o.shape) == 2]
        if len(outputs) > 1:
            outputs = [o for o in outputs if o.shape[1] == len(self.labels)]
        if len(outputs) != 1:
            shown = ", ".join(f"{o.name} {o.type}{o.shape}" for o in self._session.get_outputs())
            raise ModelRefused(f"{path}: expected one output [images, {len(self.labels)} labels], found {shown}")
        return str(outputs[0].name)


def session_options(threads: int | None) -> Any:
    """Options of an onnxruntime session: ``threads`` inside an operator (None = all cores), quiet, deterministic."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning workers cost half the speed as soon as anything else (a language model, say) wants the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _producer(data: bytes, output: str) -> str:
    import onnx

    graph = onnx.ModelProto.FromString(data).graph
    return next((str(node.op_type) for node in graph.node if output in node.output), "")


def undo_activation(operator: str) -> Any:
    """The inverse of the operator that ends the model, up to a constant, so that scores are logits again."""
    tiny = np.float32(1e-12)
    if operator == "Softmax":
        return lambda p: np.log(np.maximum(p, tiny))
    if operator == "Sigmoid":
        return lambda p: np.log(np.maximum(p, tiny)) - np.log(np.maximum(1 - p, tiny))
    return lambda scores: scores
