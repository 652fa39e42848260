"""Derived assets: restricted unpickling, image sets with their captions, and the same bytes every time."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file
from torch import nn

from runner.assets import builders, captions
from runner.assets.packing import Index, Picture, pack
from runner.errors import AssetError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("staging", "built"):
        (tmp_path / name).mkdir()
    return tmp_path / "staging", tmp_path / "built"


# --- pickled modules -------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    __module__ = "resnet"

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.shortcut = nn.Sequential(nn.Identity())


class ResNet(nn.Module):
    __module__ = "resnet"

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(BasicBlock(), BasicBlock())
        self.linear = nn.Linear(4, 2)


def save_whole(module: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.save`` of a whole module whose classes are called ``resnet.ResNet`` and ``resnet.BasicBlock``."""
    fake = types.ModuleType("resnet")
    fake.ResNet, fake.BasicBlock = ResNet, BasicBlock  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "resnet", fake)
    torch.save(module, path)
    monkeypatch.delitem(sys.modules, "resnet")


def test_a_pickled_module_gives_its_state_dict(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    staging, built = folders
    module = ResNet()
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    save_whole(module, staging / "resnet56.pth", monkeypatch)
    builders.cifar_resnet56(staging, built, {})
    found = load_file(built / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], value.numpy()) for name, value in expected.items())
    assert (built / "labels.txt").read_text().split() == list(builders.CIFAR10_LABELS)


def test_no_class_of_the_pickle_is_ever_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_whole(ResNet(), tmp_path / "m.pth", monkeypatch)
    monkeypatch.setattr(nn.Module, "__setstate__", lambda *args: pytest.fail("a real module was restored"))
    builders.module_tensors(tmp_path / "m.pth", builders.RESNET_CLASSES)
    assert "resnet" not in sys.modules


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("place", ["top", "inside"])
def test_a_pickle_that_calls_code_is_refused_unrun(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap, file = tmp_path / "trap", tmp_path / "m.pth"
    if place == "top":
        torch.save(Evil(trap), file)
    else:
        module = ResNet()
        module.extra = Evil(trap)  # type: ignore[assignment]
        save_whole(module, file, monkeypatch)
    with pytest.raises(AssetError, match="more than the registered classes"):
        builders.module_tensors(file, builders.RESNET_CLASSES)
    assert not trap.exists()


def test_a_class_that_is_not_registered_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ResNet()
    module.act = nn.ReLU()
    save_whole(module, tmp_path / "m.pth", monkeypatch)
    with pytest.raises(AssetError, match="ReLU"):
        builders.module_tensors(tmp_path / "m.pth", builders.RESNET_CLASSES)


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", pickle.dumps([1, 2]), b"PK\x03\x04", b"cos\nsystem\n(S'x'\ntR."])
def test_what_is_no_checkpoint_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(data)
    with pytest.raises(AssetError):
        builders.module_tensors(tmp_path / "m.pth", builders.RESNET_CLASSES)


def test_repeated_names_are_numbered() -> None:
    assert builders.distinct(["crane", "cat", "crane", "crane"]) == ["crane", "cat", "crane 2", "crane 3"]


# --- image sets ------------------------------------------------------------------------------------------------------


def png(color: tuple[int, ...] = (255, 0, 0), size: tuple[int, int] = (4, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def members(built: Path) -> set[str]:
    with zipfile.ZipFile(built / "images.zip") as archive:
        return set(archive.namelist())


def test_a_cifar_sheet_becomes_an_array(folders: tuple[Path, Path]) -> None:
    staging, built = folders
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    Image.fromarray(pixels.reshape(5, 1024, 3)).save(staging / "batch.png")
    write(staging / "labels.json", json.dumps([3, 0, 9, 3, 1]))
    builders.cifar10(staging, built, {})
    assert np.array_equal(np.load(built / "pixels.npy"), pixels)
    assert json.loads((built / "labels.json").read_text()) == ["cat", "airplane", "truck", "cat", "automobile"]


def test_a_cifar_sheet_of_another_shape_is_refused(folders: tuple[Path, Path]) -> None:
    staging, built = folders
    Image.new("RGB", (1024, 4)).save(staging / "batch.png")
    write(staging / "labels.json", "[1, 2, 3]")
    with pytest.raises(AssetError, match="3 labels"):
        builders.cifar10(staging, built, {})


@pytest.fixture
def needs(tmp_path: Path) -> dict[str, Path]:
    """A few rows of the CLDR and Unicode tables."""
    folder = tmp_path / "cldr"
    names = {"🐱": "cat face", "👋": "waving hand", "❤": "red heart", "☹": "frowning face", "🏻": "light skin tone"}
    derived = {"👋🏻": "waving hand: light skin tone", "🇫🇷": "flag: France"}
    for file, key, table in (("annotations", "annotations", names), ("derived", "annotationsDerived", derived)):
        rows = {emoji: {"default": [name], "tts": [name]} for emoji, name in table.items()}
        write(folder / f"{file}.json", json.dumps({key: {"identity": {}, "annotations": rows}}))
    groups = {"🐱": "Animals & Nature", "👋": "People & Body", "❤️": "Symbols", "☹️": "Smileys & Emotion", "🇫🇷": "Flags"}
    write(tmp_path / "groups.json", json.dumps({emoji: {"group": group} for emoji, group in groups.items()}))
    return {"cldr-annotations": folder, "emoji-groups": tmp_path / "groups.json"}


def test_emoji_get_names_and_lose_symbols_and_flags(folders: tuple[Path, Path], needs: dict[str, Path]) -> None:
    staging, built = folders
    for stem in (
        "1f431",
        "1f44b",
        "1f44b-1f3fb",
        "1f3fb",
        "2764-fe0f",
        "2639-fe0f",
        "1f1eb-1f1f7",
        "zz",
        "e0067_e0062",
    ):
        write(staging / "images" / f"{stem}.png", png())
    builders.emoji(staging, built, needs)
    index = Index.read(built / "index.json")
    assert index.variants == {
        "": ["1f3fb.png", "1f431.png", "1f44b.png", "2639-fe0f.png"],
        "skin-tones": ["1f44b-1f3fb.png"],
    }
    assert index.captions["2639-fe0f.png"] == "frowning face"
    assert index.captions["1f44b-1f3fb.png"] == "waving hand: light skin tone"


def test_an_emoji_that_is_there_twice_is_taken_once(folders: tuple[Path, Path], needs: dict[str, Path]) -> None:
    staging, built = folders
    for stem in ("2639", "2639-fe0f"):
        write(staging / "images" / f"{stem}.png", png())
    builders.emoji(staging, built, needs)
    assert len(members(built)) == 1


@given(st.lists(st.integers(0x20, 0xD7FF), min_size=1, max_size=6))
def test_code_points_round_trip(points: list[int]) -> None:
    text = captions.characters("-".join(f"{point:04x}" for point in points))
    assert text == "".join(map(chr, points)).replace("\ufe0f", "")


@pytest.mark.parametrize("text", ["", "x", "1f431-", "110000", "ffffff", "1f431 1f432", "../1f431"])
def test_what_is_no_sequence_of_code_points_has_no_characters(text: str) -> None:
    assert captions.characters(text) is None


def test_stamps_need_a_text_and_lose_symbols(folders: tuple[Path, Path]) -> None:
    staging, built = folders
    write(staging / "stamps/animals/cat.png", png())
    write(staging / "stamps/animals/cat.txt", "A cat.\nde.utf8=Eine Katze.\n")
    write(staging / "stamps/animals/dog.png", png())
    write(staging / "stamps/symbols/a.png", png())
    write(staging / "stamps/symbols/a.txt", "The letter A.")
    write(staging / "stamps/food/x.png", png())
    write(staging / "stamps/food/x.txt", "\nfr.utf8=rien\n")
    builders.stamps(staging, built, {})
    assert Index.read(built / "index.json").captions == {"animals/cat.png": "A cat."}


def svg(title: str, *keywords: str) -> str:
    words = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    return f"<svg><dc:title>{title}</dc:title><dc:subject>{words}</dc:subject><dc:title>Library</dc:title></svg>"


def test_clipart_is_filtered_and_captioned(folders: tuple[Path, Path]) -> None:
    staging, built = folders
    pictures = {
        "animals/wasp": svg("Flying  Wasp", "insect", "animal", "wasp &amp; bee", "fly", "fifth"),
        "animals/untitled": svg("", "insect"),
        "computer/icons/disk": svg("Disk", "disk"),
        "shapes/star": svg("Star", "star"),
        "signs/flags/fr": svg("France", "country"),
        "signs/banner": svg("Banner", "flags"),
    }
    for name, text in pictures.items():
        write(staging / "png" / f"{name}.png", png())
        write(staging / "svg" / f"{name}.svg", text)
    write(staging / "png/animals/alone.png", png())
    huge = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 30000, 30000)
    for name, data in (("huge", huge), ("broken", b"not a png")):
        write(staging / f"png/animals/{name}.png", data)
        write(staging / f"svg/animals/{name}.svg", svg(name))
    builders.openclipart(staging, built, {})
    assert Index.read(built / "index.json").captions == {
        "animals/wasp.png": "Flying Wasp, insect, animal, wasp & bee, fly"
    }


@given(width=st.integers(1, 3000), height=st.integers(1, 3))
def test_png_pixels_reads_the_header(width: int, height: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("png") / "a.png"
    path.write_bytes(png(size=(width, height)))
    assert builders.png_pixels(path) == width * height


def test_packing_gives_the_same_bytes_whatever_the_order_and_times(tmp_path: Path) -> None:
    outputs = []
    for run, order in enumerate((["b/1.png", "a.png"], ["a.png", "b/1.png"])):
        folder = tmp_path / str(run)
        for name in order:
            write(folder / "in" / name, png((run * 0, 1, 2)))
        (folder / "out").mkdir()
        pack({name: Picture(folder / "in" / name, name) for name in order}, folder / "out")
        outputs.append([(folder / "out" / name).read_bytes() for name in ("images.zip", "index.json")])
    assert outputs[0] == outputs[1]
