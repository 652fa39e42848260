"""A picture in a terminal: two pixels a character."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from runner.data.images import decode

COLUMNS = 64


def rows_of(image: Image.Image, columns: int) -> list[list[tuple[str, str]]]:
    """Colours (upper, lower), ``#rrggbb``, of the characters that show a picture ``columns`` wide."""
    height = max(2, round(columns * image.height / image.width / 2) * 2)
    small = image.convert("RGB").resize((columns, height), Image.Resampling.BOX)
    flat = list(small.tobytes())
    pixels = [f"#{flat[at]:02x}{flat[at + 1]:02x}{flat[at + 2]:02x}" for at in range(0, len(flat), 3)]
    lines = [pixels[at : at + columns] for at in range(0, len(pixels), columns)]
    return [list(zip(upper, lower, strict=True)) for upper, lower in zip(lines[::2], lines[1::2], strict=True)]


def print_picture(path: Path, console: Console | None = None) -> None:
    """Print the picture at ``path``, as wide as the terminal allows, at most 64 characters."""
    console = console or Console()
    for row in rows_of(decode(path.read_bytes()), min(COLUMNS, console.width)):
        line = [
            Segment("▀", Style(color=Color.parse(upper).name, bgcolor=Color.parse(lower).name)) for upper, lower in row
        ]
        console.print(Segments([*line, Segment.line()]), end="")
