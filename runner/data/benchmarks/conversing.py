"""Conversations from the files of training recipes: LLaVA's list, LLaMA-Factory's folder, InternVL's meta file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from runner.artifacts import Conversations
from runner.context import StepContext
from runner.data.benchmarks.building import IMAGE, conversations, is_text, turns_problem
from runner.data.benchmarks.files import Skipped, mapped, read_json, read_records
from runner.data.benchmarks.loading import has_pictures
from runner.data.benchmarks.specs import (
    AnyConversations,
    InternVlConversations,
    LlavaConversations,
    ShareGptConversations,
)
from runner.data.sampling import sampled
from runner.errors import DataError

Record = dict[str, Any]
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class Part:
    """Records of one file. ``domain``: of all, or by record; ``split`` None: held out by draw. ``tags``: how turns are spelt."""

    name: str
    file: Path
    root: Path
    domain: Callable[[Record], str]
    split: str | None = None
    messages: str = "conversations"
    images: str = "image"
    system: str = "system"
    tags: Mapping[str, str] = field(default_factory=dict)


def load(ctx: StepContext, spec: AnyConversations, name: str, limit: int | None, seed: int) -> Conversations:
    """Read, draw and check. Raises ``DataError`` where a file is broken or nothing can be used."""
    most = limit if spec.limit is None else spec.limit
    skipped, rows = Skipped(), list[Record]()
    parts = _parts(spec)
    roots = list(dict.fromkeys(part.root for part in parts))
    names = {root: "pictures" if len(roots) == 1 else f"pictures {i}" for i, root in enumerate(roots)}
    for part in ctx.track(parts, unit="files"):
        rows += _rows(part, names[part.root], skipped)
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    drawn = [
        row for domain in domains for row in _drawn([r for r in rows if r["domain"] == domain], most, spec.eval, seed)
    ]
    found = len(rows)
    places = {names[root]: root for root in roots}
    kept = [row for row in drawn if not row["uris"] or has_pictures(row, places[row["source_id"]], skipped)]
    for line in skipped.lines():
        ctx.failed(name, line)
    if not kept:
        raise DataError(
            f"{name}: no record can be used", hint="; ".join(skipped.lines()) or "The files hold no record."
        )
    used = {row["source_id"] for row in kept}
    corpus = [{"folder": str(root), "name": names[root]} for root in roots if names[root] in used]
    notes = [f"{len(kept)} of {found} usable records drawn", *skipped.lines()]
    held = [domain for domain in domains if any(row["domain"] == domain for row in kept)]
    licences = dict.fromkeys(held, spec.licence) if spec.licence else {}
    return conversations(name, held, kept, corpus, licences=licences, notes=notes)


def _drawn(rows: list[Record], limit: int | None, held_out: int, seed: int) -> list[Record]:
    """Of one domain: ``held_out`` records become ``eval``, ``limit`` others ``train``; records whose split is given keep it."""
    given = [row for row in rows if row["split"] == "eval"]
    open_ = [row for row in rows if row["split"] != "eval"]
    out = {row["record_id"] for row in sampled(open_, held_out, seed, lambda row: f"eval {row['record_id']}")}
    train = sampled(
        [row for row in open_ if row["record_id"] not in out], limit, seed, lambda row: str(row["record_id"])
    )
    chosen = {row["record_id"] for row in train}
    rest = [
        {**row, "split": "eval" if row["record_id"] in out else "train"}
        for row in open_
        if row["record_id"] in out | chosen
    ]
    return rest + given


# --- the files of each kind ------------------------------------------------------------------------------------------


def _parts(spec: AnyConversations) -> list[Part]:
    if isinstance(spec, LlavaConversations):
        return [_llava(spec)]
    if isinstance(spec, ShareGptConversations):
        return _sharegpt(spec)
    return _internvl(spec)


def _llava(spec: LlavaConversations) -> Part:
    file = Path(spec.llava)

    def domain(record: Record) -> str:
        if spec.domain is not None:
            return spec.domain
        image = record.get("image")
        first = image[0] if isinstance(image, list) and image else image
        return (
            PurePosixPath(first).parts[0]
            if isinstance(first, str) and "/" in first.strip("/")
            else "pictures"
            if first
            else "text"
        )

    return Part("", file, Path(spec.pictures or file.parent), domain)


def _sharegpt(spec: ShareGptConversations) -> list[Part]:
    folder = Path(spec.sharegpt)
    registry = folder / "dataset_info.json"
    entries = mapped(read_json(registry), registry)
    wanted = spec.datasets
    if wanted is None:
        wanted = [name for name in entries if not name.endswith(("_eval", "_eval_small"))]
    named = wanted if isinstance(wanted, dict) else {name: name for name in wanted}
    listed = [(domain, entry, "train") for domain, entry in named.items()]
    listed += [(domain, entry, "eval") for domain, entry in spec.held_out.items()]
    for _, entry, _ in listed:
        if entry not in entries:
            raise DataError(f"{registry} has no entry {entry!r}", hint=f"It has: {', '.join(list(entries)[:20])}.")
    root = Path(spec.pictures or folder)
    return [_sharegpt_part(registry, entries[entry], domain, entry, split, root) for domain, entry, split in listed]


def _sharegpt_part(registry: Path, entry: Record, domain: str, name: str, split: str, root: Path) -> Part:
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    file, form = entry.get("file_name"), entry.get("formatting", "alpaca")
    if not isinstance(file, str) or form != "sharegpt" or not isinstance(columns, dict) or not isinstance(tags, dict):
        raise DataError(
            f"{registry}: the entry {name!r} needs `file_name` and `formatting: sharegpt`",
            hint="Other forms are not read.",
        )
    path = registry.parent / file
    if not path.resolve().is_relative_to(registry.parent.resolve()):
        raise DataError(f"{registry}: the file of {name!r} leads out of the folder")
    return Part(
        f"{name}/", path, root, lambda record: domain, split if split == "eval" else None, str(columns.get("messages", "conversations")),
        str(columns.get("images", "images")), str(columns.get("system", "system")), {str(k): str(v) for k, v in tags.items()},
    )  # fmt: skip


def _internvl(spec: InternVlConversations) -> list[Part]:
    file = Path(spec.internvl)
    entries = mapped(read_json(file), file)
    missing = [name for name in spec.datasets or [] if name not in entries]
    if missing:
        raise DataError(f"{file} has no data set {missing[0]!r}", hint=f"It has: {', '.join(list(entries)[:20])}.")
    parts = []
    for name, entry in entries.items():
        if spec.datasets is not None and name not in spec.datasets:
            continue
        if not isinstance(entry.get("annotation"), str) or not isinstance(entry.get("root", ""), str):
            raise DataError(f"{file}: {name!r} needs `annotation` and `root` as paths")
        root = Path(spec.pictures) if spec.pictures else file.parent / entry.get("root", "")
        parts.append(Part(f"{name}/", file.parent / entry["annotation"], root, lambda record, name=name: name))  # type: ignore[misc]
    return parts


# --- records ---------------------------------------------------------------------------------------------------------


def _rows(part: Part, source: str, skipped: Skipped) -> Iterator[Record]:
    seen: set[str] = set()
    for number, record in read_records(part.file, skipped):
        name = f"{part.name}{record.get('id', number)}"
        if name in seen or not name.isprintable():  # LLaVA's mix has ids that stand twice
            name = f"{part.name}{number}"
        where = f"{part.file.name}, record {number}"
        images = record.get(part.images, record.get("image"))
        uris = images if isinstance(images, list) else [images] if images else []
        if not all(isinstance(uri, str) for uri in uris):
            skipped.add("a picture is named by a path", where)
            continue
        try:
            turns = marked(_turns(part, record), len(uris))
        except (KeyError, TypeError, ValueError) as error:
            skipped.add(f"malformed turns ({str(error.args[0])[:80]})", where)
            continue
        problem = turns_problem(turns, len(uris))
        if problem is None and not all(is_text(text) for _, text in turns):
            problem = "text that is not Unicode"
        if problem is None and name in seen:
            problem = "the id stands twice"
        if problem:
            skipped.add(problem, where)
            continue
        seen.add(name)
        yield {
            "record_id": name, "domain": part.domain(record), "split": part.split or "train", "uris": list(uris), "turns": turns,
            "source_id": source if uris else None, "group": uris[0] if uris else None,
        }  # fmt: skip


def _turns(part: Part, record: Record) -> list[tuple[str, str]]:
    """Turns as role and text. Raises ``KeyError``, ``TypeError`` or ``ValueError`` where a turn has no known role or no text."""
    tags = part.tags
    role_key, text_key = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    own = {tags.get(f"{role}_tag", ""): role for role in ("user", "assistant", "system")}
    turns = []
    for turn in record[part.messages]:
        said = str(turn[role_key] if role_key in turn else turn["role"]).lower()
        role = own.get(str(turn.get(role_key)), _ROLES.get(said))
        text = turn[text_key] if text_key in turn else turn["content"]
        if role is None or not isinstance(text, str):
            raise ValueError(f"role {said[:40]!r}")
        turns.append((role, text))
    system = record.get(part.system)
    return [("system", system), *turns] if isinstance(system, str) and system.strip() else turns


def marked(turns: list[tuple[str, str]], pictures: int) -> list[tuple[str, str]]:
    """Turns in which user turns show ``<image>`` for every picture: missing marks are put before the first user turn."""
    marks = sum(text.count(IMAGE) for role, text in turns if role == "user")
    first = next((i for i, (role, _) in enumerate(turns) if role == "user"), None)
    if marks or not pictures or first is None:
        return turns
    role, text = turns[first]
    return [*turns[:first], (role, f"{IMAGE}\n" * pictures + text), *turns[first + 1 :]]
