"""``VqaItems`` and ``Conversations`` from plain rows: what every reader and every maker of questions ends with.

What a spec or a strange file can get wrong about ids, pictures, answers and turns is refused here, in one place, with the name of
the item.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from results.tables import arrow_table
from runner.artifacts import Conversations, VqaItems
from runner.data.benchmarks.known import AGGREGATES, METRIC_NAMES
from runner.data.datasets.content import quoted, some
from runner.errors import DataError

Row = Mapping[str, Any]

IMAGE = "<image>"
"""Stands in a user's turn where a picture is shown."""
SPLITS = ("train", "eval")
ROLES = ("user", "assistant")
MAX_CHOICES = 26
"""Options are named by one letter."""

_TEXTS = pa.list_(pa.string())
RECORD_SCHEMA = pa.schema([
    pa.field("record_id", pa.string(), False), pa.field("domain", pa.string(), False), pa.field("split", pa.string(), False),
    pa.field("source_id", pa.string()), pa.field("uris", _TEXTS, False), pa.field("turns", pa.string(), False),
    pa.field("group", pa.string()),
])  # fmt: skip
"""``Conversations.records``."""


def vqa_items(benchmarks: Sequence[Row], corpus: Sequence[Mapping[str, Any]], rows: Iterable[Row]) -> VqaItems:
    """Questions from plain rows, checked.

    ``benchmarks``: mappings with ``benchmark`` and ``metric``; ``known``, ``split`` (test), ``aggregate`` (mean), ``full_scale`` (1),
    ``n_total`` (rows given), ``limit`` (None), ``licence`` and ``notes`` are filled where they are missing; ``category_totals`` (items by category, before any limit) may be given. ``corpus``: specs of named
    sources. ``rows``: ``benchmark``, ``item_id``, ``question``, ``answers`` (list, not empty) and, where there are such, ``choices``,
    ``uris``, ``source_id``, ``category``, ``pair_id``, ``extra`` (a dict). Raises ``DataError`` saying where.
    """
    listed = [_item(row) for row in rows]
    held = Counter(row["benchmark"] for row in listed)
    about = [_benchmark(entry, held) for entry in benchmarks]
    names = [entry["benchmark"] for entry in about]
    check_ids("benchmark", names)
    unknown = [name for name in held if name not in names]
    if unknown:
        raise DataError(f"items belong to {some(unknown)}, which is not among the benchmarks")
    check_ids("item", [f"{row['benchmark']}/{row['item_id']}" for row in listed])
    check_places(listed, corpus, lambda row: f"{row['benchmark']}/{row['item_id']}")
    packed = [{**row, "extra": json.dumps(row["extra"]) if row["extra"] else None} for row in listed]
    for row in packed:
        _check_text(f"{row['benchmark']}/{row['item_id']}", row)
    return VqaItems(about, [dict(source) for source in corpus], arrow_table("vqa_item", packed))


def conversations(
    name: str,
    domains: Sequence[str],
    rows: Iterable[Row],
    corpus: Sequence[Mapping[str, Any]],
    *,
    licences: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Conversations:
    """Records from plain rows, checked.

    ``rows``: ``record_id``, ``domain`` (one of ``domains``), ``turns`` (pairs of role and text: perhaps ``system``, then ``user`` and
    ``assistant`` in turn, the last one ``assistant``) and, where there are such, ``split`` (train), ``uris``, ``source_id``, ``group``. User
    turns hold ``<image>`` as often as there are pictures. Raises ``DataError`` saying where.
    """
    check_ids("domain", list(domains))
    listed = [_record(row, domains) for row in rows]
    check_ids("record", [row["record_id"] for row in listed])
    check_places(listed, corpus, lambda row: str(row["record_id"]))
    if not listed:
        raise DataError(f"{name}: there is no record")
    packed = [{**row, "turns": json.dumps(row["turns"], ensure_ascii=False)} for row in listed]
    for row in packed:
        _check_text(str(row["record_id"]), row)
    splits = [split for split in SPLITS if any(row["split"] == split for row in listed)]
    about = {
        "name": name, "domains": [*domains], "splits": splits, "licences": dict(licences or {}), "notes": [*notes],
    }  # fmt: skip
    return Conversations(about, [dict(s) for s in corpus], pa.Table.from_pylist(packed, schema=RECORD_SCHEMA))


def check_ids(what: str, names: Sequence[str]) -> None:
    """Raise ``DataError`` where a name stands twice or is no name: one line of 1 to 500 characters."""
    odd = [name for name in names if not is_id(name)]
    if odd:
        raise DataError(f"{some(odd)} cannot name the {what}: one printable line of 1 to 500 characters")
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise DataError(f"{len(twice)} {what} ids stand more than once: {some(twice)}")


def is_id(name: object) -> bool:
    """Whether this can name something: one printable line of 1 to 500 characters."""
    return isinstance(name, str) and name.isprintable() and 0 < len(name.strip()) <= 500


def check_places(rows: Sequence[Row], corpus: Sequence[Mapping[str, Any]], where: Any) -> None:
    """Raise ``DataError`` where a picture's source is not in the corpus, or a path leads out of its folder."""
    names = [source.get("name") for source in corpus]
    if None in names:
        raise DataError("every source of the corpus needs a `name`")
    folders = {source["name"] for source in corpus if "folder" in source}
    for row in rows:
        if row["uris"] and row["source_id"] not in names:
            raise DataError(
                f"{where(row)}: the corpus has no source {quoted(row['source_id'])}; it has {some(map(str, names)) or 'none'}"
            )
        if row["source_id"] in folders and (out := [uri for uri in row["uris"] if climbs(uri)]):
            raise DataError(f"{where(row)}: {some(out)} leads out of the folder of the pictures")


def _check_text(where: str, row: Row) -> None:
    """Half of a surrogate pair, which JSON can spell, can be stored in no table."""
    for name, value in row.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not is_text(text):
                raise DataError(f"{quoted(where)}: {name} is not Unicode text: {quoted(text)}")


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def climbs(uri: str) -> bool:
    """Whether a path below a folder is none: absolute, with a part ``..``, or with a NUL."""
    path = PurePosixPath(uri)
    return path.is_absolute() or ".." in path.parts or "\0" in uri or not path.parts


def turns_problem(turns: Sequence[tuple[str, str]], pictures: int) -> str | None:
    """Why turns are no conversation that can be trained on; None where they are one."""
    if not all(
        isinstance(t, (list, tuple)) and len(t) == 2 and isinstance(t[0], str) and isinstance(t[1], str) for t in turns
    ):
        return "a turn is a pair of role and text"
    spoken = [role for role, _ in turns]
    spoken = spoken[1:] if spoken[:1] == ["system"] else spoken
    if not spoken or len(spoken) % 2 or any(role != ROLES[i % 2] for i, role in enumerate(spoken)):
        return f"turns go user, assistant, user, assistant ..., these {some(spoken, most=6) or 'are empty'}"
    if not all(text.strip() for role, text in turns if role == "assistant"):
        return "an assistant's turn is empty"
    if any(IMAGE in text for role, text in turns if role != "user"):
        return f"only a user's turn may hold {IMAGE}"
    marks = sum(text.count(IMAGE) for role, text in turns if role == "user")
    return None if marks == pictures else f"{IMAGE} stands {marks} times for {pictures} pictures"


def _benchmark(entry: Row, held: Mapping[str, int]) -> dict[str, Any]:
    name, metric, aggregate = entry["benchmark"], entry["metric"], entry.get("aggregate", "mean")
    for what, value, values in (("metric", metric, METRIC_NAMES), ("aggregate", aggregate, AGGREGATES)):
        if value not in values:
            raise DataError(f"{name}: there is no {what} {quoted(value)}; there are {', '.join(values)}")
    if not held.get(name):
        raise DataError(f"{name}: there is no item")
    total = entry.get("n_total") or held[name]
    if total < held[name]:
        raise DataError(f"{name}: n_total is {total}, but there are {held[name]} items")
    totals = {"category_totals": dict(entry["category_totals"])} if entry.get("category_totals") else {}
    return totals | {
        "benchmark": name, "known": entry.get("known"), "split": entry.get("split") or "test", "metric": metric, "aggregate": aggregate,
        "full_scale": float(entry.get("full_scale") or 1.0), "n_total": total, "limit": entry.get("limit"),
        "licence": entry.get("licence"), "notes": [*(entry.get("notes") or [])],
    }  # fmt: skip


def _item(row: Row) -> dict[str, Any]:
    where = f"{quoted(row.get('benchmark'))}, item {quoted(row.get('item_id'))}"
    question, answers, choices = row.get("question"), row.get("answers"), row.get("choices")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: there is no question")
    if not isinstance(answers, (list, tuple)) or not answers or not all(isinstance(a, str) for a in answers):
        raise DataError(f"{where}: answers is a list of texts that is not empty, not {quoted(answers)}")
    if choices is not None:
        _check_choices(where, choices, answers)
    return {
        "benchmark": row["benchmark"], "item_id": str(row["item_id"]), "category": row.get("category"), "question": question,
        "choices": None if choices is None else [*choices], "answers": [*answers], "uris": [*(row.get("uris") or [])],
        "source_id": row.get("source_id"), "pair_id": row.get("pair_id"), "extra": row.get("extra") or {},
    }  # fmt: skip


def _check_choices(where: str, choices: Any, answers: Sequence[str]) -> None:
    if not isinstance(choices, (list, tuple)) or not 2 <= len(choices) <= MAX_CHOICES:
        raise DataError(f"{where}: choices is a list of 2 to {MAX_CHOICES} texts, not {quoted(choices)}")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    wrong = [answer for answer in answers if len(answer) != 1 or answer not in letters]
    if wrong:
        raise DataError(f"{where}: with choices an answer is a letter of {letters}, not {some(wrong)}")


def _record(row: Row, domains: Sequence[str]) -> dict[str, Any]:
    where = f"record {quoted(row.get('record_id'))}"
    split, uris = row.get("split") or "train", [*(row.get("uris") or [])]
    if row.get("domain") not in domains:
        raise DataError(f"{where}: its domain {quoted(row.get('domain'))} is none of {some(domains)}")
    if split not in SPLITS:
        raise DataError(f"{where}: the split {quoted(split)} is none of {', '.join(SPLITS)}")
    turns = row.get("turns") or []
    problem = turns_problem(turns, len(uris))
    if problem:
        raise DataError(f"{where}: {problem}")
    return {
        "record_id": str(row["record_id"]), "domain": row["domain"], "split": split, "source_id": row.get("source_id"),
        "uris": uris, "turns": [[role, text] for role, text in turns], "group": row.get("group"),
    }  # fmt: skip
