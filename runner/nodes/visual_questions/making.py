"""Records of generated questions: which pictures a plan asks for, drawn and asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image

from runner.nodes.dealing import generator, rounds
from runner.nodes.noun_cut_outs import Stock
from runner.nodes.visual_questions.scenes import DOMAINS, Canvas, Turn, shuffled

PICTURE = "<image>"


class Made(NamedTuple):
    """One picture with its conversation. ``file``: its path below the folder of pictures."""

    domain: str
    split: str
    file: str
    image: Image.Image
    turns: list[Turn]
    parts: list[str]


def made(stock: Stock, counts: Mapping[str, Mapping[str, int]], size: int, turns: int, seed: int) -> Iterator[Made]:
    """Pictures by split and domain: ``counts[split][domain]`` of them, each with at most ``turns`` questions.

    Every picture draws from its own random numbers, so one more of a domain changes no other.
    """
    for split, domains in counts.items():
        kit = stock.kits[split]
        for domain, count in domains.items():
            draw_scene, about = DOMAINS[domain]
            subjects = rounds(list(about(kit)), f"{seed}/{split}/{domain}")
            for number, subject in enumerate(islice(subjects, count)):
                canvas = Canvas(generator(f"{seed}/{split}/{domain}/{number}"), kit, size)
                scene = draw_scene(canvas, subject)
                asked = list(shuffled(canvas, scene.turns, turns))
                yield Made(domain, split, f"{split}/{domain}/{number:05d}.png", scene.image, asked, scene.parts)


def record(one: Made, source_id: str) -> dict[str, Any]:
    """A row for ``runner.data.benchmarks.building.conversations``; the picture stands before the first question."""
    spoken: list[list[str]] = []
    for number, turn in enumerate(one.turns):
        spoken += [["user", (PICTURE if number == 0 else "") + turn.question], ["assistant", turn.answer]]
    return {
        "record_id": one.file.removesuffix(".png"), "domain": one.domain, "split": one.split, "source_id": source_id,
        "uris": [one.file], "turns": spoken, "group": None,
    }  # fmt: skip


def items(record: Mapping[str, Any], turns: list[list[str]]) -> Iterator[dict[str, Any]]:
    """Each question of a record on its own, as a row for ``building.vqa_items``; all of one picture are a group."""
    for number in range(0, len(turns) - 1, 2):
        yield {
            "benchmark": record["domain"], "item_id": f"{record['record_id']}/{number // 2}",
            "question": turns[number][1].replace(PICTURE, ""), "answers": [turns[number + 1][1]], "uris": record["uris"],
            "source_id": record["source_id"], "pair_id": record["record_id"],
        }  # fmt: skip
