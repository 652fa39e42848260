"""Edits of generated people: one circumstance less and more, drawn, measured again, and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.errors import DataError
from runner.nodes.faces.directions import Whitening, edit_direction, random_direction, ridge_slopes
from runner.nodes.faces.effects import Edited, checked, column
from runner.nodes.faces.measure import MEASURES, filled

FloatArray = NDArray[np.float64]
Styles = NDArray[np.float32]
Draw = Callable[[Styles], list[bytes]]
Measure = Callable[[Sequence[bytes]], FloatArray]
Describe = Callable[[Sequence[bytes]], FloatArray]
FURTHER = 1.7
"""How much longer the second try is for people whose circumstance moved too little."""
LONGEST = 6.0
"""Longest edit to one side in whitened style space; beyond it the generator draws no faces any more."""


@dataclass(frozen=True)
class People:
    """The measured people that directions are fitted on: ``uris``, ``styles`` [n, 512], ``measured`` [n, 21]."""

    uris: list[str]
    styles: Styles
    measured: FloatArray


@dataclass(frozen=True)
class Editor:
    """Draws, measures and checks. ``least`` is the share of the wanted change that must be reached, ``most`` how far a
    held measure may move, in standard deviations."""

    people: People
    white: Whitening
    draw: Draw
    measure: Measure
    describe: Describe | None
    pairs: int
    least: float
    most: float

    def edit(self, circumstance: str, held: Sequence[str]) -> Edited:
        """Less and more of a circumstance: from the middle of the lowest third of the people to that of the highest."""
        j = column(circumstance)
        varied = np.flatnonzero(self._deviations() > 0)
        slopes, fit = ridge_slopes(self.white.to_white(self.people.styles), filled(self.people.measured[:, varied]))
        among = {int(c): i for i, c in enumerate(varied)}
        if j not in among:
            raise DataError(f"{circumstance!r} is the same on every face")
        try:
            direction = edit_direction(slopes, among[j], [among[c] for c in map(column, held) if c in among])
        except ValueError as error:
            raise DataError(f"{circumstance!r}: {error}", hint="hold fewer measures") from error
        wanted = self._wanted(j)
        return self._pairs(circumstance, held, direction, wanted, float(fit[among[j]]))

    def placebo(self, edited: Edited, seed: int) -> Edited:
        """A random change as long as ``edit``'s, without any part that is known to change the circumstance."""
        j = column(edited.circumstance)
        slopes, _ = ridge_slopes(self.white.to_white(self.people.styles), filled(self.people.measured[:, [j]]))
        direction = random_direction(edited.step_length, self.white.factor.shape[0], seed, slopes)
        less, more = self._drawn(direction, np.ones(len(self._chosen())))
        made = self._made(edited.circumstance, "placebo", less, more, edited.wanted_change, edited.step_length, None)
        return Edited(**{**vars(made), "kept": np.ones(len(less), bool), "reasons": [None] * len(less)})

    def _deviations(self) -> FloatArray:
        return np.asarray(filled(self.people.measured).std(0))

    def _wanted(self, j: int) -> float:
        values = self.people.measured[:, j]
        low, high = np.nanquantile(values, [1 / 6, 5 / 6])
        return float((high - low) / self._deviations()[j])

    def _chosen(self) -> Styles:
        return self.people.styles[: self.pairs]

    def _drawn(self, direction: FloatArray, strength: FloatArray) -> tuple[list[bytes], list[bytes]]:
        """Each person twice, ``strength`` [n] times the whitened direction to both sides."""
        step = strength[:, None] * self.white.step(direction)[None]
        styles = self._chosen()
        return self.draw((styles - step).astype(np.float32)), self.draw((styles + step).astype(np.float32))

    def _pairs(
        self, circumstance: str, held: Sequence[str], direction: FloatArray, wanted: float, fit: float
    ) -> Edited:
        """Both pictures of each person; who moved too little is drawn once more, further apart."""
        longest = LONGEST / float(np.linalg.norm(direction))
        strength = np.full(len(self._chosen()), min(wanted / 2, longest))
        for attempt in range(2):
            less, more = self._drawn(direction, strength)
            length = float(np.linalg.norm(direction) * strength.mean())
            found = self._made(circumstance, "edit", less, more, wanted, length, fit)
            short = found.change[:, column(circumstance)] < self.least * wanted
            if attempt or not short.any():
                break
            strength = np.where(short, np.minimum(strength * FURTHER, longest), strength)
        kept, reasons = checked(found.change, circumstance, held, least=self.least * wanted, most=self.most)
        return Edited(**{**vars(found), "kept": kept, "reasons": reasons})

    def _made(
        self, circumstance: str, kind: str, less: list[bytes], more: list[bytes], wanted: float, length: float,
        fit: float | None,
    ) -> Edited:  # fmt: skip
        measured = self.measure(less), self.measure(more)
        deviations = self._deviations()
        change = np.nan_to_num(measured[1] - measured[0]) / np.where(deviations > 0, deviations, np.inf)
        cosine = None
        if self.describe is not None:
            cosine = (self.describe(less) * self.describe(more)).sum(1)
        assert change.shape[1] == len(MEASURES)
        uris = self.people.uris[: len(less)]
        return Edited(
            circumstance, kind, uris, less, more, measured, change, np.zeros(len(less), bool), [None] * len(less),
            wanted, length, fit, cosine,
        )  # fmt: skip
