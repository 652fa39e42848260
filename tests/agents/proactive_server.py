"""Samples whose pictures have one colour, their number, and a model on loopback that sees the number and reads the options.

The reply is a pure function of what is shown; the server writes down what it was asked.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from circle_server import colour_of, number_of
from fault_server import FaultServer, serving

from results.tables import arrow_table
from runner.artifacts.proactive import ProactiveSamples
from runner.models.chat.providers import OpenAI
from runner.models.registry import Services
from runner.nodes.proactive.records import Record, frame_uris, record_json
from runner.nodes.proactive.samples import sample_row

SIDE = (400, 300)


@dataclass(frozen=True)
class Look:
    """What one request shows: numbers and sizes of all pictures, those of the last message; options of the last text by letter."""

    pictures: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    options: tuple[str, ...]
    text: str
    roles: tuple[str, ...]
    seed: int

    @property
    def number(self) -> int:
        return self.pictures[-1]


def look(body: dict[str, Any]) -> Look:
    """A request as the model sees it."""
    urls, texts = [], [""]
    for message in body["messages"]:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            (texts if part["type"] == "text" else urls).append(part["text"] if part["type"] == "text" else part["image_url"]["url"])  # fmt: skip
    options = tuple(re.findall(r"^[A-Z]\. (.*)$", texts[-1], re.MULTILINE))
    return Look(
        tuple(map(number_of, urls)), tuple(map(picture_size, urls)), options, texts[-1],
        tuple(message["role"] for message in body["messages"]), body.get("seed", 0),
    )  # fmt: skip


def picture_size(url: str) -> tuple[int, int]:
    """Width and height of the picture in a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size


Policy = Callable[[Look], int | str]


class Player:
    """Answers by ``policy`` (index of an option, or a text) and remembers what it saw; probes are answered and not counted."""

    def __init__(self, policy: Policy, seconds: float = 0.0) -> None:
        self.policy, self.seconds = policy, seconds
        self.looks: list[Look] = []
        self.bodies: list[dict[str, Any]] = []
        self.ended = 0
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> str:
        if "Were there any pictures?" in json.dumps(body):
            return "yes"
        seen = look(body)
        with self._lock:
            self.looks.append(seen)
            self.bodies.append(body)
        time.sleep(self.seconds)
        reply = said(self.policy(seen), seen, body)
        with self._lock:
            self.ended += 1
        return reply

    @property
    def distinct(self) -> set[str]:
        """Requests that differ in what they show, or in their draw."""
        return {json.dumps([body["messages"], body.get("seed")]) for body in self.bodies}


def said(choice: int | str, seen: Look, body: dict[str, Any]) -> str:
    """The reply: a line of the list, or JSON where the server is held to a schema."""
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if wanted is not None and isinstance(choice, int):
        return json.dumps({"answer": wanted["properties"]["answer"]["enum"][choice]})
    return f"{chr(65 + choice)}. {seen.options[choice]}" if isinstance(choice, int) else choice


def scrambled(seen: Look) -> int:
    """One of the options, by a hash of picture and options; requests more often than not, so that episodes last."""
    digest = hashlib.sha256(f"{seen.number}{seen.options}".encode()).digest()
    asks = [i for i, option in enumerate(seen.options) if is_request(option)]
    return asks[digest[0] % len(asks)] if digest[1] < 170 and asks else digest[0] % len(seen.options)


def is_request(option: str) -> bool:
    """Whether an option of ``tests/nodes/proactive/material.py`` asks for something."""
    return bool(re.match(r"(Move|Rewind|Wait|Rotate|Add|Raise|Increase|Make|Sharpen) ", option))


def asks(word: str) -> Policy:
    """The request that names a word."""
    return lambda seen: next(i for i, option in enumerate(seen.options) if word in option)


def write_pictures(
    folder: Path, records: Sequence[Record], *, broken: Sequence[str] = (), side: tuple[int, int] = SIDE
) -> None:
    """Files of all frames, each of a colour of its own in the order of samples and frames; ``broken`` hold no picture."""
    number = 0
    for record in records:
        for uri in frame_uris(record):
            path = folder / uri
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", side, colour_of(number)).save(path)
            number += 1
            if uri in broken:
                path.write_bytes(b"no picture")


def make_samples(
    folder: Path, records: Sequence[Record], *, broken: Sequence[str] = (), side: tuple[int, int] = SIDE
) -> ProactiveSamples:
    """The artifact with these records and their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_pictures(folder, records, broken=broken, side=side)
    rows = [sample_row(record, source_id="frames") for record in records]
    about = {
        "name": "colours", "source": "made", "scenarios": sorted({r.scenario for r in records}), "licences": {}, "notes": [],
        "filter": None,
    }  # fmt: skip
    return ProactiveSamples(about, [{"folder": str(folder), "name": "frames"}], arrow_table("pb_samples", rows))


def write_release(root: Path, records: Sequence[Record]) -> Path:
    """The folder ``test`` of the published release with these records."""
    from runner.nodes.proactive.records import DATASET_IDS

    root.mkdir(parents=True, exist_ok=True)
    for scenario in sorted({record.scenario for record in records}):
        lines = [json.dumps(record_json(record)) for record in records if record.scenario == scenario]
        (root / f"{DATASET_IDS[scenario]}_preprocessed.jsonl").write_text("\n".join(lines) + "\n")
    write_pictures(root, records)
    return root


def numbers_of(samples: ProactiveSamples) -> dict[str, int]:
    """The number of each picture, by its file."""
    uris = [uri for row in samples.samples.to_pylist() for uri in row["uris"]]
    return {uri: number for number, uri in enumerate(uris)}


def alone(case: Any, policy: Policy, numbers: dict[str, int]) -> tuple[list[tuple[str, int]], str, bool]:
    """One episode stepped in its environment by the rule of a server: turns as (file, option), why it ended, success."""
    env, turns = case.env.clone(), []
    observation, info = env.reset()
    while observation is not None:
        index = int(policy(Look((numbers[observation.frame.uri],), (), observation.options, "", (), 0)))
        turns.append((observation.frame.uri, index))
        observation, _, _, _, info = env.step(index)
    return turns, info["stop_reason"], info["success"]


@contextlib.contextmanager
def playing(folder: Path, policy: Policy, **options: Any) -> Iterator[tuple[Any, Player, FaultServer]]:
    """A chat model at a server that plays by ``policy``."""
    player = Player(policy)
    settings = {name: options.pop(name) for name in ("temperature",) if name in options}
    with serving(answer=player, **options) as server:
        config = OpenAI(
            model="scripted",
            base_url=server.base_url,
            timeout=10,
            deadline=20,
            max_retries=1,
            concurrency=8,
            **settings,
        )
        llm = config.load(Services(cache=folder, device="cpu"))
        try:
            yield llm, player, server
        finally:
            llm.close()
