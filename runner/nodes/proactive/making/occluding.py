"""ROD and VSOD: something stands or passes before an object that does not move."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw

from runner.nodes.proactive.making.material import Drawn, Stand, over, placed, share_shown

RING, HIDDEN = 14, 7
"""Frames of ROD, and the one on which nothing of the object is seen."""
SLAB = 0.62
"""Side of what hides an object, as a share of the picture's; the object has at most 0.5, so that its size does not tell it."""
VIDEO, PASSING = 24, 12
"""Frames of VSOD, and the one on which the object is hidden."""
ELLIPSE = 0.78
"""Diameters of the passing ellipse: more than the diagonal of any object."""
LEAST, MOST = 0.36, 0.5
"""Longest side of an object."""


def behind(stand: Stand, noun: str) -> Drawn:
    """ROD: a slab before the object moves 1/6 of the way to free it from frame to frame; frames 0, 1 and 13 show all of it.

    Ours: in the published set a person moves the occluder; 14 frames on a ring, 7 hides everything, 0 nothing.
    """
    occluder = stand.pick([*OCCLUDERS])
    slab = OCCLUDERS[occluder](stand, round(SLAB * stand.size))
    shifts = [number - HIDDEN for number in range(RING)]
    frames, shown, part = _passed(stand, noun, slab, shifts, 6)
    spoken = stand.wording["ROD"]
    asks = [text.format(occluder=occluder) for text in spoken["requests"]]
    question = stand.pick(spoken["questions"]).format(occluder=occluder)
    fields = {"first_image": HIDDEN, "num_images": RING, "reference_image": 0}
    return Drawn(question, noun, stand.rivals(noun, stand.kit.nouns), asks, fields, frames, shown, part)


def passing(stand: Stand, noun: str) -> Drawn:
    """VSOD: a dark ellipse crosses the object, in either direction; it is gone 10 frames before and after."""
    ellipse = _ellipse(stand, round(ELLIPSE * stand.size))
    way = 1 if stand.coin() else -1
    shifts = [way * (number - PASSING) for number in range(VIDEO)]
    frames, shown, part = _passed(stand, noun, ellipse, shifts, 10)
    spoken = stand.wording["VSOD"]
    fields = {"first_image": PASSING, "num_images": VIDEO, "reference_image": 0, "strong_occlusions": True}
    rivals = stand.rivals(noun, stand.kit.nouns)
    return Drawn(stand.pick(spoken["questions"]), noun, rivals, [*spoken["requests"]], fields, frames, shown, part)


def _passed(
    stand: Stand, noun: str, cover: Image.Image, shifts: list[int], free: int
) -> tuple[list[Image.Image], list[float], str]:
    """Frames with the cover ``shift`` steps from before the object, which ``free`` steps leave to be seen."""
    size, figure = stand.size, stand.figure(noun)
    image = stand.shaped(figure.image, LEAST, MOST)
    middle = round(size * stand.between(0.4, 0.6)), round(size * stand.between(0.4, 0.6))
    layer = placed(image, size, middle[0] - image.width // 2, middle[1] - image.height // 2)
    ground = stand.backdrop(size)
    step = ((cover.width + image.width) / 2 + 2) / free
    corner = middle[0] - cover.width // 2, middle[1] - cover.height // 2
    covers = [placed(cover, size, corner[0] + round(shift * step), corner[1]) for shift in shifts]
    return [over(ground, layer, c) for c in covers], [share_shown(layer, c) for c in covers], "/".join(figure.place)


def _ellipse(stand: Stand, side: int) -> Image.Image:
    image = Image.new("RGBA", (side, side))
    grey = int(stand.draw.integers(8, 40))
    ImageDraw.Draw(image).ellipse((0, 0, side - 1, side - 1), fill=(grey, grey, grey, 255))
    return image


def _colour(stand: Stand, low: int = 40, high: int = 220) -> tuple[int, int, int, int]:
    red, green, blue = (int(value) for value in stand.draw.integers(low, high, 3))
    return red, green, blue, 255


def _blocks(stand: Stand, side: int) -> Image.Image:
    """A wall of toy blocks."""
    image, each = Image.new("RGBA", (side, side), (60, 60, 60, 255)), side / 4
    pen = ImageDraw.Draw(image)
    for place in range(16):
        left, top = place % 4 * each, place // 4 * each
        pen.rectangle((left + 1, top + 1, left + each - 2, top + each - 2), fill=_colour(stand))
    return image


def _board(stand: Stand, side: int) -> Image.Image:
    """A wooden board."""
    brown = int(stand.draw.integers(90, 170))
    image = Image.new("RGBA", (side, side), (brown, brown * 2 // 3, brown // 3, 255))
    pen = ImageDraw.Draw(image)
    for row in range(4, side, 9):
        pen.line(
            (0, row, side, row + int(stand.draw.integers(-2, 3))), fill=(brown * 3 // 4, brown // 2, brown // 4, 255)
        )
    return image


def _curtain(stand: Stand, side: int) -> Image.Image:
    """A curtain with folds."""
    image, colour = Image.new("RGBA", (side, side), _colour(stand)), _colour(stand)
    pen = ImageDraw.Draw(image)
    for column in range(0, side, 12):
        pen.rectangle((column, 0, column + 5, side), fill=colour)
    return image


def _book(stand: Stand, side: int) -> Image.Image:
    """The cover of a book: a spine and a frame."""
    image, edge = Image.new("RGBA", (side, side), _colour(stand)), _colour(stand)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, side // 8, side), fill=edge)
    pen.rectangle((side // 4, side // 8, side - side // 8, side - side // 8), outline=edge, width=3)
    return image


OCCLUDERS: dict[str, Callable[[Stand, int], Image.Image]] = {
    "blocks": _blocks, "board": _board, "curtain": _curtain, "book": _book,
}  # fmt: skip
"""What hides objects, by its name."""
