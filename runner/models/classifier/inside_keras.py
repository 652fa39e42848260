"""Runs inside the sandbox: a Keras model on the torch backend, built after its config and its HDF5 were judged."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from runner.models.classifier.keras_checks import KerasProblem, check_config, check_hdf5
from runner.models.sandbox.child import Answer, Refusal

_ENDINGS = {"softmax": "Softmax", "sigmoid": "Sigmoid"}


def serve(file: int) -> Answer:
    """The service: ``load`` and ``logits``."""
    import h5py  # noqa: F401  imported before memory is limited
    import keras  # noqa: F401

    model: list[Any] = []

    def answer(header: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], bytes | memoryview]:
        if header["op"] == "load":
            model[:] = [_load(Path(header["path"]), header["sha256"])]
            return {"kind": "network", "input": list(model[0].input_shape), "ending": _ending(model[0])}, b""
        return _logits(model[0], body, header["shape"])

    return answer


def _load(path: Path, sha256: str) -> Any:
    import keras

    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Refusal("the file changed while it was being read")
    try:
        _check(data, path.suffix)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (KerasProblem, RecursionError) as error:
        raise Refusal(str(error)) from error
    if not isinstance(getattr(model, "input_shape", None), tuple) or len(model.input_shape) != 4:
        raise Refusal(f"expected one picture input of rank 4, found {getattr(model, 'input_shape', None)}")
    return model


def _check(data: bytes, suffix: str) -> None:
    import h5py

    if suffix == ".keras":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read("model.weights.h5")
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            check_hdf5(file)
            config = file.attrs.get("model_config")
    except OSError as error:
        raise KerasProblem(f"damaged HDF5: {error}") from error
    if suffix != ".keras":
        if config is None:
            raise KerasProblem("it holds weights and no model_config, so it is not known which network they belong to")
        check_config(json.loads(config))


def _ending(model: Any) -> str:
    """``Softmax`` or ``Sigmoid`` where the last layer gives probabilities, else ''."""
    last = model.layers[-1]
    name = getattr(getattr(last, "activation", None), "__name__", "") or type(last).__name__.lower()
    return _ENDINGS.get(name, "")


def _logits(model: Any, body: bytearray, shape: list[int]) -> tuple[dict[str, Any], bytes | memoryview]:
    import keras
    import numpy as np
    import torch

    with torch.inference_mode():
        output = model(np.frombuffer(body, np.float32).reshape(shape), training=False)
    array = np.ascontiguousarray(keras.ops.convert_to_numpy(output), np.float32)
    return {"shape": list(array.shape)}, array.data.cast("B")
