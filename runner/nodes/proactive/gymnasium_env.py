"""The environment for those who use gymnasium (optional): ``ProactiveROD-v0`` and so on, registered by ``register()``.

``gymnasium.make("ProactiveROD-v0", cases=[...], corpus=[...])`` plays one of the cases each episode: the one that ``reset`` is told
(``options={"sample_id": ...}``), else one drawn by its seed. Imported only by those who want it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.data.images import UnreadableImage
from runner.errors import DataError, UsageError
from runner.nodes.proactive.env import Observation, State
from runner.nodes.proactive.pictures import FramePictures, place_of
from runner.nodes.proactive.records import LETTERS_AT_MOST, MAX_OPTION, MAX_QUESTION, SCENARIOS
from runner.nodes.proactive.rendering import LETTERS, render

if TYPE_CHECKING:
    from runner.nodes.proactive.episodes import Case

try:
    import gymnasium  # type: ignore[import-not-found, unused-ignore]
except ImportError as error:
    raise UsageError("gymnasium is not installed", hint="pip install gymnasium") from error

MAX_TEXT = 4 * MAX_QUESTION + LETTERS_AT_MOST * (MAX_OPTION + 5)
"""Characters of a turn's text at most: question, hint, preface, announcements, and a line an option."""


class GymnasiumProactiveEnv(gymnasium.Env):  # type: ignore[misc]
    """Observations: ``image`` uint8 (side, side, 3), padded with black to the right and below, and ``text``; actions: index of an option.

    ``info["action_mask"]``: int8, 1 where an option of that index is shown. Pictures are opened turn by turn and never enlarged.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self,
        cases: Sequence[Case],
        corpus: Sequence[Mapping[str, Any]],
        *,
        side: int = 224,
        render_mode: str | None = None,
    ) -> None:
        if not cases:
            raise UsageError("there is no case to play")
        self._cases = {case.record.sample_id: case for case in cases}
        self._pictures, self._side, self.render_mode = FramePictures(corpus, max_side=side), side, render_mode
        self._case = cases[0]
        most = max(len(case.record.options) + len(case.record.categories) for case in cases)
        self._image, self._text = np.zeros((side, side, 3), np.uint8), ""
        self.observation_space = gymnasium.spaces.Dict({
            "image": gymnasium.spaces.Box(0, 255, self._image.shape, np.uint8), "text": gymnasium.spaces.Text(MAX_TEXT, charset=_characters(cases)),
        })  # fmt: skip
        self.action_space = gymnasium.spaces.Discrete(most)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """First turn of ``options["sample_id"]``, or of a case drawn."""
        super().reset(seed=seed)
        name = (options or {}).get("sample_id")
        if name is None:
            name = [*self._cases][int(self.np_random.integers(len(self._cases)))]
        if str(name) not in self._cases:
            raise UsageError(f"no sample {name!r} among the {len(self._cases)} cases")
        self._case = self._cases[str(name)]
        seen, info = self._case.env.reset()
        self._see(seen)
        return self._told(), self._info(info)

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One answer. At the end the last observation stays."""
        shown = len(self._case.env.shown(State(**self._case.env.state_dict())))
        answer = int(action) if int(action) < shown else "no such option"
        seen, reward, terminated, truncated, info = self._case.env.step(answer)
        if seen is not None:
            self._see(seen)
        return self._told(), reward, terminated, truncated, self._info(info)

    def render(self) -> np.ndarray[Any, Any]:
        """The picture of the turn."""
        return self._image.copy()

    def _see(self, seen: Observation) -> None:
        place = place_of(self._case, seen.frame)
        image = self._pictures.images([place])[place]
        if isinstance(image, UnreadableImage):
            raise DataError(f"{place.uri}: {image}")
        pixels = np.asarray(image, np.uint8)
        self._image = np.zeros((self._side, self._side, 3), np.uint8)
        self._image[: pixels.shape[0], : pixels.shape[1]] = pixels
        self._text = render(seen, texts=self._case.env.texts)

    def _told(self) -> dict[str, Any]:
        return {"image": self._image.copy(), "text": self._text}

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        mask = np.zeros(self.action_space.n, np.int8)
        mask[: len(info.get("option_kinds", ()))] = 1
        return info | {"action_mask": mask, "sample_id": self._case.record.sample_id}


def _characters(cases: Sequence[Case]) -> frozenset[str]:
    """All that can stand in a turn's text."""
    held = {
        "\n. " + LETTERS,
        *(case.env.settings.hint for case in cases),
        *(case.env.texts.model_dump_json() for case in cases),
    }
    for record in (case.record for case in cases):
        held |= {record.prompt, *record.options, *record.categories}
    return frozenset("".join(held))


def register() -> list[str]:
    """Register one environment a scenario; their names."""
    names = [f"Proactive{scenario.replace('-', '')}-v0" for scenario in SCENARIOS]
    for name in names:
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=f"{__name__}:GymnasiumProactiveEnv")
    return names
