"""Single turns with the reply that a warm-up wants, as training conversations.

From a model that cannot see, reinforcement learning ends in asking always; a short supervised training before it teaches to read the
picture, and to answer hidden objects in a mixture that leaves something to learn. Mixture and its shares are ours.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.context import StepContext
from runner.errors import DataError
from runner.nodes.proactive.env import option_kind
from runner.nodes.proactive.pictures import Shown, place_of
from runner.nodes.proactive.rendering import LETTERS, render
from runner.nodes.proactive.returns import Frames, Situation, states_of

if TYPE_CHECKING:
    from runner.artifacts import Conversations
    from runner.artifacts.proactive import ProactiveSamples
    from runner.nodes.proactive.env import Option
    from runner.nodes.proactive.episodes import Case
    from runner.nodes.proactive.pictures import FramePictures

Hidden = Literal["abstain", "guess", "ask"]
CROPS = "proactive-crops"
"""Source of the views that were cut out."""
_KINDS: Mapping[str, tuple[str, ...]] = {
    "abstain": ("abstain",),
    "guess": ("category_true", "category_false"),
    "ask": ("ask_valid",),
}


@dataclass(frozen=True)
class Warmth:
    """What a warm-up wants. ``hidden``: shares of abstaining, guessing and asking where the object is not seen; ``visible_from``: least
    share of the object that must be seen for the answer (least place along the way where shares are not known)."""

    frames: Frames
    form: Literal["letter", "text"]
    hidden: Mapping[Hidden, float]
    visible_from: float
    eval_fraction: float
    seed: int


def situations(cases: Sequence[Case], frames: Frames) -> list[Situation]:
    """Every state of ``frames`` of every case."""
    return [Situation(case, state) for case in cases for state in states_of(case.env, frames)]


def seen(situation: Situation, uris: Sequence[str], visible: Sequence[float] | None) -> float:
    """Share of the object that the state shows; its place along the way, 0 first to 1 most telling, where that is not known.

    ``visible``: by file of the sample where it has as many, by step of the shortest way where that is as long.
    """
    env, state = situation.case.env, situation.state
    if visible is not None and len(uris) == len(visible) > 1:
        return visible[list(uris).index(env.frame(state).uri)]
    path = env.ask_path()
    if visible is not None and len(path) == len(visible):
        return visible[path.index(state)]
    return env.place(state)


def wanted(options: Sequence[Option], share: float, warmth: Warmth, name: str) -> int:
    """Number of the option that the warm-up answers with: the truth where enough is seen, else one of the mixture, drawn by ``name``."""
    chance = random.Random(f"{warmth.seed}/{name}")  # noqa: S311 - no secret
    kinds = [option_kind(option) for option in options]
    if share >= warmth.visible_from and "category_true" in kinds:
        return kinds.index("category_true")
    names = [answer for answer, weight in warmth.hidden.items() if weight > 0]
    (answer,) = chance.choices(names, [warmth.hidden[n] for n in names])
    fitting = [i for i, kind in enumerate(kinds) if kind in _KINDS[answer]]
    return chance.choice(fitting or [i for i, kind in enumerate(kinds) if kind == "abstain"])


def in_eval(case: Case, warmth: Warmth) -> bool:
    """Whether a sample is held out, drawn by itself: all its frames go the same way; samples of one drawing too."""
    name = case.drawn_with or f"{case.record.scenario}/{case.record.sample_id}"
    return random.Random(f"{warmth.seed}/eval/{name}").random() < warmth.eval_fraction  # noqa: S311 - no secret


def visible_of(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[list[str], list[float] | None]]:
    """Files and shares that each of them shows, by scenario and sample, of rows of ``pb_samples``."""
    return {(row["scenario"], row["sample_id"]): (list(row["uris"]), row["visible"]) for row in rows}


def build(
    cases: Sequence[Case], known: Mapping[tuple[str, str], tuple[list[str], list[float] | None]], warmth: Warmth,
) -> tuple[list[dict[str, Any]], list[Shown]]:  # fmt: skip
    """Records of all states, and the views that must be cut out for them (those of source ``CROPS``)."""
    rows, crops = [], []
    for one in situations(cases, warmth.frames):
        env, options = one.case.env, one.case.env.shown(one.state)
        share = seen(one, *known[one.case.record.scenario, one.case.record.sample_id])
        option = wanted(options, share, warmth, f"{one.prompt_id}/{one.state.turn}")
        reply = LETTERS[option] if warmth.form == "letter" else options[option].text
        place = place_of(one.case, one.state)
        if place.crop is not None:
            crops.append(place)
            place = Shown(CROPS, crop_name(place))
        held_out = in_eval(one.case, warmth)
        rows.append(conversation_row(one, render(env.observation(one.state)), reply, place, held_out=held_out))
    return rows, crops


def conversation_row(situation: Situation, text: str, reply: str, place: Shown, *, held_out: bool) -> dict[str, Any]:
    """One record: the picture, then the text of the turn, then the reply."""
    case = situation.case
    name = f"{case.record.scenario}/{case.record.sample_id}"
    return {
        "record_id": f"{situation.prompt_id}/{situation.state.turn + 1}", "domain": case.record.scenario,
        "split": "eval" if held_out else "train", "source_id": place.source_id, "uris": [place.uri], "group": name,
        "turns": [("user", f"<image>{text}"), ("assistant", reply)],
    }  # fmt: skip


# --- views that are cut out ------------------------------------------------------------------------------------------


def crop_name(place: Shown) -> str:
    """File name of a view."""
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:24] + ".png"


def write_crops(pictures: FramePictures, places: Sequence[Shown], folder: Path) -> None:
    """Every view as a PNG of its name. Raises ``DataError`` for one that cannot be shown."""
    from runner.data.images import UnreadableImage

    folder.mkdir(parents=True, exist_ok=True)
    for place, image in pictures.images(places).items():
        if isinstance(image, UnreadableImage):
            raise DataError(f"{place.uri}: {image.message}")
        image.save(folder / crop_name(place))


def warm_up(
    ctx: StepContext, samples: ProactiveSamples, warmth: Warmth, *, scenarios: Sequence[str] | None, split: str, limit: int | None,
) -> Conversations:  # fmt: skip
    """Training conversations of the samples; views that are cut out are kept in the workspace."""
    from runner.data.benchmarks.building import conversations
    from runner.models.chat.keys import content_sha256
    from runner.nodes.made_pictures import kept
    from runner.nodes.proactive.pictures import FramePictures
    from runner.nodes.proactive.samples import cases_of

    cases = cases_of(samples, scenarios=scenarios, split=split, limit=limit, seed=warmth.seed)
    known = visible_of([row for row in samples.samples.to_pylist() if row["split"] == split])
    rows, crops = build(cases, known, warmth)
    corpus = list(samples.corpus)
    if crops:
        made = ctx.scratch / "views"
        write_crops(FramePictures(samples.corpus), crops, made)
        corpus.append({"folder": str(kept(ctx, CROPS, content_sha256(made), made)), "name": CROPS})
    names = list(dict.fromkeys(row["domain"] for row in rows))
    licences = {k: v for k, v in (samples.about.get("licences") or {}).items() if k in names}
    return conversations(
        f"{samples.about.get('name')} (single turns)", names, rows, corpus, licences=licences, notes=samples.about.get("notes") or (),
    )  # fmt: skip
