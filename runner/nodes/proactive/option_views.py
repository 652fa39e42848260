"""A model's option probabilities in every view that an episode can reach, and the expected values that follow from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runner.context import StepContext, item_key
from runner.data.images import UnreadableImage
from runner.models.base import VisionLanguageModel
from runner.nodes.proactive.episodes import Case, Episode, Turn
from runner.nodes.proactive.exact import table_of, value
from runner.nodes.proactive.likelihood import Form, option_probabilities
from runner.nodes.proactive.pictures import FramePictures, Shown, place_of
from runner.nodes.proactive.records import MAX_OPTION
from runner.nodes.proactive.rendering import as_data, render

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.lvlm.loading import LoadedLvlm
    from runner.nodes.proactive.env import State

LAYOUT = "1"
"""Raised when the same model, picture and text would be asked in another way."""
VIEWS_AT_ONCE = 64
"""Views whose pictures are in memory together."""


class View(NamedTuple):
    """One question: where its picture is, its text, its options."""

    place: Shown
    text: str
    options: tuple[str, ...]


class Told(NamedTuple):
    """What the model says of a view. ``image_sha1``: of the pixels it saw (RGB, with their size)."""

    probabilities: tuple[float, ...]
    image_sha1: str


class OptionViews:
    """Asks each distinct view once; what was asked in an earlier attempt or run is read from the items."""

    def __init__(
        self, ctx: StepContext, model: VisionLanguageModel, corpus: Sequence[Mapping[str, Any]], form: Form,
        short_answer: bool, max_side: int | None, batch_size: int,
    ) -> None:  # fmt: skip
        self._ctx, self._model, self._form = ctx, model, form
        self._short_answer, self._batch_size = short_answer, batch_size
        self._pictures = FramePictures(corpus, max_side=max_side)
        self._loaded: LoadedLvlm | None = None

    def episodes(self, cases: Sequence[Case]) -> list[Episode]:
        """Expected values of each case, with the views on the way to the most telling one as turns; unreadable pictures fail a case."""
        # The way to the most telling view is of interest where foreign requests, which lead anywhere, never take it.
        views = [
            [self._view(case, state) for state in (*table_of(case.env).states, *case.env.ask_path())] for case in cases
        ]
        told = self._told(list(dict.fromkeys(view for some in views for view in some)))
        return [self._episode(case, some, told) for case, some in zip(cases, views, strict=True)]

    def _view(self, case: Case, state: State) -> View:
        env = case.env
        seen = env.observation(state)
        text = render(seen, short_answer=self._short_answer, texts=env.texts)
        return View(place_of(case, seen.frame), text, tuple(as_data(option, MAX_OPTION) for option in seen.options))

    def _told(self, views: Sequence[View]) -> dict[View, Told | UnreadableImage]:
        found: dict[View, Told | UnreadableImage] = {}
        self._ctx.advance("views", 0, len(views))
        for at in range(0, len(views), VIEWS_AT_ONCE):
            self._ctx.check()
            some = views[at : at + VIEWS_AT_ONCE]
            found |= self._of_some(some)
            self._ctx.advance("views", len(some))
        return found

    def _of_some(self, views: Sequence[View]) -> dict[View, Told | UnreadableImage]:
        images = self._pictures.images(view.place for view in views)
        hashes = {place: _sha1(image) for place, image in images.items() if not isinstance(image, UnreadableImage)}
        found: dict[View, Told | UnreadableImage] = {}
        left: list[tuple[View, str, Image]] = []
        for view in views:
            image = images[view.place]
            if isinstance(image, UnreadableImage):
                found[view] = image
                continue
            key = item_key("proactive.exact", LAYOUT, self._model.identity, self._form, hashes[view.place], view.text, view.options)  # fmt: skip
            stored = self._ctx.items.get(key)
            if stored is None:
                left.append((view, key, image))
            else:
                found[view] = Told(tuple(np.frombuffer(stored, "<f8").tolist()), hashes[view.place])
        for at in range(0, len(left), self._batch_size):
            found |= self._asked(left[at : at + self._batch_size], hashes)
        return found

    def _asked(self, some: Sequence[tuple[View, str, Image]], hashes: Mapping[Shown, str]) -> dict[View, Told]:
        self._ctx.check()
        if self._loaded is None:
            self._loaded = self._model.load()
        odds = option_probabilities(
            self._loaded, [image for _, _, image in some], [view.text for view, _, _ in some],
            [view.options for view, _, _ in some], form=self._form, batch_size=self._batch_size,
        )  # fmt: skip
        self._ctx.items.put_many(
            {key: row.astype("<f8").tobytes() for (_, key, _), row in zip(some, odds, strict=True)}
        )
        return {
            view: Told(tuple(row.tolist()), hashes[view.place]) for (view, _, _), row in zip(some, odds, strict=True)
        }

    def _episode(self, case: Case, views: Sequence[View], told: Mapping[View, Told | UnreadableImage]) -> Episode:
        for view in views:
            missing = told[view]
            if isinstance(missing, UnreadableImage):
                failure = f"{view.place.uri}: {missing}"
                self._ctx.failed(f"{case.record.scenario}/{case.record.sample_id}", failure)
                return Episode(case, 0, (), "error", False, "error", failure)
        expected = value(case.env, lambda state, _: self._of(case, state, told).probabilities, by_turn=False)
        turns = tuple(self._turn(case, state, told) for state in case.env.ask_path())
        return Episode(case, 0, turns, None, False, "ok", expected=expected)

    def _of(self, case: Case, state: State, told: Mapping[View, Told | UnreadableImage]) -> Told:
        known = told[self._view(case, state)]
        assert isinstance(known, Told)
        return known

    def _turn(self, case: Case, state: State, told: Mapping[View, Told | UnreadableImage]) -> Turn:
        known, env, text = self._of(case, state, told), case.env, self._view(case, state).text
        return Turn(
            state, env.frame(state), env.shown(state), None, None, prompt=text, image_sha1=known.image_sha1,
            prompt_sha1=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), place=env.place(state),
            probabilities=known.probabilities,
        )  # fmt: skip


def _sha1(image: Image) -> str:
    """Of mode, size and pixels."""
    head = f"{image.mode} {image.width} {image.height}\0".encode()
    return hashlib.sha1(head + image.tobytes(), usedforsecurity=False).hexdigest()
