"""Concept dictionaries: concepts from their source, embedded, in a folder; and read again."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.artifacts import ConceptDictionary
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sith.dictionary import Centring, centre
from runner.nodes.sith.dictionary_specs import ConceptFile, ConceptList, ConceptNetTerms
from runner.nodes.text_sources import texts_of
from runner.nodes.text_specs import WordNetTexts

CONCEPTS, EMBEDDINGS = "concepts.txt", "embeddings.npy"
MAX_BYTES = 1 << 16
_NAMED = 5  # lines that a message lists
_BREAKS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class Listed(NamedTuple):
    """Concepts in order, and how many repeat an earlier one."""

    texts: list[str]
    repeated: int


def listed(source: Any, *, dedupe: bool, max_atoms: int | None, exclude: Sequence[str]) -> Listed:
    """The concepts of a source in its order, the first ``max_atoms``, without excluded ones (compared as they are written).

    ``dedupe``: each text once. Raises ``DataError`` for blank or overlong lines, named by number, and for an empty list.
    """
    texts = list(_texts(source))
    _check_lines(texts)
    dropped = set(exclude)
    kept = [text for text in texts if text not in dropped]
    repeated = len(kept) - len(set(kept))
    if dedupe:
        kept, repeated = list(dict.fromkeys(kept)), 0
    if not kept:
        raise DataError("the dictionary is empty", hint="Give a source with at least one concept that is not excluded.")
    return Listed(kept[:max_atoms], repeated)


def name_of(source: Any) -> str:
    """What a dictionary is called where the spec gives no name: its kind, and the file's name without its ending."""
    if isinstance(source, ConceptFile):
        return Path(source.file).stem
    kinds: dict[Any, str] = {ConceptList: "list", ConceptNetTerms: "conceptnet", WordNetTexts: "wordnet"}
    return kinds.get(type(source), "captions")


def _texts(source: Any) -> Iterator[str]:
    from runner.assets import resolve

    if isinstance(source, ConceptFile):
        return iter(_file_lines(Path(resolve(source.file))))
    if isinstance(source, ConceptList):
        return (_BREAKS.sub(" ", text) for text in source.list)
    if isinstance(source, ConceptNetTerms):
        return conceptnet_terms(_opened(Path(resolve(source.conceptnet))), source.language, source.min_assertions)
    return (_BREAKS.sub(" ", text).strip() for text in texts_of(source))


def _file_lines(file: Path) -> list[str]:
    try:
        return [_BREAKS.sub(" ", line) for line in file.read_text("utf8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{file.name}: no concepts can be read from it: {error}") from error


def _opened(file: Path) -> Iterator[str]:
    try:
        with gzip.open(file, "rt", encoding="utf8") if file.suffix == ".gz" else file.open(encoding="utf8") as lines:
            yield from lines
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{file.name}: no assertions can be read from it: {error}") from error


def conceptnet_terms(lines: Iterable[str], language: str, min_assertions: int = 1) -> Iterator[str]:
    """Terms of ConceptNet's tab-separated assertions (URI, relation, start, end, JSON), by first occurrence.

    ``/c/en/wine_glass/n`` is the term "wine glass". Raises ``DataError`` for a line that is no assertion.
    """
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) < 4:
            raise DataError(f"line {number} is no assertion of ConceptNet: expected 5 columns, there are {len(fields)}")
        for node in fields[2:4]:
            parts = node.split("/")
            if len(parts) > 3 and parts[1:3] == ["c", language] and parts[3]:
                counts[_BREAKS.sub(" ", parts[3].replace("_", " "))] += 1
    return (term for term, count in counts.items() if count >= min_assertions)


def _check_lines(texts: Sequence[str]) -> None:
    for what, wrong in (
        ("blank", [i for i, text in enumerate(texts, 1) if not text.strip()]),
        (f"longer than {MAX_BYTES} bytes", [i for i, text in enumerate(texts, 1) if len(text.encode()) > MAX_BYTES]),
    ):
        if wrong:
            numbers = ", ".join(map(str, wrong[:_NAMED])) + (", ..." if len(wrong) > _NAMED else "")
            raise DataError(f"{len(wrong)} lines of the dictionary are {what}: {numbers}", hint="Take them out.")


def make_dictionary(ctx: StepContext, clip: ClipModel, name: str, found: Listed, batch: int) -> ConceptDictionary:
    """Embed the concepts as they are, without a prompt, and lay them into the artifact's folder."""
    if found.repeated:
        ctx.warn(f"{found.repeated} concepts repeat an earlier one; the first of them is picked (or set dedupe: true)")
    folder = ctx.folder("index")
    text = "".join(f"{line}\n" for line in found.texts).encode()
    digest = hashlib.sha256(text).hexdigest()
    vectors = _embedded(ctx, clip, found.texts, batch, digest)
    (folder / CONCEPTS).write_bytes(text)
    np.save(folder / EMBEDDINGS, vectors)
    encoder = {key: getattr(clip, key) for key in ("name", "family", "identity", "dim", "logit_scale", "small")}
    return ConceptDictionary({"name": name, "sha256": digest, "count": len(found.texts), "encoder": encoder}, folder)


def _embedded(ctx: StepContext, clip: ClipModel, texts: Sequence[str], batch: int, digest: str) -> NDArray[np.float32]:
    """Raw vectors [M, d] in a scratch file that goes on after a kill where the last finished batch ended."""
    about = json.dumps([clip.identity, digest, clip.dim])
    file, mark = ctx.scratch / "vectors.f32", ctx.scratch / "vectors.json"
    done = _finished(mark, about)
    vectors: np.memmap[Any, np.dtype[np.float32]] = np.memmap(
        file, np.float32, "r+" if done else "w+", shape=(len(texts), clip.dim)
    )
    ctx.advance("concepts", done, len(texts))
    for start in range(done, len(texts), batch):
        ctx.check()
        part = list(texts[start : start + batch])
        vectors[start : start + len(part)] = _raw(clip, part)
        vectors.flush()
        _write_mark(mark, about, start + len(part))
        ctx.advance("concepts", len(part))
    return vectors


def _raw(clip: ClipModel, part: list[str]) -> NDArray[np.float32]:
    raw = np.asarray(clip.raw_texts(part), np.float32)
    if raw.shape != (len(part), clip.dim) or not np.isfinite(raw).all():
        raise DataError(f"{clip.name} gave no finite vectors of shape {(len(part), clip.dim)} for concepts")
    return raw


def _finished(mark: Path, about: str) -> int:
    try:
        known, done = json.loads(mark.read_text())
    except (OSError, ValueError):
        return 0
    return int(done) if known == about else 0


def _write_mark(mark: Path, about: str, done: int) -> None:
    """Written aside, synced, renamed: a kill leaves the old count or the new one."""
    part = mark.with_suffix(".part")
    with part.open("w") as stream:
        json.dump([about, done], stream)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(mark)


class Dictionary(NamedTuple):
    """A dictionary read back: texts, raw embeddings [M, d] over the memory-mapped file, and their centring."""

    texts: list[str]
    raw: Tensor
    centring: Centring


def check_identity(made: Mapping[str, Any], used: Mapping[str, Any], what: str) -> None:
    """Raise ``DataError`` where two things lie in the spaces of different encoders."""
    if made["identity"] != used["identity"]:
        raise DataError(
            f"the {what} by {made['name']}, whose space is another than that of {used['name']}",
            hint="Make both with the same model.",
        )


def read_dictionary(dictionary: ConceptDictionary, identity: str, ctx: StepContext) -> Dictionary:
    """The dictionary, for vectors of the encoder ``identity``. Says which rows centring leaves nothing of.

    Raises ``DataError`` for another encoder's dictionary, and one whose parts do not agree or that cannot be centred.
    """
    check_identity(
        dictionary.info["encoder"], {"name": "the model in use", "identity": identity}, "concepts were embedded"
    )
    texts = (Path(dictionary.index) / CONCEPTS).read_text("utf8").splitlines()
    # Copy-on-write: torch wants memory that may be written to.
    stored = np.load(Path(dictionary.index) / EMBEDDINGS, mmap_mode="c", allow_pickle=False)
    if stored.ndim != 2 or len(stored) != len(texts):
        raise DataError(f"the dictionary has {len(texts)} concepts and embeddings of shape {list(stored.shape)}")
    raw = torch.from_numpy(stored)
    try:
        centring = centre(raw)
    except ValueError as error:
        raise DataError(f"the dictionary cannot be used: {error}") from error
    _say_dropped(ctx, centring, len(texts))
    return Dictionary(texts, raw, centring)


def _say_dropped(ctx: StepContext, centring: Centring, total: int) -> None:
    if len(centring.kept) < total:
        lost = sorted(set(range(total)) - set(centring.kept.tolist()))
        lines = ", ".join(str(i + 1) for i in lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
        ctx.warn(f"{len(lost)} concepts are left out, since nothing is left of them after centring: lines {lines}")
