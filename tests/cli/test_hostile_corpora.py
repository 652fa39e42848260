"""Corpora that mean harm, in one run: the good pictures are indexed, every bad one is counted by its reason."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_material import GIB, encoded, peak_of_children, picture, runner
from PIL import Image

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SPEC = """
name: corpora
models:
  clip: {provider: open_clip, checkpoint: clip}
steps:
  folder: {uses: retrieval.index, encoder: $clip, corpus: {folder: photos}}
  tars: {uses: retrieval.index, encoder: $clip, corpus: {webdataset: "shards/*.tar"}}
  links: {uses: retrieval.index, encoder: $clip, corpus: {urls: links.txt}}
"""
NAMES = (
    "plain.png", "$(touch marker).png", "a\"b'c`touch marker`.png", "line\nbreak.png", "\x1b[31mred\x07.png",
    "<script>alert(1)<b>.png", "-rf.png", "\u202egnp.png",
)  # fmt: skip
LINKS = (
    "http://127.0.0.1/a.png", "http://169.254.169.254/latest/meta-data/a.png", "http://[::1]/x.png",
    "http://10.0.0.1/x.png", "http://localhost/x.png", "http://0x7f000001/x.png", "file:///etc/passwd", "javascript:alert(1)",
)  # fmt: skip


def png_bomb(side: int) -> bytes:
    """A picture of side x side black bits, a few kilobytes long."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def photos(folder: Path) -> None:
    """Eleven good pictures and ten things that are none."""
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(encoded(number))
    picture(10).convert("CMYK").save(folder / "ink.jpg")
    Image.fromarray((np.arange(1024).reshape(32, 32) * 60).astype(np.uint16)).save(folder / "deep.png")
    picture(11).save(folder / "moving.gif", save_all=True, append_images=[picture(12)])
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")).write_bytes(encoded(13))
    (folder / "bomb.png").write_bytes(png_bomb(60_000))
    (folder / "half.jpg").write_bytes(encoded(14, "JPEG")[:500])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("<svg onload=alert(1)>")
    for name, target in (("out.png", "/etc/passwd"), ("gone.png", "nowhere"), ("loop.png", "loop.png"), ("up", "/etc")):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.png")


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    """One member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def shards(folder: Path) -> None:
    """Four good pictures among members that lead elsewhere, and a shard that unpacks to far more."""
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, name in enumerate(("a.png", "x\ny<b>.png", "z.png")):
            add(tar, name, encoded(20 + number))
        add(tar, "sym.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.png", type=tarfile.LNKTYPE, linkname="a.png")
        add(tar, "device.png", type=tarfile.CHRTYPE)
        add(tar, "/absolute.png", encoded(23))
        add(tar, "../up.png", encoded(24))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "kept.png", encoded(25))
        add(tar, "bomb.bin", b"\0" * (96 << 20))
    (folder / "1.tar").write_bytes(gzip.compress(buffer.getvalue(), 9))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("corpora")
    (folder / "clip").mkdir()
    (folder / "clip/open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {"size": 32}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder / 'clip'}", load_weights=False)
    save_file(model.state_dict(), folder / "clip/open_clip_model.safetensors")
    photos(folder / "photos")
    shards(folder / "shards")
    (folder / "links.txt").write_text("\n".join(LINKS))
    (folder / "s.yaml").write_text(SPEC)
    return folder


def test_good_pictures_are_indexed_and_bad_ones_counted_by_reason(place: Path) -> None:
    from results.store import ResultsStore

    said = runner("exec", "s.yaml", cwd=place)
    assert said.code == 0, said.err[-2000:]
    rows = ResultsStore(place / "out/results.duckdb").query("SELECT * FROM corpus_source").to_pylist()
    found = {row["step"]: (row["embedded"], json.loads(row["problems"])["counts"]) for row in rows}
    assert found["folder"] == (
        len(NAMES) + 3,
        {
            "broken_link": 2, "empty": 1, "link_out_of_root": 2, "special_file": 1, "too_large": 1, "truncated": 1,
            "undecodable": 1, "unsafe_name": 1,
        },
    )  # fmt: skip
    assert found["tars"] == (4, {"compression_bomb": 1, "link_member": 2, "special_member": 1, "unsafe_name": 2})
    assert found["links"] == (0, {"refused_address": 6, "refused_scheme": 2})
    assert not list(place.rglob("marker*")) and "root:x:0" not in said.out + said.err
    assert peak_of_children() < 3 * GIB
