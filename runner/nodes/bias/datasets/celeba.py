"""CelebA (Liu et al., ICCV 2015) as labelled pictures with known biases: 40 yes/no attributes for each face."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from runner.data.datasets.celeba import (
    ATTRIBUTE_FILES,
    PARTITION_FILES,
    image_folder,
    read_attributes,
    read_partition,
    text_file,
)
from runner.errors import DataError
from runner.nodes.bias.datasets.base import LabelledImages, locate

Split = Literal["train", "val", "test", "all"]
SPLITS: dict[str, int] = {"train": 0, "val": 1, "test": 2}


def open_celeba(folder: Path, *, split: Split = "val", limit: int | None = None) -> LabelledImages:
    """The pictures of one split with their attributes; nothing but the two text files is read.

    Raises ``DataError`` where a file is missing or malformed, or no picture of the split is there.
    """
    table = read_attributes(text_file(folder, ATTRIBUTE_FILES))
    rows = np.arange(len(table.files))
    if split != "all":
        path = text_file(folder, PARTITION_FILES)
        parts = read_partition(path)
        rows = np.array([i for i, file in enumerate(table.files) if parts.get(file) == SPLITS[split]], np.int64)
        if not len(rows):
            raise DataError(f"{path} puts no picture into the split {split!r}")
    names = [table.files[i] for i in rows]
    images = LabelledImages(
        "celeba", image_folder(folder, names[0]), "yes_no", tuple(names), tuple(table.names), table.present[rows],
        np.zeros(0, np.int64),
    )  # fmt: skip
    return locate(images, names, limit=limit)
