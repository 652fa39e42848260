"""Builds an index and kills itself once so many shards are finished: the child of the kill tests, and importable.

python killed_build.py PHOTOS INDEX WORK SHARDS
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_encoder import ColourEncoder

import retrieval.index
from retrieval import storage
from runner.context import local_context
from runner.data.sources import base


def small_shards() -> None:
    """Cut folders into runs of about eight files, so that a small folder has several shards."""
    base.chunked.__kwdefaults__ = {"mean": 8, "largest": 8}


class DyingEncoder(ColourEncoder):
    """Is killed in the middle of the shard that follows the given number of finished ones."""

    def __init__(self, folder: Path, shards: int) -> None:
        super().__init__()
        self.folder, self.shards = folder, shards

    def encode_prepared(self, batch):
        if len(list(self.folder.glob("shard-*.json"))) >= self.shards:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_prepared(batch)


if __name__ == "__main__":
    photos, index, work, shards = sys.argv[1:]
    small_shards()
    assert storage.FORMAT
    retrieval.index.build(
        Path(index), {"folder": photos}, DyingEncoder(Path(index), int(shards)), local_context(Path(work)), batch_size=4
    )
