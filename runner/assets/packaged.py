"""Packaged image sets as the data room sees them: names in a stable order, bytes, captions, and labels where known."""

from __future__ import annotations

import io
import json
import zipfile
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runner.assets.packing import IMAGES, INDEX, LABELS, PIXELS, Index
from runner.errors import AssetError, DataError

if TYPE_CHECKING:
    from runner.assets import Asset


class PackagedImages(ABC):
    """One verified image set. Reading is safe from several threads; open it anew in another process.

    ``fingerprint`` changes when any picture, caption or label changes. URIs are names inside the set.
    """

    def __init__(self, asset: Asset, name: str) -> None:
        self.asset = asset
        self.name = name
        self.licence = asset.licence
        self.attribution = asset.attribution
        self.fingerprint = asset.sha256 if name == asset.name else f"{asset.sha256}{name.removeprefix(asset.name)}"

    @staticmethod
    def open(asset: Asset, variant: str = "") -> PackagedImages:
        """The set that the asset holds. Raises ``AssetError`` for a variant that it does not have."""
        if (asset.path / PIXELS).is_file():
            if variant:
                raise AssetError(f"{asset.name} has no variant {variant!r}")
            return CifarImages(asset, asset.name)
        return ZippedImages(asset, variant)

    @abstractmethod
    def uris(self) -> list[str]:
        """Every picture, in an order that never changes for one fingerprint."""

    @abstractmethod
    def read(self, uri: str) -> bytes:
        """The encoded picture (PNG or WebP). Raises ``DataError`` for an unknown name."""

    def caption(self, uri: str) -> str | None:
        """The picture's own caption, if its source gives one."""
        return None

    def labels(self) -> dict[str, str] | None:
        """True class by URI, for sets that have classes. Kept apart from the captions: an audit must not see them."""
        return None

    def __len__(self) -> int:
        return len(self.uris())


class ZippedImages(PackagedImages):
    """Pictures in an uncompressed zip, with captions."""

    def __init__(self, asset: Asset, variant: str = "") -> None:
        super().__init__(asset, f"{asset.name}+{variant}" if variant else asset.name)
        self._index = Index.read(asset.path / INDEX)
        if variant not in self._index.variants:
            known = ", ".join(f"{asset.name}+{v}" for v in self._index.variants if v)
            hint = f"variants: {known}" if known else None
            raise AssetError(f"{asset.name} has no variant {variant!r}", hint=hint)
        self._uris = self._index.variants[variant]

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.asset.path / IMAGES)

    def uris(self) -> list[str]:
        """Member names, sorted."""
        return list(self._uris)

    def read(self, uri: str) -> bytes:
        """The picture as the package holds it."""
        try:
            return self._archive.read(uri)
        except KeyError:
            raise DataError(f"{self.name} has no picture {uri!r}") from None

    def caption(self, uri: str) -> str | None:
        """CLDR name, stamp text, or title and keywords."""
        return self._index.captions.get(uri)


class CifarImages(PackagedImages):
    """CIFAR-10 photographs as one memory-mapped array uint8 [n, 32, 32, 3]; no captions, hidden labels."""

    @cached_property
    def pixels(self) -> Any:
        """The array, memory-mapped, read-only."""
        import numpy as np

        return np.load(self.asset.path / PIXELS, mmap_mode="r", allow_pickle=False)

    @cached_property
    def _labels(self) -> list[str]:
        names: list[str] = json.loads((self.asset.path / LABELS).read_text("utf8"))
        return names

    def uris(self) -> list[str]:
        """``00000.png`` onwards, in the data set's order."""
        return [f"{i:05d}.png" for i in range(len(self._labels))]

    def read(self, uri: str) -> bytes:
        """The picture as a lossless PNG."""
        from PIL import Image

        number = uri.removesuffix(".png")
        if not (number.isascii() and number.isdigit() and int(number) < len(self._labels)):
            raise DataError(f"{self.name} has no picture {uri!r}")
        buffer = io.BytesIO()
        Image.fromarray(self.pixels[int(number)]).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def labels(self) -> dict[str, str]:
        """Class name by URI."""
        return dict(zip(self.uris(), self._labels, strict=True))
