"""Pictures with coloured regions, for the page: safe colours, bytes as text."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

Row = dict[str, Any]
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


def overlays(rows: Iterable[Row], keys: Sequence[str]) -> Iterator[Row]:
    """Pictures that have ``keys`` in common, with the legend of their colours: ``picture`` (may be missing), ``overlay``, ``names``,
    ``colours``, ``sample_id``."""
    for values, own in groupby(rows, lambda r: tuple(r[k] for k in keys)):
        pictures = list(own)
        legend = {pair: None for row in pictures for pair in zip(row["names"], row["colours"], strict=False)}
        shown = [
            {"sample_id": r["sample_id"], "picture": _text(r.get("picture")), "overlay": _text(r["overlay"])}
            for r in pictures
        ]
        yield {**dict(zip(keys, values, strict=True)), "pictures": shown, "legend": [p for p in legend if _COLOUR.fullmatch(p[1])]}  # fmt: skip


def _text(data: bytes | None) -> str | None:
    return base64.b64encode(data).decode("ascii") if data else None
