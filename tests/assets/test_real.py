"""The shipped registry against the real packages, in the user's own cache (so that they are fetched once)."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from runner import assets
from runner.assets.packaged import PackagedImages


def check_pictures(images: PackagedImages, count: int) -> None:
    uris = images.uris()
    assert len(uris) == count
    assert uris == sorted(set(uris))
    for uri in uris[:: max(1, count // 40)]:
        with Image.open(io.BytesIO(images.read(uri))) as picture:
            picture.load()


@pytest.mark.assets
def test_fluent_3d() -> None:
    images = assets.source_of("fluent-3d")
    check_pictures(images, 1376)
    assert all(images.caption(uri) for uri in images.uris())
    assert images.caption("1f431.webp") == "cat face"
    toned = assets.source_of("fluent-3d+skin-tones")
    check_pictures(toned, 1520)
    assert all("skin tone" in (toned.caption(uri) or "") for uri in toned.uris())


@pytest.mark.assets
def test_cifar10_resnet56_has_the_keys_of_its_architecture() -> None:
    from safetensors import safe_open

    path = assets.ensure("cifar10-resnet56").path
    with safe_open(path, "np") as file:
        keys = set(file.keys())
        assert file.get_tensor("linear.weight").shape == (10, 64)
    assert {"conv1.weight", "layer1.8.bn2.running_var", "layer2.0.shortcut.0.weight", "layer3.8.conv2.weight"} <= keys
    assert len(keys) == 344
    assert path.with_name("labels.txt").read_text().splitlines()[3] == "cat"


@pytest.mark.assets
def test_smollm2_is_a_model_file() -> None:
    asset = assets.ensure("smollm2-135m")
    assert asset.bytes == 98_362_432
    with asset.path.open("rb") as file:
        assert file.read(4) == b"GGUF"


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "count", "caption"),
    [
        ("google-emoji", 1417, True),
        ("google-emoji+skin-tones", 1875, True),
        ("tuxpaint-stamps", 538, True),
        ("openclipart", 3689, True),
        ("cifar10-test", 10_000, False),
    ],
)
def test_large_sets(name: str, count: int, caption: bool) -> None:
    images = assets.source_of(name)
    check_pictures(images, count)
    assert all(bool(images.caption(uri)) is caption for uri in images.uris())


@pytest.mark.large
def test_labels_of_the_cifar10_test_photographs() -> None:
    from collections import Counter

    labels = assets.source_of("cifar10-test").labels()
    assert labels is not None
    assert set(Counter(labels.values()).values()) == {1000}


@pytest.mark.large
@pytest.mark.parametrize("name", ["chat-default", "qwen2.5-coder-0.5b", "tinyvit-5m", "minilm", "efficientnet-lite0"])
def test_large_models(name: str) -> None:
    asset = assets.ensure(name)
    assert asset.path.exists()
    assert assets.verify(asset.name) == []
