"""QD: an outline icon is drawn stroke by stroke."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from runner.nodes.proactive.making.material import Drawn, Stand
from runner.nodes.proactive.making.strokes import Stroke, ink, length, rotated

FIRST = 4.0
"""Length of the line on the first frame, in units of the canvas: the same for all, and no more than a tenth of the ink. Whole paths would
tell the icon at once, and shares how much there is to come."""
CANVAS = 24.0
FINER = 3
"""Drawn larger by this and made smaller, for smooth lines."""


def sketched(stand: Stand, noun: str) -> Drawn:
    """QD: 4 to 6 frames with evenly more of the ink. Where the pen begins, the order and the way of the strokes, size, place, turn and
    side are drawn at random, so that a first stroke does not tell the icon."""
    icon = stand.pick(stand.icons[noun])
    lines = _penned(stand, icon.strokes)
    count = int(stand.draw.integers(4, 7))
    first = min(FIRST / sum(length(line) for line in icon.strokes), 0.1)
    shares = [float(share) for share in np.linspace(first, 1, count)]
    paper, pen = (int(v) for v in stand.draw.integers((235, 0), (256, 50)))
    frames = [_page(ink(lines, share), stand.size, paper, pen) for share in shares]
    spoken = stand.wording["QD"]
    fields = {"first_image": 0, "num_images": count, "reference_image": count - 1}
    rivals = stand.rivals(noun, [*stand.icons])
    asks = [stand.pick(spoken["requests"])]
    part = f"tabler-icons/{icon.name}"
    return Drawn(stand.pick(spoken["questions"]), noun, rivals, asks, fields, frames, shares, part)


def _penned(stand: Stand, strokes: list[Stroke]) -> list[Stroke]:
    """The strokes as one hand draws them, in shares of the side."""
    angle, scale = np.deg2rad(stand.between(-20, 20)), stand.between(0.5, 0.85)
    turn = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [
        1 if stand.coin() else -1,
        1,
    ]
    room = (1 - scale) / 2
    shift = 0.5 + np.asarray([stand.between(-room, room), stand.between(-room, room)])
    found = []
    for place in stand.draw.permutation(len(strokes)):
        line = rotated(strokes[int(place)], float(stand.draw.random()))
        line = line if stand.coin() else line[::-1]
        found.append((line / CANVAS - 0.5) * scale @ turn.T + shift)
    return found


def _page(lines: list[Stroke], size: int, paper: int, pen: int) -> Image.Image:
    side = size * FINER
    image = Image.new("L", (side, side), paper)
    brush, width = ImageDraw.Draw(image), max(2, round(side * 0.045))
    for line in lines:
        points = [(float(x), float(y)) for x, y in line * side]
        brush.line(points, fill=pen, width=width, joint="curve")
        for x, y in (points[0], points[-1]):
            brush.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=pen)
    return image.resize((size, size), Image.Resampling.BOX).convert("RGB")
