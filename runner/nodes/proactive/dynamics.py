"""How pictures follow one another: four dynamics for seven scenarios, as pure functions of a record and a state.

Source: section "environment" of ProactiveBench (arXiv 2603.19466) and its code. A state counts; nothing is drawn here.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from runner.nodes.proactive.records import Record, directions, frame_uri


class Frame(NamedTuple):
    """What is shown: file, box of pixels (left, top, right, bottom; None: all of it), number of the frame or view."""

    uri: str
    crop: tuple[float, float, float, float] | None
    index: int  # type: ignore[assignment]


class State(NamedTuple):
    """``turn``: finished turns; ``position``: frame, severity or entry; ``across``, ``down``: crop steps; ``last``: last action."""

    turn: int
    position: int
    across: int
    down: int
    last: str | None = None


class Dynamics(ABC):
    """States and moves of one record. ``remaining`` counts the requests from a state to the most telling view."""

    record: Record
    max_turns: int

    def start(self) -> State:
        """Before the first turn."""
        return State(0, self.record.first_image, 0, 0)

    @abstractmethod
    def possible(self, state: State) -> tuple[str, ...]:
        """Actions that lead to another view and help now, whether an option offers them or not."""

    @abstractmethod
    def move(self, state: State, action: str) -> State:
        """The state after one more turn with an action of ``possible``."""

    @abstractmethod
    def frame(self, state: State) -> Frame:
        """The view of a state."""

    @abstractmethod
    def reference(self) -> Frame:
        """The view on which what is asked can be recognised best, as published."""

    @abstractmethod
    def remaining(self, state: State) -> int:
        """Requests from here to the most telling view, by the shortest way."""

    @property
    def withdraws(self) -> bool:
        """Whether requests that have become impossible are no longer offered (else they stay and lead nowhere)."""
        return False


CORRUPT = re.compile(r"(natural_bluebl_greenr-banana-s)6(?!\d)")
"""The one unreadable frame of the published release (ROD)."""


def corrupt_position(record: Record) -> int | None:
    """Where the unreadable frame stands, if the record has it."""
    return 6 if record.scenario == "ROD" and CORRUPT.search(frame_uri(record, 6)) else None


@dataclass(frozen=True)
class Ring(Dynamics):
    """ROD, VSOD: pos <- (pos +- 1) mod n; every request always helps; n turns at most."""

    record: Record

    @property
    def max_turns(self) -> int:  # type: ignore[override]
        """All frames."""
        return self.record.num_images

    @property
    def _ways(self) -> dict[str, int]:
        return {"left": -1, "right": 1} if self.record.scenario == "ROD" else {"rewind": -1, "wait": 1}

    def possible(self, state: State) -> tuple[str, ...]:
        """Both ways."""
        return tuple(self._ways)

    def move(self, state: State, action: str) -> State:
        """One frame on, around the ring."""
        position = (state.position + self._ways[action]) % self.record.num_images
        return State(state.turn + 1, position, 0, 0, action)

    def frame(self, state: State) -> Frame:
        """The frame at the position. The corrupt one is shown as its neighbour beyond; the position counts on as it is."""
        uri = frame_uri(self.record, state.position)
        if self.record.scenario == "ROD":
            uri = CORRUPT.sub(r"\g<1>5" if state.last == "left" else r"\g<1>7", uri)
        return Frame(uri, None, state.position)

    def reference(self) -> Frame:
        """``reference_image``."""
        return self.frame(State(0, self.record.reference_image, 0, 0))

    def remaining(self, state: State) -> int:
        """Distance on the ring."""
        n = self.record.num_images
        forward = (self.record.reference_image - state.position) % n
        return min(forward, n - forward)


@dataclass(frozen=True)
class Path(Dynamics):
    """MVP-N (k-th valid view), IN-C (severity down), QD (one stroke more): one frame on while there is one; n turns at most.

    ``position``: entry of ``valid_images`` (MVP-N), severity (IN-C), frame (QD).
    """

    record: Record

    @property
    def max_turns(self) -> int:  # type: ignore[override]
        """All views."""
        return self.record.num_images

    @property
    def _last(self) -> int:
        r = self.record
        return r.first_image - r.num_images + 1 if r.scenario == "IN-C" else r.num_images - 1

    def start(self) -> State:
        """The first view: of MVP-N entry 0, whatever number it has."""
        return State(0, 0 if self.record.scenario == "MVP-N" else self.record.first_image, 0, 0)

    def possible(self, state: State) -> tuple[str, ...]:
        """``next``, but on the last view."""
        return ("next",) if state.position != self._last else ()

    def move(self, state: State, action: str) -> State:
        """One view on."""
        towards = -1 if self.record.scenario == "IN-C" else 1
        return State(state.turn + 1, state.position + towards, 0, 0, action)

    def frame(self, state: State) -> Frame:
        """The view at the position; ``index`` of MVP-N is the number in the file's name."""
        if self.record.scenario != "MVP-N":
            return Frame(frame_uri(self.record, state.position), None, state.position)
        number = self.record.valid_images[state.position]
        return Frame(frame_uri(self.record, number, informative=state.position == self._last), None, number)

    def reference(self) -> Frame:
        """``reference_image``; of MVP-N its number, as an informative view [inferred]."""
        number = self.record.reference_image
        return Frame(frame_uri(self.record, number, informative=True), None, number)

    def remaining(self, state: State) -> int:
        """Views until the last one."""
        return abs(self._last - state.position)


@dataclass(frozen=True)
class Window(Dynamics):
    """CIT: pos <- pos +- step within the video; ``max_steps`` turns at most.

    Both requests are withdrawn where they would leave the video. The published code looks at the second only if the first is still
    offered, so that a video of one window is asked to go on and fails; that is mended here.
    """

    record: Record

    @property
    def max_turns(self) -> int:  # type: ignore[override]
        """As the record says."""
        return self.record.max_steps or 1

    @property
    def withdraws(self) -> bool:
        """Requests vanish at the ends."""
        return True

    @property
    def _step(self) -> int:
        return self.record.step_size or 1

    def possible(self, state: State) -> tuple[str, ...]:
        """Ways that stay inside the video."""
        back, on = state.position - self._step >= 0, state.position + self._step < self.record.num_images
        return ("rewind",) * back + ("wait",) * on

    def move(self, state: State, action: str) -> State:
        """One window back or on."""
        towards = -self._step if action == "rewind" else self._step
        return State(state.turn + 1, state.position + towards, 0, 0, action)

    def frame(self, state: State) -> Frame:
        """The frame at the position."""
        return Frame(frame_uri(self.record, state.position), None, state.position)

    def reference(self) -> Frame:
        """``reference_image``."""
        return self.frame(State(0, self.record.reference_image, 0, 0))

    @property
    def _target(self) -> int:
        """Windows from the first to the one nearest to the reference that can be reached within the turns."""
        r, step, most = self.record, self._step, self.max_turns - 1
        low, high = -min(r.first_image // step, most), min((r.num_images - 1 - r.first_image) // step, most)
        return min(range(low, high + 1), key=lambda k: (abs(r.first_image + k * step - r.reference_image), abs(k)))

    def remaining(self, state: State) -> int:
        """Windows between here and the target."""
        return abs(self._target - (state.position - self.record.first_image) // self._step)


@dataclass(frozen=True)
class CropGrowth(Dynamics):
    """COCO: a box that grows by whole steps a (across) and b (down), both 1 at first; g steps an axis, g + 1 for ``zoom``.

    The counters are integers, so that an axis is exhausted when it is: the published code adds up fractions of the step and compares
    them for equality, which for steps such as 0.1 fails. Turns: g towards one side, 2g towards two (2g - 1 are reached), g + 1 for ``zoom``.
    """

    record: Record

    @property
    def _sides(self) -> tuple[str, ...]:
        return directions(self.record)

    @property
    def _most(self) -> int:
        return (self.record.granularity or 1) + (not self._sides)

    @property
    def max_turns(self) -> int:  # type: ignore[override]
        """By kind of direction."""
        return self._most * max(len(self._sides), 1)

    @property
    def withdraws(self) -> bool:
        """An exhausted axis is no longer offered."""
        return True

    def start(self) -> State:
        """The first view has one step in it."""
        return State(0, 0, 1, 1)

    def possible(self, state: State) -> tuple[str, ...]:
        """Sides (or ``farther``) whose axis has steps left."""
        if not self._sides:
            return ("farther",) if state.across < self._most else ()
        counters = {"left": state.across, "right": state.across, "up": state.down, "down": state.down}
        return tuple(side for side in self._sides if counters[side] < self._most)

    def move(self, state: State, action: str) -> State:
        """One step more along the action's axis; ``farther``: along both."""
        across = state.across + (action in ("left", "right", "farther"))
        return State(
            state.turn + 1, state.position + 1, across, state.down + (action in ("up", "down", "farther")), action
        )

    def box(self, state: State) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of the original picture, which is cut before any resizing."""
        crop, sides = self.record.crop, self._sides
        assert crop is not None, "parse_record reads it"
        h, v = state.across * self.record.horizontal_step, state.down * self.record.vertical_step
        if not sides:
            return crop.left - h, crop.top - v, crop.left + crop.width + h, crop.top + crop.height + v
        return (
            crop.left - h * ("left" in sides), crop.top - v * ("up" in sides),
            crop.width + h * ("right" in sides), crop.height + v * ("down" in sides),
        )  # fmt: skip

    def frame(self, state: State) -> Frame:
        """The box at the counters; ``index``: requests granted so far."""
        return Frame(frame_uri(self.record, 0), self.box(state), state.position)

    def reference(self) -> Frame:
        """The whole picture."""
        return Frame(frame_uri(self.record, 0), None, self.record.reference_image)

    def remaining(self, state: State) -> int:
        """Steps that the offered axes have left."""
        if not self._sides:
            return self._most - state.across
        across = {"left", "right"} & {*self._sides}
        down = {"up", "down"} & {*self._sides}
        return (self._most - state.across) * bool(across) + (self._most - state.down) * bool(down)


def dynamics_of(record: Record) -> Dynamics:
    """The record's dynamics."""
    kinds: dict[str, type[Ring] | type[Path] | type[Window] | type[CropGrowth]] = {
        "ROD": Ring, "VSOD": Ring, "CIT": Window, "COCO": CropGrowth,
    }  # fmt: skip
    return kinds.get(record.scenario, Path)(record)
