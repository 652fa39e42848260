"""Samples of the generated benchmark: which ones a plan asks for, drawn, with their records and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from runner.nodes.dealing import generator, rounds
from runner.nodes.noun_cut_outs import Kit
from runner.nodes.proactive.env import make_env
from runner.nodes.proactive.making.corrupting import damaged
from runner.nodes.proactive.making.drawing import sketched
from runner.nodes.proactive.making.framing import beyond
from runner.nodes.proactive.making.material import SPLITS, Drawn, Icon, Stand
from runner.nodes.proactive.making.occluding import behind, passing
from runner.nodes.proactive.making.turning import turned
from runner.nodes.proactive.making.video import appearing
from runner.nodes.proactive.making.writing import Wording, labelled
from runner.nodes.proactive.records import SCENARIOS, Record, frame_uris, parse_record
from runner.nodes.proactive.samples import sample_row
from runner.nodes.proactive.texts import load_texts


@dataclass(frozen=True)
class Materials:
    """All that is drawn with, by split of the material; ``wording`` and sentences of abstention."""

    kits: Mapping[str, Kit]
    icons: Mapping[str, Mapping[str, Sequence[Icon]]]
    wording: Wording
    abstentions: tuple[str, ...] = load_texts(None).abstain


class Made(NamedTuple):
    """One sample. ``frames`` with their files below the folder of pictures."""

    record: Record
    split: str
    frames: list[tuple[str, Image.Image]]
    visible: list[float]
    part: str


DRAWERS: Final[Mapping[str, Callable[[Stand, str], Drawn]]] = {
    "ROD": behind,
    "VSOD": passing,
    "MVP-N": turned,
    "IN-C": damaged,
    "QD": sketched,
    "CIT": appearing,
    "COCO": beyond,
}
TEMPLATES: Final[Mapping[str, str]] = {
    "MVP-N": "/{informative}-{image}.png", "IN-C": "/{level}.png", "COCO": ".png",
}  # fmt: skip
"""How files of a sample are called; all others: /{image}.png."""


def made(
    materials: Materials, scenarios: Sequence[str], counts: Mapping[str, int], size: int, seed: int
) -> Iterator[Made]:
    """Samples by split and scenario: ``counts[split]`` of each.

    What a sample is about comes in rounds of all nouns; every sample draws from its own random numbers, so that one more of a scenario,
    or one more scenario, changes no other.
    """
    for split, count in counts.items():
        kit, icons = materials.kits[SPLITS[split]], materials.icons[SPLITS[split]]
        for scenario in [known for known in SCENARIOS if known in scenarios]:
            nouns = [*icons] if scenario == "QD" else kit.nouns
            for number, noun in enumerate(islice(rounds(nouns, f"{seed}/{split}/{scenario}"), count)):
                draw = generator(f"{seed}/{split}/{scenario}/{number}")
                stand = Stand(draw, kit, size, icons, materials.wording)
                yield _sample(stand, scenario, split, number, noun, materials.abstentions)


def _sample(stand: Stand, scenario: str, split: str, number: int, noun: str, abstentions: Sequence[str]) -> Made:
    drawn = DRAWERS[scenario](stand, noun)
    record = _record(stand, scenario, split, number, drawn, abstentions)
    files = frame_uris(record)
    visible = drawn.visible if drawn.layer is None else _seen(record, drawn.layer)
    return Made(record, split, [*zip(files, drawn.frames, strict=True)], visible, drawn.part)


def _record(
    stand: Stand, scenario: str, split: str, number: int, drawn: Drawn, abstentions: Sequence[str]
) -> Record:  # fmt: skip
    """The published layout, checked as a published file is."""
    template = f"{scenario}/{split}/{number:05d}" + TEMPLATES.get(scenario, "/{image}.png")
    told = {
        "id": number, "image_template": template, "prompt": drawn.question, "answer": labelled(drawn.answer),
        "options": stand.mixed([*drawn.asks, stand.pick(abstentions)]),
        "categories": stand.mixed([labelled(noun) for noun in (drawn.answer, *drawn.rivals)]),
    }  # fmt: skip
    return parse_record(scenario, told | drawn.fields, f"{scenario}/{split}/{number:05d}")


def _seen(record: Record, layer: Image.Image) -> list[float]:
    """Share of a layer's opacity inside each view on the way from the first to the last."""
    env = make_env(record)
    opacity = np.asarray(layer.getchannel("A"), np.float64)
    boxes = [env.frame(state).crop or (0.0, 0.0, *layer.size) for state in env.ask_path()]
    return [_inside(opacity, tuple(round(edge) for edge in box)) for box in boxes]


def _inside(opacity: Any, box: tuple[int, ...]) -> float:
    left, top, right, bottom = (max(edge, 0) for edge in box)
    return float(opacity[top:bottom, left:right].sum() / max(opacity.sum(), 1.0))


def row(one: Made, source_id: str) -> dict[str, Any]:
    """A row of ``pb_samples``."""
    told = sample_row(one.record, source_id=source_id, split=one.split, visible=one.visible, drawn_with=one.part)
    return told | {"question_type": "object" if told["question_type"] else None}
