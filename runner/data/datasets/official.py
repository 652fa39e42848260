"""Splits of Flowers-102 and DTD as their makers publish them, which is also how torchvision unpacks them.

Flowers-102: ``imagelabels.mat`` (``labels``: class 1..102 of each picture) and ``setid.mat`` (``trnid``, ``valid``,
``tstid``: numbers of pictures from 1) beside ``jpg``. DTD: ``labels/{train,val,test}1.txt`` beside ``images``: the first
of its ten splits, a line ``banded/banded_0002.jpg`` a picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.data.datasets.content import quoted
from runner.data.datasets.specs import Split
from runner.data.datasets.tables import MAX_TABLE_BYTES, check_paths, read_text
from runner.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOWER_LABELS, FLOWER_SETS = "imagelabels.mat", "setid.mat"
_FLOWER_SPLITS: tuple[tuple[Split, str], ...] = (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
_TEXTURE_FILES: dict[Split, str] = {"train": "train1.txt", "val": "val1.txt", "test": "test1.txt"}
FLOWERS = 102


class OfficialEntry(NamedTuple):
    """A picture below the folder of pictures, with the name of its class."""

    split: Split
    path: str
    name: str


def official_files(name: str, pictures: Path) -> list[Path]:
    """The files that say the split of ``name`` where ``pictures`` is its folder of pictures; none = no such layout."""
    if name == "flowers102":
        return [pictures.parent / file for file in (FLOWER_LABELS, FLOWER_SETS)]
    if name == "dtd":
        return [pictures.parent / "labels" / file for file in _TEXTURE_FILES.values()]
    return []


def read_official(name: str, pictures: Path) -> list[OfficialEntry]:
    """Pictures by split, in the order of the files. Raises ``DataError`` naming file and place."""
    return _flowers(pictures.parent) if name == "flowers102" else _textures(pictures.parent / "labels")


def flower_names() -> list[str]:
    """The names of the 102 flowers by class, as torchvision carries them."""
    from torchvision.datasets import Flowers102

    return list(Flowers102.classes)


def _flowers(root: Path) -> list[OfficialEntry]:
    names, labels = flower_names(), _numbers(root / FLOWER_LABELS, "labels", FLOWERS)
    entries = []
    for split, key in _FLOWER_SPLITS:
        for number in _numbers(root / FLOWER_SETS, key, len(labels)).tolist():
            entries.append(OfficialEntry(split, f"image_{number:05d}.jpg", names[labels[number - 1] - 1]))
    return entries


def _numbers(path: Path, key: str, most: int) -> NDArray[np.int64]:
    """The whole numbers 1..``most`` under ``key`` of a MATLAB file [n]."""
    import numpy as np

    raw = np.asarray(_matlab(path, key))
    if raw.dtype.kind not in "iuf" or not raw.size:
        raise DataError(f"{path}: {key} holds no numbers")
    wrong = raw[~((raw >= 1) & (raw <= most) & (raw == np.floor(raw)))]
    if wrong.size:
        raise DataError(f"{path}: {key} holds {quoted(wrong.flat[0].item())}; expected whole numbers from 1 to {most}")
    return raw.astype(np.int64).reshape(-1)


def _matlab(path: Path, key: str) -> Any:
    from scipy.io import loadmat

    try:
        if not path.is_file() or path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(f"{path} is no regular file of at most {MAX_TABLE_BYTES:,} bytes")
        found = loadmat(path, variable_names=[key])
    except DataError:
        raise
    except Exception as error:  # the reader raises whatever damaged bytes lead it to
        raise DataError(f"{path} cannot be read as a MATLAB file: {str(error)[:200]}") from error
    if key not in found:
        raise DataError(f"{path} holds no {key!r}", hint="Take the file as its makers publish it.")
    return found[key]


def _textures(folder: Path) -> list[OfficialEntry]:
    entries = []
    for split, file in _TEXTURE_FILES.items():
        path = folder / file
        lines = [line.strip() for line in read_text(path).splitlines()]
        for number, line in enumerate(lines, start=1):
            if line and line.count("/") != 1:
                raise DataError(f"{path}, line {number}: expected CLASS/FILE, found {quoted(line)}")
        listed = [line for line in lines if line]
        check_paths(str(path), listed)
        entries += [OfficialEntry(split, line, line.partition("/")[0]) for line in listed]
    return entries
