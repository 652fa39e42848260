"""A model for in-context runs on loopback: it sees which pictures a message holds and which labels stand beside them.

Pictures are of one colour, which is their number. The reply is a pure function of the message; the server also writes down when each
question came and when it was answered.
"""

from __future__ import annotations

import base64
import functools
import io
import re
import threading
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

from results.tables import arrow_table
from runner.artifacts import Datasets

LEVELS = 6
STEP = 48


def colour_of(number):
    """An RGB colour far from that of every other number below 216."""
    return tuple(8 + STEP * (number // LEVELS**place % LEVELS) for place in range(3))


@functools.cache
def number_of(url):
    """The number of the picture in a data URL."""
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    mean = np.asarray(image, float).mean((0, 1))
    return int(sum(np.rint((mean - 8) / STEP) * [1, LEVELS, LEVELS**2]))


@dataclass(frozen=True)
class Question:
    """A message as structure: ``examples`` are (picture, labels) in order; ``own``: labels of the target; ``text``: the rest."""

    kind: str
    examples: tuple[tuple[int, str], ...]
    target: int
    own: str | None
    text: tuple[str, ...]

    @property
    def round(self):
        """The round that a message belongs to, from the number of labels beside its target."""
        return {"pseudo": 0, "query": 99}.get(self.kind) if self.own is None else self.own.count(",") + 1

    def blocks(self):
        """What a server reads one after the other: pictures with their labels; the target is another block than an example."""
        return [*self.examples, ("target", self.target, self.own)]


def parts_of(body):
    """Parts of all user messages: texts, and pictures as numbers."""
    found = []
    for message in body["messages"]:
        if message["role"] == "user":
            content = message["content"]
            listed = [{"type": "text", "text": content}] if isinstance(content, str) else content
            found += [p["text"] if p["type"] == "text" else number_of(p["image_url"]["url"]) for p in listed]
    return found


def read(body):
    """The structure of a request."""
    parts, pairs, texts, place = parts_of(body), [], [], 0
    while place < len(parts):
        following = parts[place + 1] if place + 1 < len(parts) else ""
        label = re.fullmatch(r"(current labels|label): (.*)", following) if isinstance(following, str) else None
        if isinstance(parts[place], int):
            pairs.append((parts[place], label[2] if label else None, label[1] if label else None))
            place += 2 if label else 1
        else:
            texts.append(parts[place])
            place += 1
    *examples, (target, own, _) = pairs
    marks = {mark for _, _, mark in pairs} - {None}
    kind = "refine" if "current labels" in marks else "query" if "label" in marks else "pseudo"
    return Question(kind, tuple((picture, labels) for picture, labels, _ in examples), target, own, tuple(texts))


def reply_to(question):
    """A pure function of the message: of every example, every label, and the order."""
    if question.kind == "pseudo":
        return f"thing {question.target}"
    if question.kind == "refine":
        seen = sum((place + 1) * len(labels) for place, (_, labels) in enumerate(question.examples)) % 97
        return f'not this, "kind {question.target} of round {question.round} seeing {seen}"'
    return f"answer {question.target}, Answer {question.target}, {len(question.examples)} shown"


class Watch:
    """Answers and remembers: ``questions`` as they came, ``events`` (start or end, question) in order of time."""

    def __init__(self, reply=reply_to, seconds=0.0):
        self.reply, self.seconds = reply, seconds
        self.questions, self.events, self.bodies = [], [], []
        self._lock = threading.Lock()

    def __call__(self, body):
        question = read(body)
        with self._lock:
            self.questions.append(question)
            self.bodies.append(body)
            self.events.append(("start", question))
        time.sleep(self.seconds)
        text = self.reply(question)
        with self._lock:
            self.events.append(("end", question))
        return text

    def of(self, kind):
        return [question for question in self.questions if question.kind == kind]


def make_dataset(folder, *, train=6, test=4, name="shades", classes=3, broken=(), copies=None):
    """Pictures numbered from 0, those of training first; ``broken`` hold no picture; ``copies``: {number: the number it repeats}."""
    root = folder / name
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(train + test):
        split = "train" if number < train else "test"
        uri = f"{number:03}.png"
        Image.new("RGB", (64, 48), colour_of((copies or {}).get(number, number))).save(root / uri)
        if number in broken:
            (root / uri).write_bytes(b"no picture")
        rows.append({
            "dataset": name, "split": split, "sample_id": uri, "source_id": name, "uri": uri,
            "target": f"class {number % classes}", "class_index": number % classes, "thumbnail": None,
        })  # fmt: skip
    about = {
        "dataset": name, "group": None, "classes": [f"class {i}" for i in range(classes)], "domain_noun": None,
        "template": "a photo of a {}.", "licence": "",
    }  # fmt: skip
    return Datasets([about], [{"folder": str(root), "name": name}], arrow_table("dataset_image", rows))


def number(row):
    """The number of the picture of a row."""
    return int(row["sample_id"].partition(".")[0])
