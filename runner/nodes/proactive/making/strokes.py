"""Paths of vector drawings as polylines, and how much of them is drawn. Pure numpy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Stroke = NDArray[np.float64]
"""Points of a line (k, 2), k >= 2."""
PARTS = 16
"""Straight pieces of a curve."""
LEAST = 0.2
"""Length of a line that counts as more than a dot."""
_TOKEN = re.compile(r"[MmLlHhVvCcSsQqTtAaZz]|[-+]?(?:\d*\.\d+|\d+\.?)(?:[eE][-+]?\d+)?")
_COUNTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}


def flattened(path: str) -> list[Stroke]:
    """Lines of an SVG path (its ``d``), each from where the pen is set down to where it is lifted; dots are left out.

    Raises ``ValueError`` for text that is no path.
    """
    found: list[list[NDArray[np.float64]]] = []
    pen = start = np.zeros(2)
    control: NDArray[np.float64] | None = None
    for command, values in _segments(path):
        kind, base = command.upper(), pen if command.islower() else np.zeros(2)
        if kind == "M":
            pen = start = base + values
            found.append([pen[None]])
            control = None
            continue
        points, control = _points(kind, values, base, pen, start, control)
        if not found or (kind != "Z" and len(found[-1]) == 0):
            raise ValueError("a path begins without a move")
        found[-1].append(points)
        pen = points[-1]
        if kind == "Z":
            found.append([pen[None]])
    lines = [np.concatenate(pieces) for pieces in found if len(pieces) > 1]
    return [line for line in lines if length(line) >= LEAST]


def _segments(path: str) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Commands with their numbers, repetitions written out."""
    command, waiting = "", list[float]()
    for token in _tokens(path):
        if token.isalpha():
            if waiting:
                raise ValueError("a path breaks off")
            command = token
            if command in "Zz":
                yield command, np.zeros(0)
        elif not command or command in "Zz":
            raise ValueError("a path has a number without a command")
        else:
            waiting.append(float(token))
            if len(waiting) == _COUNTS[command.upper()]:
                yield command, np.asarray(waiting)
                waiting = []
                command = {"M": "L", "m": "l"}.get(command, command)
    if waiting:
        raise ValueError("a path breaks off")


def _tokens(path: str) -> Iterator[str]:
    """Commands and numbers. The two flags of an arc are one digit each and may stand without a blank."""
    place, command, count = 0, "", 0
    while place < len(path):
        if path[place] in " ,\t\n\r":
            place += 1
            continue
        flag = command in ("A", "a") and count % 7 in (3, 4)
        found = re.compile(r"[01]").match(path, place) if flag else _TOKEN.match(path, place)
        if found is None:
            raise ValueError(f"a path has {path[place]!r}")
        command, count = (found[0], 0) if found[0].isalpha() else (command, count + 1)
        place = found.end()
        yield found[0]


def _points(
    kind: str, values: NDArray[np.float64], base: NDArray[np.float64], pen: NDArray[np.float64],
    start: NDArray[np.float64], control: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:  # fmt: skip
    """Points after the pen, and the last control point where the next command may mirror it."""
    if kind == "Z":
        return start[None], None
    if kind == "H":
        return np.asarray([[base[0] + values[0], pen[1]]]), None
    if kind == "V":
        return np.asarray([[pen[0], base[1] + values[0]]]), None
    if kind == "A":
        return _arc(pen, values, base + values[5:]), None
    given = base + values.reshape(-1, 2)
    if kind == "L":
        return given, None
    if kind in "ST":  # the first control point is the mirror image of the last one
        given = np.concatenate([(2 * pen - control if control is not None else pen)[None], given])
    return _bezier(np.concatenate([pen[None], given])), given[-2]


def _bezier(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points on a Bezier curve of any order (k + 1, 2), without its first."""
    t, order = np.linspace(0, 1, PARTS + 1)[1:, None], len(points) - 1
    weights = [math.comb(order, k) * t**k * (1 - t) ** (order - k) for k in range(order + 1)]
    return np.asarray(sum(w * p for w, p in zip(weights, points, strict=True)))


def _arc(pen: NDArray[np.float64], values: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points on an elliptic arc, from its end points to its centre as the SVG standard writes it down."""
    rx, ry, turn = abs(values[0]), abs(values[1]), math.radians(values[2])
    half = (pen - end) / 2
    spin = np.asarray([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    if min(rx, ry) == 0 or not half.any():
        return end[None]
    x, y = spin @ half
    grow = math.sqrt(max(1.0, (x / rx) ** 2 + (y / ry) ** 2))
    rx, ry = rx * grow, ry * grow
    flat = (rx * y) ** 2 + (ry * x) ** 2
    scale = math.sqrt(max(0.0, ((rx * ry) ** 2 - flat) / flat)) * (-1 if values[3] == values[4] else 1)
    centre = scale * np.asarray([rx * y / ry, -ry * x / rx])
    first = math.atan2((y - centre[1]) / ry, (x - centre[0]) / rx)
    sweep = (math.atan2((-y - centre[1]) / ry, (-x - centre[0]) / rx) - first) % (2 * math.pi)
    sweep = sweep if values[4] else sweep - 2 * math.pi
    angles = first + sweep * np.linspace(0, 1, PARTS + 1)[1:]
    ring = np.stack([rx * np.cos(angles), ry * np.sin(angles)], 1) + centre
    return np.asarray(ring @ spin + (pen + end) / 2)


def length(line: Stroke) -> float:
    """Length of a line."""
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def begun(line: Stroke, part: float) -> Stroke:
    """The first ``part`` (length) of a line."""
    steps = np.hypot(*np.diff(line, axis=0).T)
    ends = np.concatenate([[0.0], np.cumsum(steps)])
    inside = int(np.searchsorted(ends, part))
    if inside >= len(line):
        return line
    last = np.asarray([np.interp(part, ends, line[:, axis]) for axis in (0, 1)])
    return np.concatenate([line[: max(inside, 1)], last[None]])


def ink(lines: Sequence[Stroke], share: float) -> list[Stroke]:
    """As much of the lines, one after another, as the share (0..1) of their whole length."""
    left, found = share * sum(length(line) for line in lines), list[Stroke]()
    for line in lines:
        if left <= 0:
            break
        found.append(begun(line, left))
        left -= length(line)
    return found


def rotated(line: Stroke, start: float) -> Stroke:
    """A closed line that begins at another of its points (``start`` 0..1 of them); an open one stays as it is."""
    if not np.allclose(line[0], line[-1], atol=1e-6):
        return line
    place = int(start * (len(line) - 1))
    return np.concatenate([line[place:-1], line[: place + 1]])
