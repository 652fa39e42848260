"""Pictures with what can be asked of them, domain by domain. Random numbers come in, nothing else varies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from runner.nodes.cut_outs import Figure
from runner.nodes.noun_cut_outs import Kit
from runner.nodes.nouns import NOUNS
from runner.nodes.pasting import scaled, squared
from runner.nodes.stage import Stage
from runner.nodes.visual_questions.words import ASKED, BESIDE, COLOURS, OPPOSITE, PLACES, SHAPES, STYLES, TEXTS

T = TypeVar("T")
MOST = 5
"""Objects that are counted at most."""


class Turn(NamedTuple):
    """A question of a kind, and its answer in one word."""

    kind: str
    question: str
    answer: str


class Scene(NamedTuple):
    """A picture, RGB, what may be asked of it, and the cut-outs in it (``source/uri``)."""

    image: Image.Image
    turns: list[Turn]
    parts: list[str]


class Canvas(Stage):
    """A stage that knows colours and asks."""

    def tint(self, colour: str) -> tuple[int, int, int]:
        """A colour near the centre of a named one."""
        moved = np.clip(np.asarray(COLOURS[colour]) + self.draw.integers(-12, 13, 3), 0, 255)
        return int(moved[0]), int(moved[1]), int(moved[2])

    def plain(self, colour: str) -> Image.Image:
        """A ground of one colour, RGBA."""
        return Image.new("RGBA", (self.size, self.size), (*self.tint(colour), 255))

    def ask(self, kind: str, answer: str, **words: object) -> Turn:
        """A question of a kind in one of its wordings."""
        question = self.pick(ASKED[kind]).format(**words)
        return Turn(kind, _with_article(question), answer)

    def check(self, kind: str, truth: str, others: Sequence[str], field: str, **words: object) -> Turn:
        """A question for yes or no, each as likely: about the truth or about something else."""
        yes = self.coin()
        named = truth if yes else self.other(others, truth)
        return self.ask(kind, _said(yes), **{field: named, **words})


def _said(true: bool) -> str:
    return "yes" if true else "no"


def _with_article(question: str) -> str:
    for vowel in "aeiou":
        question = question.replace(f" a {vowel}", f" an {vowel}")
    return question


def object_scene(canvas: Canvas, noun: str) -> Scene:
    """One object; asked: what it is, whether something is there, what kind of thing, this or that."""
    figure, ground = canvas.figure(noun), canvas.ground()
    canvas.put(ground, canvas.shaped(figure.image, 0.6, 0.98))
    nouns = canvas.kit.nouns
    pair = [noun, canvas.other(nouns, noun)][:: 1 if canvas.coin() else -1]
    turns = [
        canvas.ask("what", noun),
        canvas.check("present", noun, nouns, "noun"),
        canvas.ask("kind", NOUNS[noun]),
        canvas.ask("either", noun, first=pair[0], second=pair[1]),
    ]
    return _scene(ground, turns, [figure])


def count_scene(canvas: Canvas, number: str) -> Scene:
    """One to five objects of a noun in cells of a grid, none over another."""
    noun = canvas.pick([n for n in canvas.kit.nouns if n != "fish"])
    figure, ground, count = canvas.figure(noun), canvas.ground(), int(number)
    cells = canvas.draw.permutation(9)[:count]
    for cell in cells:
        left, top = (cell % 3) / 3, (cell // 3) / 3
        canvas.put(ground, canvas.shaped(figure.image, 0.26, 0.33), (left, top, left + 1 / 3, top + 1 / 3))
    limit = int(canvas.draw.integers(max(1, count - 2), min(MOST, count + 2)))
    turns = [
        canvas.ask("count", number, noun=noun),
        canvas.ask("count_any", number),
        canvas.ask("more_than", _said(count > limit), number=limit, noun=noun),
        canvas.ask("counted", noun),
    ]
    return _scene(ground, turns, [figure])


def colour_scene(canvas: Canvas, colour: str) -> Scene:
    """A tinted shape, or a cut-out in shades of one colour, on a ground of another."""
    behind = canvas.other([*COLOURS], colour)
    ground, parts = canvas.plain(behind), list[Figure]()
    if canvas.draw.random() < 0.6:
        name = canvas.pick(SHAPES)
        image = shape(name, canvas.tint(colour))
    else:
        name = canvas.pick(canvas.kit.nouns)
        parts = [canvas.figure(name)]
        image = recoloured(parts[0].image, canvas.tint(colour))
    canvas.put(ground, canvas.shaped(image, 0.4, 0.85))
    turns = [
        canvas.ask("colour", colour, noun=name),
        canvas.ask("background", behind, noun=name),
        canvas.check("is_colour", colour, [*COLOURS], "colour", noun=name),
        canvas.ask("shape", name),
    ]
    return _scene(ground, turns, parts)


def shape(name: str, colour: tuple[int, int, int], side: int = 128) -> Image.Image:
    """A filled circle, square, triangle or star, RGBA, transparent around it."""
    image = Image.new("RGBA", (side, side), (*colour, 0))
    pen, edge, fill = ImageDraw.Draw(image), side - 1, (*colour, 255)
    if name == "circle":
        pen.ellipse((0, 0, edge, edge), fill=fill)
    elif name == "square":
        pen.rectangle((0, 0, edge, edge), fill=fill)
    else:
        corners = {"triangle": 3, "star": 10}[name]
        angles = -np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
        radii = np.where(np.arange(corners) % 2, 0.42, 1.0) if name == "star" else np.ones(corners)
        points = side / 2 + side / 2 * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        pen.polygon([(float(x), float(y)) for x, y in points], fill=fill)
    return image


def recoloured(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """A cut-out in shades of one colour: its luminance, moved to the colour's, scales the colour; RGBA."""
    pixels = np.asarray(image.convert("RGBA"), np.float32)
    light = pixels[..., :3] @ np.asarray([0.299, 0.587, 0.114], np.float32)
    seen = pixels[..., 3] > 0
    shade = 1 + 0.5 * (light - (light[seen].mean() if seen.any() else 0)) / 255
    made = np.clip(shade[..., None] * np.asarray(colour, np.float32), 0, 255)
    return Image.fromarray(np.concatenate([made, pixels[..., 3:]], -1).round().astype(np.uint8), "RGBA")


def text_scene(canvas: Canvas, word: str) -> Scene:
    """A word in Pillow's own font, dark on light or light on dark."""
    dark, ink = canvas.coin(), canvas.draw.integers(0, 70, (2, 3))
    back, front = (ink[0], 255 - ink[1]) if dark else (255 - ink[0], ink[1])
    ground = Image.new("RGBA", (canvas.size, canvas.size), (*(int(v) for v in back), 255))
    written = lettering(word, (int(front[0]), int(front[1]), int(front[2])))
    share = canvas.draw.uniform(0.72, 0.97) * min(1.0, 0.4 + 0.15 * len(word))
    canvas.put(ground, scaled(written, round(canvas.size * share), mirrored=False))
    turns = [
        canvas.ask("read", word),
        canvas.ask("initial", word[0]),
        canvas.check("says", word, TEXTS, "word"),
        canvas.ask("letters", str(len(word))),
    ]
    return _scene(ground, turns, [])


def lettering(word: str, colour: tuple[int, int, int]) -> Image.Image:
    """The word alone, RGBA, cut to its ink."""
    font = ImageFont.load_default(64)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(word))
    image = Image.new("RGBA", (right - left + 2, bottom - top + 2), (*colour, 0))
    ImageDraw.Draw(image).text((1 - left, 1 - top), word, font=font, fill=(*colour, 255), stroke_width=1)
    return image


def position_scene(canvas: Canvas, place: str) -> Scene:
    """Two objects; the first is to the ``place`` of the second, and clearly nothing else."""
    nouns = canvas.kit.nouns
    first = canvas.pick(nouns)
    second = canvas.other(nouns, first)
    figures, ground = [canvas.figure(first), canvas.figure(second)], canvas.ground()
    boxes = {"left": ((0, 0.2, 0.5, 0.8), (0.5, 0.2, 1, 0.8)), "above": ((0.2, 0, 0.8, 0.5), (0.2, 0.5, 0.8, 1))}
    where = boxes[place] if place in boxes else boxes[OPPOSITE[place]][::-1]
    for figure, box in zip(figures, where, strict=True):
        canvas.put(ground, canvas.shaped(figure.image, 0.38, 0.5), box)
    axis = "across" if place in ("left", "right") else "along"
    turns = [
        canvas.ask(axis, place, first=first, second=second),
        canvas.ask("at", first, place=BESIDE[place], noun=second),
        canvas.ask("at", second, place=BESIDE[OPPOSITE[place]], noun=first),
        canvas.check("is_at", BESIDE[place], [BESIDE[OPPOSITE[place]]], "place", first=first, second=second),
    ]
    return _scene(ground, turns, figures)


def style_scene(canvas: Canvas, style: str) -> Scene:
    """An object as one set depicts it, or a photograph."""
    if style == "photo":
        place, _, image = canvas.pick(canvas.kit.photographs)
        ground, parts, named = squared(image, canvas.size), ["/".join(place)], None
    else:
        usable = styled(canvas.kit, style)
        named = canvas.pick([*usable])
        figure, ground = canvas.pick(usable[named]), canvas.ground()
        canvas.put(ground, canvas.shaped(figure.image, 0.6, 0.98))
        parts = ["/".join(figure.place)]
    styles = styles_of(canvas.kit)
    turns = [canvas.ask("style", style)] + [canvas.check("is_style", style, styles, "style") for _ in range(2)]
    if named is not None:
        turns.append(canvas.ask("what", named))
    return Scene(ground.convert("RGB"), turns, parts)


def styled(kit: Kit, style: str) -> dict[str, list[Figure]]:
    """Cut-outs in a style, by noun."""
    found = {n: [f for f in kit.figures[n] if STYLES.get(f.place.source_id) == style] for n in kit.nouns}
    return {noun: figures for noun, figures in found.items() if figures}


def styles_of(kit: Kit) -> list[str]:
    """Styles that the material has."""
    return [style for style in STYLES.values() if (kit.photographs if style == "photo" else styled(kit, style))]


def _scene(ground: Image.Image, turns: list[Turn], figures: Sequence[Figure]) -> Scene:
    return Scene(ground.convert("RGB"), turns, ["/".join(figure.place) for figure in figures])


DOMAINS: dict[str, tuple[Callable[[Canvas, str], Scene], Callable[[Kit], Sequence[str]]]] = {
    "object": (object_scene, lambda kit: kit.nouns),
    "count": (count_scene, lambda kit: [str(n) for n in range(1, MOST + 1)]),
    "colour": (colour_scene, lambda kit: [*COLOURS]),
    "text": (text_scene, lambda kit: TEXTS),
    "position": (position_scene, lambda kit: PLACES),
    "style": (style_scene, styles_of),
}
"""What draws a domain's pictures, and what they are about in turn, so that first answers are balanced."""


def shuffled(canvas: Canvas, turns: Sequence[Turn], most: int) -> Iterator[Turn]:
    """At most ``most`` of the turns in a random order, so that no kind leans on the answer before it."""
    for place in canvas.draw.permutation(len(turns))[:most]:
        yield turns[int(place)]
