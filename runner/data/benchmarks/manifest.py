"""Questions of one's own, as JSON lines.

A line is an object: ``question`` and ``answers`` (texts; one may stand alone) or, with ``choices`` (texts), ``answer`` as letter or index
from 0; besides, where there are such, ``id``, ``image`` or ``images`` (paths below the folder of pictures), ``category``, ``pair`` (questions that
count or were drawn together) and ``extra`` (an object for the scorer: ``context``, ``strict``, ``answer_type``, ``precision``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.data.benchmarks.files import Skipped, read_records
from runner.data.benchmarks.found import Item, Raw
from runner.data.benchmarks.records import first, letter, places, text, texts

FIELDS = {"id", "question", "answer", "answers", "choices", "image", "images", "category", "pair", "extra"}


def rows(path: Path, skipped: Skipped) -> Iterator[Raw]:
    """Records with the pictures that they name."""
    for number, record in read_records(path, skipped):
        named = record.get("images", record.get("image"))
        uris = [str(uri) for uri in (named if isinstance(named, list) else [named] if named else [])]
        pair = record.get("pair")
        yield Raw(str(record.get("id", number)), record, uris, None if pair is None else str(pair))


def item(record: Mapping[str, Any]) -> Item:
    """A line as an item. Raises ``KeyError``, ``TypeError`` or ``ValueError`` where it is malformed."""
    unknown = {*record} - FIELDS
    if unknown:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
    choices = texts(record["choices"]) if record.get("choices") else None
    answers = texts(first(record, "answers", "answer"))
    category, extra = record.get("category"), record.get("extra") or {}
    if not isinstance(extra, dict):
        raise ValueError("extra is an object")
    if "precision" in extra:
        extra = {**extra, "precision": places(extra["precision"])}
    return {
        "question": text(record["question"]), "choices": choices, "category": None if category is None else text(category), "extra": extra,
        "answers": answers if choices is None else [letter(answer, choices) for answer in answers],
    }  # fmt: skip
