import os

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from runner.errors import ModelRefused
from runner.models.classifier import load_classifier
from runner.models.classifier.onnx_model import nodes_of, read_model, tensors_of
from runner.models.classifier.preprocess import PreprocessSpec

WEIGHTS = np.random.default_rng(0).normal(size=(3 * 8 * 8, 3)).astype(np.float32)
FULL = {"labels": ["cat", "dog", "bird"], "preprocess": PreprocessSpec(size=8)}


def model(*, ending=None, batch="n", nodes=None, weights=WEIGHTS, domain="", outputs=("y",), shape=("n", 3)):
    weight = numpy_helper.from_array(weights, "w")
    nodes = nodes or [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z" if ending else "y"], domain=domain),
        *([helper.make_node(ending, ["z"], ["y"])] if ending else []),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])
    ys = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in outputs]
    graph = helper.make_graph(nodes, "g", [x], ys, [weight])
    imports = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def save(path, proto):
    path.write_bytes(proto.SerializeToString())
    return path


def with_external(location, **entries):
    proto = model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return proto


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (inside / "w.bin").write_bytes(WEIGHTS.tobytes())
    return inside


def test_a_plain_model_gives_the_logits_of_its_matrix(tmp_path):
    classifier = load_classifier(save(tmp_path / "m", model()), **FULL)
    batch = np.random.default_rng(1).normal(size=(5, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(classifier.logits(batch), batch.reshape(5, -1) @ WEIGHTS, rtol=1e-4, atol=1e-4)
    assert classifier.format == "onnx"


@pytest.mark.parametrize(("ending", "head"), [("Softmax", "softmax"), ("Sigmoid", "multilabel")])
def test_an_activation_at_the_end_is_undone_up_to_a_constant(ending, head, tmp_path):
    small = WEIGHTS / 20
    classifier = load_classifier(save(tmp_path / "m", model(ending=ending, weights=small)), **FULL, head=head)
    batch = np.random.default_rng(1).normal(size=(5, 3, 8, 8)).astype(np.float32)
    difference = classifier.logits(batch) - batch.reshape(5, -1) @ small
    if head == "softmax":
        difference -= difference.mean(1, keepdims=True)
    np.testing.assert_allclose(difference, 0, atol=1e-4)


def test_a_fixed_batch_is_filled_up(tmp_path):
    free = load_classifier(save(tmp_path / "free", model()), **FULL)
    fixed = load_classifier(save(tmp_path / "fixed", model(batch=2, shape=(2, 3))), **FULL)
    batch = np.random.default_rng(1).normal(size=(5, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(fixed.logits(batch), free.logits(batch), rtol=1e-4, atol=1e-4)


def test_external_data_inside_the_folder_is_read(folder):
    inline = load_classifier(save(folder / "inline", model()), **FULL)
    external = load_classifier(save(folder / "m.onnx", with_external("w.bin")), **FULL)
    batch = np.stack([inline.prepare(Image.new("RGB", (9, 9), "red"))])
    np.testing.assert_array_equal(external.logits(batch), inline.logits(batch))


def test_external_data_with_offset_and_length_is_read(folder):
    (folder / "w.bin").write_bytes(b"\0" * 64 + WEIGHTS.tobytes() + b"\1" * 9)
    proto = with_external("w.bin", offset=64, length=WEIGHTS.nbytes)
    load_classifier(save(folder / "m.onnx", proto), **FULL)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../secret", "inside the model's folder"),
        ("sub/../../secret", "inside the model's folder"),
        ("..\\secret", "inside the model's folder"),
        ("C:\\secret", "inside the model's folder"),
        ("/etc/passwd", "inside the model's folder"),
        ("", "inside the model's folder"),
        ("soft", "symbolic link"),
        ("linked/secret", "symbolic link"),
        ("hard", "hard link"),
        (".", "no regular file|cannot be read"),
        ("pipe", "no regular file"),
        ("absent", "cannot be read"),
    ],
)
def test_external_data_outside_the_folder_is_refused(location, said, folder):
    (folder / "soft").symlink_to(folder.parent / "secret")
    (folder / "linked").symlink_to(folder.parent, target_is_directory=True)
    os.link(folder.parent / "secret", folder / "hard")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelRefused, match=said):
        load_classifier(save(folder / "m.onnx", with_external(location)), **FULL)


@pytest.mark.parametrize(
    "entries",
    [{"offset": -1}, {"offset": 10**12}, {"offset": 8, "length": WEIGHTS.nbytes}, {"length": -5, "offset": 10**9}, {"offset": "x"}],
)  # fmt: skip
def test_external_data_beyond_the_file_is_refused(entries, folder):
    with pytest.raises(ModelRefused, match=r"leave 'w.bin'|no number"):
        load_classifier(save(folder / "m.onnx", with_external("w.bin", **entries)), **FULL)


def test_onnxruntime_alone_would_follow_a_hard_link(folder):
    """The reason why the session never sees a path: should this fail one day, the rule has lost its ground."""
    os.link(folder.parent / "secret", folder / "hard")
    save(folder / "m.onnx", with_external("hard"))
    onnxruntime.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"])


def _hidden_in(place):
    """A model that reaches outside from a tensor in an unusual place."""
    evil = with_external("../secret").graph.initializer[0]
    proto = model()
    inner = helper.make_graph([], "inner", [], [])
    if place == "constant":
        proto.graph.node.add(op_type="Constant", output=["c"]).attribute.add(name="value", type=4).t.CopyFrom(evil)
    elif place == "sparse":
        proto.graph.sparse_initializer.add().values.CopyFrom(evil)
    elif place == "subgraph":
        inner.initializer.append(evil)
        proto.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner))
    elif place == "nested":
        inner.node.add(op_type="Constant", output=["c"]).attribute.add(name="value", type=4).t.CopyFrom(evil)
        middle = helper.make_graph([helper.make_node("Loop", ["a"], ["b"], body=inner)], "middle", [], [])
        proto.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=middle, else_branch=middle))
    elif place == "function":
        function = proto.functions.add(name="f", domain="own")
        function.node.add(op_type="Constant", output=["c"]).attribute.add(name="value", type=4).t.CopyFrom(evil)
    else:
        proto.training_info.add().initialization.initializer.append(evil)
    return proto


@pytest.mark.parametrize("place", ["constant", "sparse", "subgraph", "nested", "function", "training"])
def test_external_data_is_found_wherever_it_hides(place, folder):
    proto = _hidden_in(place)
    assert any(tensor.external_data for tensor in tensors_of(proto))
    with pytest.raises(ModelRefused, match="inside the model's folder"):
        read_model(save(folder / "m.onnx", proto))


def test_operators_of_custom_libraries_are_refused(tmp_path):
    with pytest.raises(ModelRefused, match=r"evil.ops::MatMul needs a library"):
        load_classifier(save(tmp_path / "m", model(domain="evil.ops")), **FULL)
    proto = model()
    proto.graph.node.append(helper.make_node("EPContext", ["x"], ["q"], domain="com.microsoft"))
    assert "EPContext" in {node.op_type for node in nodes_of(proto)}
    with pytest.raises(ModelRefused, match="EPContext"):
        load_classifier(save(tmp_path / "m", proto), **FULL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": None}, "does not hold the names"),
        ({"labels": ["a", "b"]}, "2 labels"),
        ({"preprocess": "auto"}, "does not say how pictures"),
        ({"preprocess": PreprocessSpec(size=16)}, "takes pictures of shape"),
        ({"preprocess": PreprocessSpec(size=8, layout="hwc")}, "takes pictures of shape"),
        ({"format": "safetensors"}, "declares the format 'safetensors'"),
    ],
)
def test_what_does_not_fit_is_named(change, said, tmp_path):
    with pytest.raises(ModelRefused, match=said):
        load_classifier(save(tmp_path / "m", model()), **{**FULL, **change})


def test_nan_outputs_are_refused(tmp_path):
    with pytest.raises(ModelRefused, match="not finite"):
        load_classifier(save(tmp_path / "m", model(weights=WEIGHTS * np.nan)), **FULL)


def test_batch_norm_in_training_mode_is_caught(tmp_path):
    """A model whose outputs are normalised over the batch: alone, every image would look the same."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z"]),
        helper.make_node("BatchNormalization", ["z", "one", "zero", "zero", "one"], ["y", "m", "v"], training_mode=1),
    ]
    proto = model(nodes=nodes)
    for name, value in (("one", 1), ("zero", 0)):
        proto.graph.initializer.append(numpy_helper.from_array(np.full(3, value, np.float32), name))
    onnx.checker.check_model(proto)
    with pytest.raises(ModelRefused, match="changes by"):
        load_classifier(save(tmp_path / "m", proto), **FULL)


def test_a_truncated_model_is_refused(tmp_path):
    data = model().SerializeToString()
    for length in (1, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "m").write_bytes(data[:length])
        with pytest.raises(ModelRefused):
            load_classifier(tmp_path / "m", **FULL)
