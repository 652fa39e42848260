"""What the tests of hostile input share: the command line in a bounded child, a live payload, a tiny network, pictures."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
GIB = 1 << 30


MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024))
sys.exit(code)
"""
"""Runs a command and writes down how many bytes it held at once: this process may have had larger children before."""
PEAKS: list[int] = []


def runner(*arguments: str, cwd: Path, memory: int | None = None, seconds: float = 120, **environment: str) -> Said:
    """``python -m runner`` as a user would call it, in at most ``seconds`` and ``memory`` bytes of address space."""
    env = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "RUNNER_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment
    limit = ["prlimit", f"--as={memory}"] if memory else []
    with tempfile.NamedTemporaryFile("r") as told:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, told.name, *limit, sys.executable, "-m", "runner.cli", *arguments],
            cwd=cwd, env=env, capture_output=True, timeout=seconds, check=False,
        )  # fmt: skip
        PEAKS.append(int(told.read()))
    return Said(done.returncode, done.stdout.decode("utf8", "strict"), done.stderr.decode("utf8", "strict"))


class Said:
    """How a command ended. Output that could steer a terminal, or a traceback, is an error in every test."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in out + err, (out + err)[-3000:]
        steering = {c for c in out + err if not c.isprintable() and c not in "\n\t"}
        assert not steering, f"raw {steering!r} on the terminal"


def peak_of_children() -> int:
    """Bytes that the largest command so far held at once."""
    return max(PEAKS)


def load(path: str, name: str) -> ModuleType:
    """A module of another room's tests, importable as ``name``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def picture(seed: int, side: int = 32) -> Image.Image:
    """Coarse coloured squares."""
    pixels = np.kron(np.random.default_rng(seed).integers(0, 255, (4, 4, 3)), np.ones((side // 4, side // 4, 1)))
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(seed: int, kind: str = "PNG") -> bytes:
    """``picture(seed)`` as a file."""
    buffer = io.BytesIO()
    picture(seed).save(buffer, kind)
    return buffer.getvalue()


def tiny_network(classes: int, external: str | None = None) -> bytes:
    """An ONNX file: mean colour times a fixed matrix. ``external``: where it claims to keep its weights."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32), "w")
    if external is not None:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", external), ("offset", "0"), ("length", str(12 * classes))):
            entry = weights.external_data.add()
            entry.key, entry.value = key, value
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["m", "w"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())
