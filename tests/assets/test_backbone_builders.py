"""The packaged DINOv2: its tensors by timm's names, from a graph whose matrices have no names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from safetensors import safe_open

from runner.assets import backbone_builders
from runner.errors import AssetError

WIDTH, DEPTH, SIDE = 16, 2, 28
THEIRS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTH", WIDTH), ("DEPTH", DEPTH), ("PATCHES", (SIDE // 14) ** 2)):
        monkeypatch.setattr(backbone_builders, name, value)


@pytest.fixture
def network() -> Any:
    """A tiny DINOv2 of another library, every weight random."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2, mlp_ratio=2, patch_size=14, image_size=SIDE
    )
    made = Dinov2Model(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


def write_graph(network: Any, path: Path, *, without: str = "") -> None:
    """The exporter's way of writing: vectors under their names, matrices transposed and anonymous, positions cut in two."""
    tensors, nodes = {}, []
    state = {name: value.numpy() for name, value in network.state_dict().items()}

    def product(node: str, matrix: Any) -> None:
        name = f"onnx::MatMul_{len(nodes)}"
        tensors[name] = matrix.T
        if without not in node or not without:
            nodes.append(helper.make_node("MatMul", ["x", name], [f"y{len(nodes)}"], name=f"{node}/MatMul"))

    embeddings = state.pop("embeddings.position_embeddings")
    tensors |= {"onnx::Concat_1": embeddings[:, :1], "onnx::Reshape_2": embeddings[:, 1:]}
    for name, value in state.items():
        layer = name.replace("attention.o_proj", "attention.output.dense")
        for ours, theirs in THEIRS.items():
            layer = layer.replace(f"attention.{theirs}", f"attention.attention.{ours}")
        if value.ndim == 2 and "mask_token" not in name:
            product("/backbone/" + layer.removesuffix(".weight").replace(".", "/").replace("layer/", "layer."), value)
        else:
            tensors[f"backbone.{layer}"] = value
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    initialisers = [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in tensors.items()]
    save(helper.make_model(helper.make_graph(nodes, "g", [given], [], initialisers)), path)


def folders(tmp_path: Path) -> tuple[Path, Path]:
    staging, built = tmp_path / "staging", tmp_path / "built"
    staging.mkdir()
    built.mkdir()
    return staging, built


@torch.no_grad()
def test_the_rebuilt_network_is_the_exported_one(network: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from timm.models.vision_transformer import VisionTransformer

    staging, built = folders(tmp_path)
    write_graph(network, staging / "focus.onnx")
    backbone_builders.dinov2_focus(staging, built, {})
    rebuilt = VisionTransformer(
        img_size=SIDE,
        patch_size=14,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=2,
        mlp_ratio=2,
        init_values=1,
        num_classes=0,
    )
    rebuilt.load_state_dict(load_file(built / "model.safetensors"))
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    assert (rebuilt.eval().forward_features(images) - network(images).last_hidden_state).abs().max() < 1e-5
    with safe_open(built / "model.safetensors", "pt") as file:
        assert '"small": true' in file.metadata()["runner"]
    again = tmp_path / "again"
    again.mkdir()
    backbone_builders.dinov2_focus(staging, again, {})
    assert (again / "model.safetensors").read_bytes() == (built / "model.safetensors").read_bytes()


def test_another_graph_is_refused(network: Any, tmp_path: Path) -> None:
    staging, built = folders(tmp_path)
    write_graph(network, staging / "focus.onnx", without="layer.1/mlp/fc1")
    with pytest.raises(AssetError, match=r"not the expected one.*layer\.1/mlp/fc1"):
        backbone_builders.dinov2_focus(staging, built, {})
    (staging / "focus.onnx").write_bytes(b"no graph at all")
    with pytest.raises(AssetError, match="not the expected one"):
        backbone_builders.dinov2_focus(staging, built, {})
    assert not list(built.iterdir())


@pytest.mark.large
@torch.no_grad()
def test_the_real_one_gives_the_tokens_of_its_graph() -> None:
    """Expected values: the output of the graph's last norm under onnxruntime for the same waves, at its own 518 pixels."""
    from runner import assets
    from runner.models.backbones.loading import load_timm

    path = assets.ensure("dinov2-small-focus").path
    backbone: Any = load_timm("vit_small_patch14_dinov2", checkpoint=path)
    assert (backbone.image_size, backbone.small, backbone.family) == (518, True, "dinov2")
    row = torch.arange(518, dtype=torch.float64)
    images = torch.stack([torch.sin(row[:, None] / (9 + c) + row / 17) for c in range(3)]).float().unsqueeze(0)
    tokens = backbone.embed(images)
    for number in range(1, 13):
        tokens = backbone.block(number, tokens)
    found = backbone.norm(tokens)[0]
    expected = {
        (0, 0): [0.5735333562, -0.2537395060, 2.1601965427, -4.0121254921],
        (1, 0): [1.4345220327, -1.8709207773, 0.7016959190, -4.0785007477],
        (700, 100): [2.1903078556, -0.5592713952, 0.1804550439, 2.4856846333],
    }
    for (token, start), values in expected.items():
        assert found[token, start : start + 4].tolist() == pytest.approx(values, abs=1e-3)
