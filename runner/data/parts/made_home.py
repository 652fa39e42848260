"""Where made pictures lie: below the workspace's shared folder, so that later steps find them by the corpus."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runner.context import StepContext


@contextlib.contextmanager
def home(ctx: StepContext, kind: str, key: str) -> Iterator[tuple[Path, Path]]:
    """(folder to write to, folder where it all lies afterwards); the same ``key`` must mean the same pictures.

    The second exists only as a whole. An artifact's own folder would not do: it moves when the step is done.
    """
    final, draft = ctx.shared / kind / key, ctx.scratch / kind
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft, final
    if final.exists():
        shutil.rmtree(draft, ignore_errors=True)
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.rename(final)
    except OSError:
        if not final.is_dir():  # else another run was faster, with the same content
            raise


def png(pixels: NDArray[Any]) -> bytes:
    """An RGB picture uint8 [H, W, 3] as PNG bytes, the same for the same pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
