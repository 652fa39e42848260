"""How an image set lies in the cache: pictures in one uncompressed zip, captions and variants in one JSON file.

Both are written so that the same pictures give the same bytes on every machine, and can therefore be pinned by hash.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGES = "images.zip"
INDEX = "index.json"
PIXELS = "pixels.npy"
LABELS = "labels.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass
class Picture:
    """One picture to pack: where it lies, its caption, and the variant it belongs to ('' is the default set)."""

    path: Path
    caption: str | None
    variant: str = ""


@dataclass(frozen=True)
class Index:
    """What ``index.json`` holds: captions by member, members by variant."""

    captions: Mapping[str, str | None]
    variants: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Index:
        """Read from a verified asset."""
        data = json.loads(path.read_text("utf8"))
        return cls(data["captions"], data["variants"])


def pack(pictures: Mapping[str, Picture], folder: Path) -> None:
    """Write ``images.zip`` and ``index.json`` for pictures keyed by member name."""
    names = sorted(pictures)
    with zipfile.ZipFile(folder / IMAGES, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            info.file_size = pictures[name].path.stat().st_size
            with pictures[name].path.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target)
    variants: dict[str, list[str]] = {"": []}
    for name in names:
        variants.setdefault(pictures[name].variant, []).append(name)
    write_json(folder / INDEX, {"captions": {n: pictures[n].caption for n in names}, "variants": variants})


def write_json(path: Path, value: Any) -> None:
    """Write JSON whose bytes depend on the value only."""
    path.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True, indent=0) + "\n", "utf8", newline="\n")
