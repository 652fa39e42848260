"""CIT: a video in which the object comes late and grows."""

from __future__ import annotations

from PIL import Image

from runner.nodes.pasting import scaled
from runner.nodes.proactive.making.material import Drawn, Stand, over, placed

FRAMES = 24
STEPS = (3, 4, 5)
"""Frames that one request moves on or back by."""
SPARE = 2
"""Turns beyond those that lead straight to the last window."""
SMALL, LARGE = 0.06, (0.55, 0.8)
"""Longest side of the object when it appears and at the end, in sides of the picture."""
SHAKE = 2
"""Pixels that the camera moves at most, to any side."""


def appearing(stand: Stand, noun: str) -> Drawn:
    """CIT: 24 frames of a shaken camera; the object appears at frame 6 to 9 and grows evenly to the last, its middle staying where it is.

    Ours: published videos show people doing something, and their step and turns were chosen by hand.
    """
    size, figure = stand.size, stand.figure(noun)
    ground = stand.backdrop(size + 2 * SHAKE)
    first, most = int(stand.draw.integers(6, 10)), size * stand.between(*LARGE)
    mirrored, middle = stand.coin(), (size * stand.between(0.42, 0.58), size * stand.between(0.42, 0.58))
    sides = [0.0 if number < first else SMALL * size + (most - SMALL * size) * (number - first) / (FRAMES - 1 - first)
             for number in range(FRAMES)]  # fmt: skip
    frames = []
    for side in sides:
        left, top = (int(value) for value in stand.draw.integers(0, 2 * SHAKE + 1, 2))
        view = ground.crop((left, top, left + size, top + size))
        frames.append(_shown(view, figure.image, side, mirrored, middle))
    step = stand.pick(STEPS)
    fields = {
        "first_image": 0, "num_images": FRAMES, "reference_image": FRAMES - 1, "step_size": step,
        "max_steps": (FRAMES - 1) // step + 1 + SPARE,
    }  # fmt: skip
    spoken = stand.wording["CIT"]
    visible = [(side / most) ** 2 for side in sides]
    rivals = stand.rivals(noun, stand.kit.nouns)
    part = "/".join(figure.place)
    return Drawn(stand.pick(spoken["questions"]), noun, rivals, [*spoken["requests"]], fields, frames, visible, part)


def _shown(
    view: Image.Image, figure: Image.Image, side: float, mirrored: bool, middle: tuple[float, float]
) -> Image.Image:
    if not side:
        return view.convert("RGB")
    image = scaled(figure, max(1, round(side)), mirrored=mirrored)
    corner = round(middle[0] - image.width / 2), round(middle[1] - image.height / 2)
    return over(view, placed(image, view.width, *corner))
