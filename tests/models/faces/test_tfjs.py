"""The TF.js executor: padding and operators against definitions, quantised weights, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner import assets
from runner.errors import ModelRefused
from runner.models.faces.classifiers import NETWORKS, WINDOWS, FaceRes
from runner.models.faces.tfjs import TfjsGraph, read_weights, same_padding


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def numbers(*values: int) -> dict[str, Any]:
    return {"list": {"i": [str(v) for v in values]}}


def model(folder: Path, nodes: list[dict[str, Any]], weights: dict[str, np.ndarray]) -> Path:
    manifest = [{"name": k, "shape": list(v.shape), "dtype": "float32"} for k, v in weights.items()]
    (folder / "w.bin").write_bytes(b"".join(v.astype("<f4").tobytes() for v in weights.values()))
    every = [{"name": "x", "op": "Placeholder"}, *({"name": k, "op": "Const"} for k in weights), *nodes]
    path = folder / "model.json"
    content = {"modelTopology": {"node": every}, "weightsManifest": [{"paths": ["w.bin"], "weights": manifest}]}
    path.write_text(json.dumps(content))
    return path


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4))
def test_same_padding_gives_the_size_that_tensorflow_promises(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride) or before + after == 0


def test_a_strided_convolution_with_bias_by_hand(tmp_path: Path) -> None:
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1)
    attributes = {"padding": text("SAME"), "strides": numbers(1, 2, 2, 1), "dilations": numbers(1, 1, 1, 1)}
    fused = {"fused_ops": {"list": {"s": [text("BiasAdd")["s"], text("Relu6")["s"]]}}}
    node = {"name": "y", "op": "_FusedConv2D", "input": ["x", "k", "b"], "attr": {**attributes, **fused}}
    graph = TfjsGraph(model(tmp_path, [node], {"k": kernel / 100, "b": np.array([0.5], np.float32)}))
    picture = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    (found,) = graph.run(torch.from_numpy(picture), ["y"])
    padded = np.zeros((5, 5), np.float32)  # one row and column at the end only
    padded[:4, :4] = picture[0, :, :, 0]
    wanted = [[(padded[i : i + 3, j : j + 3] * kernel[:, :, 0, 0]).sum() / 100 + 0.5 for j in (0, 2)] for i in (0, 2)]
    assert found[0, :, :, 0].numpy() == pytest.approx(np.clip(wanted, 0, 6))


def test_quantised_weights_are_widened(tmp_path: Path) -> None:
    data = np.array([0, 255], "u1").tobytes() + np.array([1.5], "<f2").tobytes()
    (tmp_path / "w.bin").write_bytes(data)
    bytes_ = {
        "name": "a",
        "shape": [2],
        "dtype": "float32",
        "quantization": {"dtype": "uint8", "scale": 0.1, "min": -1},
    }
    half = {"name": "b", "shape": [1], "dtype": "float32", "quantization": {"dtype": "float16"}}
    found = read_weights([{"paths": ["w.bin"], "weights": [bytes_, half]}], tmp_path)
    assert found["a"].tolist() == pytest.approx([-1.0, 24.5])
    assert found["b"].tolist() == [1.5]


@pytest.mark.parametrize("path", ["../w.bin", "/etc/hostname", "a/b.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="may not be read"):
        read_weights([{"paths": [path], "weights": []}], tmp_path)


def test_unknown_operators_circles_and_missing_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="operators PyFunc are not known"):
        TfjsGraph(model(tmp_path, [{"name": "y", "op": "PyFunc", "input": ["x"]}], {}))
    circle = [{"name": n, "op": "Identity", "input": [m], "attr": {}} for n, m in (("y", "z"), ("z", "y"))]
    graph = TfjsGraph(model(tmp_path, circle, {}))
    for name in ("y", "nothing"):
        with pytest.raises(ModelRefused, match="no value"):
            graph.run(torch.zeros(1, 2, 2, 1), [name])


def test_damaged_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(ModelRefused, match=r"not a TF\.js graph model"):
        TfjsGraph(tmp_path / "m.json")


@pytest.mark.assets
@pytest.mark.parametrize(
    ("network", "asset"), [("dlib_gender", "face-gender-dlib"), ("faceres", "faceres"), ("gear", "face-gear")]
)
def test_the_real_networks_answer_alike_alone_and_in_a_batch(network: str, asset: str) -> None:
    from runner.models.classifier.checks import check_classifier, probe_images

    classifier = NETWORKS[network](assets.ensure(asset).path)
    check_classifier(classifier)
    assert classifier.labels == ("female", "male")
    image = next(iter(probe_images()))
    assert classifier.prepare(image).shape == (WINDOWS[network].side, WINDOWS[network].side, 3)


@pytest.mark.assets
def test_descriptors_have_unit_length() -> None:
    network = FaceRes(assets.ensure("faceres").path)
    found = network.descriptors(np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32))
    assert found.shape == (2, 1024)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
