"""A clip-retrieval folder to an index folder of our own: the embeddings are taken over, the pictures are looked at.

Every row needs its picture below ``root``: it is read and decoded once, for its hash and its size, and so that an audit
never meets a row whose picture is gone. Rows without one are left out and counted by reason. A killed import goes on with
the partition in flight.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval import foreign, storage
from retrieval.embed import ROWS, EmbeddedShard, ahead, encode_texts
from retrieval.foreign import Partition
from retrieval.index import INDEX_LIMITS, Index, finish, refuse_other_encoder, save, source_entry
from retrieval.nearest import measure, sample
from retrieval.problems import report
from retrieval.structure import SEED, FaissChoice, Structure
from runner.context import StepContext
from runner.data.images import UnreadableImage, decode
from runner.data.sources import Problem, Problems, Source, open_source
from runner.data.sources.base import clean_caption, digest
from runner.errors import DataError
from runner.models.base import ImageTextEncoder

CHECKED = 64
"""Pictures embedded again to see whether the encoder is the one that made the embeddings."""

SAME_COSINE = 0.98
"""Median cosine from which it is: half precision and other JPEG decoders stay well above, other models well below."""

LEAST_RECALL = 0.5
"""A structure that finds less of the true neighbours does not belong to these vectors."""

_TRIED = 1024


class _Picture(NamedTuple):
    """What is known of a row's picture; ``reason`` is set where it cannot be used."""

    uri: str
    sha256: str = ""
    size: tuple[int, int] = (0, 0)
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class _Import:
    """What all parts of an import share. ``vectors(part)`` gives the stored vectors of a partition."""

    source: Source
    root: Path
    encoder: ImageTextEncoder
    vectors: Callable[[Partition], NDArray[Any]]
    folder: Path
    ctx: StepContext

    def uri(self, path: str | None) -> str:
        """A stored path as one below the root. Raises ``DataError`` where it leads elsewhere."""
        parts = PurePosixPath(path or "")
        if path is None or not parts.parts or "\0" in path:
            raise DataError("no path")
        if ".." in parts.parts:
            raise DataError("a path must not hold ..")
        inside = Path(os.path.realpath(self.root))
        if not Path(os.path.realpath(self.root / path)).is_relative_to(inside):
            raise DataError(f"{path} is not below {self.root}")
        # An absolute path is cut as it is written where it can be, so that links inside the root keep their names.
        base = next((b for b in (self.root, inside) if parts.is_relative_to(b.as_posix())), None)
        whole = parts if base or not parts.is_absolute() else PurePosixPath(os.path.realpath(path))
        return str(whole.relative_to((base or inside).as_posix()) if whole.is_absolute() else whole)

    def data(self, uri: str) -> bytes:
        """Bytes of a picture. Raises ``DataError``; links out of the root are not followed."""
        return next(data for _, data in self.source.read_many([uri]))

    def look(self, path: str | None) -> _Picture:
        """Read and decode a row's picture."""
        try:
            uri = self.uri(path)
        except DataError as error:
            return _Picture(path or "", reason="outside_root" if path else "no_path", detail=error.message)
        try:
            data = self.data(uri)
            image = decode(data, INDEX_LIMITS)
        except UnreadableImage as error:
            return _Picture(uri, reason=error.reason, detail=error.detail)
        except DataError as error:
            return _Picture(uri, reason="missing_file", detail=error.message)
        return _Picture(uri, hashlib.sha256(data).hexdigest(), image.size)


def import_folder(
    folder: Path,
    made: Path,
    root: str,
    encoder: ImageTextEncoder,
    ctx: StepContext,
    *,
    structure: Path | None = None,
    skip_damaged: bool = False,
    faiss: FaissChoice = "auto",
    nprobe: int | None = None,
    export_to: Path | None = None,
) -> Index:
    """Import the clip-retrieval folder ``made``, whose pictures are below ``root``, into ``folder``, and open the index.

    ``structure``: an autofaiss output over the same rows, used for candidates where every row could be kept; where
    ``made`` has no embeddings they are read back from it. Raises ``DataError`` for a damaged partition (unless
    ``skip_damaged``), another dim, or embeddings of another encoder.
    """
    given = None if structure is None else foreign.read_structure(structure, nprobe)
    source = open_source({"folder": root})
    parts, counts, listed = _usable(foreign.partitions(made), encoder, skip_damaged, ctx)
    reader = _reader(parts, counts, given, encoder, complete=not listed)
    job = _Import(source, Path(source.spec["folder"]), encoder, reader, folder, ctx)
    with storage.exclusive(folder, ctx.check):
        refuse_other_encoder(folder, encoder)
        stamps = {part: _stamp(part, structure, encoder, source) for part in parts}
        done = storage.finished_shards(folder)
        missing = [part for part in parts if stamps[part] not in done]
        if missing:
            _check_encoder(job, parts, counts)
            ctx.advance("images", 0, sum(counts[part] for part in missing))
        for part in missing:
            embedded, found = _import(job, part)
            done[stamps[part]] = save(folder, stamps[part], source.source_id, part.name, embedded, found)
        shards = [done[stamps[part]] for part in parts]
        entry = source_entry(source, shards, listed, digest([stamps[part] for part in parts]))
        index = finish(
            folder, shards, [entry], encoder, ctx.check, faiss, nprobe,
            adopt=lambda draft: _adopted(draft, given, sum(counts.values()), ctx),
        )  # fmt: skip
        if export_to is not None:
            storage.export(folder, export_to)
    report(index.sources, ctx)
    return index


def _usable(
    parts: list[Partition], encoder: ImageTextEncoder, skip_damaged: bool, ctx: StepContext
) -> tuple[list[Partition], dict[Partition, int], list[Problem]]:
    """Partitions whose files agree, their rows, and the others as problems."""
    counts: dict[Partition, int] = {}
    listed: list[Problem] = []
    for part in parts:
        try:
            rows, dim = foreign.check_partition(part)
        except DataError as error:
            if not skip_damaged:
                error.hint = "Make it again, or write skip_damaged: true to leave it out."
                raise
            ctx.warn(f"left out: {error.message}", item=part.name)
            listed.append(Problem("damaged_partition", part.name, error.message))
            continue
        if dim not in (None, encoder.dim):
            raise DataError(f"{part.vectors} has vectors of length {dim}, {encoder.name} makes {encoder.dim}")
        counts[part] = rows
    return list(counts), counts, listed


def _reader(
    parts: list[Partition],
    counts: dict[Partition, int],
    given: tuple[Structure, Any] | None,
    encoder: ImageTextEncoder,
    *,
    complete: bool,
) -> Callable[[Partition], NDArray[Any]]:
    """How a partition's vectors are read: from its file, or back from the FAISS index."""
    if all(part.vectors is not None for part in parts):
        return lambda part: foreign.read_embeddings(part.vectors or Path())
    if given is None:
        raise DataError("there is no img_emb/ in the folder", hint="Give the embeddings, or `structure:` to read from.")
    if not complete or (given[1].ntotal, given[1].d) != (sum(counts.values()), encoder.dim):
        raise DataError(
            f"the FAISS index holds {given[1].ntotal} vectors of length {given[1].d}, the metadata "
            f"{sum(counts.values())} rows and {encoder.name} makes {encoder.dim}: which is whose cannot be told"
        )
    starts = dict(zip(parts, np.cumsum([0, *counts.values()])[:-1].tolist(), strict=True))
    return lambda part: foreign.reconstruct(given[1], starts[part], counts[part])


def _stamp(part: Partition, structure: Path | None, encoder: ImageTextEncoder, source: Source) -> str:
    """Key of the shard: the partition's files by name, size and time of change, where they lead, and the encoder."""
    origin = part.vectors or foreign.structure_file(structure or Path())
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (origin, part.metadata)]
    return digest([storage.FORMAT, "clip-retrieval", files, source.spec, encoder.identity])[:16]


def _check_encoder(job: _Import, parts: list[Partition], counts: dict[Partition, int]) -> None:
    """Raise ``DataError`` unless the encoder gives what is stored, on up to ``CHECKED`` readable pictures."""
    pairs = list(itertools.islice(_readable(job, parts, counts), CHECKED))
    if not pairs:
        job.ctx.warn("no picture could be read, so whether this encoder made the embeddings could not be checked")
        return
    made = job.encoder.encode_prepared(np.stack([prepared for prepared, _ in pairs])).astype(np.float64)
    stored = np.stack([vector for _, vector in pairs]).astype(np.float64)
    cosine = float(np.median(np.sum(_unit(made) * _unit(stored), axis=1)))
    if not cosine > SAME_COSINE:
        raise DataError(
            f"the embeddings were made by another encoder than {job.encoder.name}: on {len(pairs)} pictures the median "
            f"cosine between stored and new embeddings is {cosine:.3f}, expected above {SAME_COSINE}",
            hint="Name the CLIP model, weights included, that clip-retrieval was run with.",
        )


def _readable(
    job: _Import, parts: list[Partition], counts: dict[Partition, int]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Prepared pictures and stored vectors of rows drawn from all partitions, partition by partition in random order."""
    ends = np.cumsum([0, *(counts[part] for part in parts)])
    rng = np.random.default_rng(SEED)
    chosen = rng.choice(ends[-1], min(_TRIED, int(ends[-1])), replace=False) if ends[-1] else np.zeros(0, np.int64)
    owner = np.searchsorted(ends[1:], chosen, side="right")
    for number in dict.fromkeys(owner.tolist()):
        rows = chosen[owner == number] - ends[number]
        paths = foreign.read_metadata(parts[number].metadata)["image_path"].take(rows).to_pylist()
        vectors = np.asarray(job.vectors(parts[number])[rows], np.float32)
        usable = np.isfinite(_unit(vectors)).all(axis=1)
        for path, vector, is_usable in zip(paths, vectors, usable, strict=True):
            image = _try_image(job, path) if is_usable else None
            if image is not None:
                yield job.encoder.prepare(image), vector


def _try_image(job: _Import, path: str | None) -> Any:
    try:
        return decode(job.data(job.uri(path)), INDEX_LIMITS)
    except DataError:
        return None


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: NDArray[Any] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _import(job: _Import, part: Partition) -> tuple[EmbeddedShard, Problems]:
    """The rows of a partition whose pictures and vectors can be used, and why the others cannot."""
    table = foreign.read_metadata(part.metadata)
    unit = _unit(np.asarray(job.vectors(part), np.float32))
    if len(unit) != len(table):
        raise DataError(f"{part.name} changed while it was read")
    finite = np.isfinite(unit).all(axis=1)
    pictures: list[_Picture] = []
    for picture in ahead(job.look, table["image_path"].to_pylist(), workers=min(4, os.cpu_count() or 1), window=128):
        job.ctx.check()
        job.ctx.advance("images")
        pictures.append(picture)
    found, unreadable, kept = Problems(), [], []
    for row, picture in enumerate(pictures):
        if picture.reason in ("no_path", "outside_root", "missing_file"):
            found.add(picture.reason, picture.uri, picture.detail, shard=part.name)
        elif picture.reason:
            unreadable.append((picture.reason, picture.uri, picture.detail))
        elif not finite[row]:
            found.add("bad_vector", picture.uri, "not finite or all zero", shard=part.name)
        else:
            kept.append(row)
    texts = [clean_caption(text) for text in table["caption"].take(pa.array(kept, pa.int64())).to_pylist()]
    captions = encode_texts(job.encoder, [text for text in texts if text is not None]).astype(np.float16)
    rows = _rows(job.source.source_id, [pictures[row] for row in kept], texts)
    return EmbeddedShard(rows, unit[kept].astype(np.float16), captions, len(table), unreadable), found


def _rows(source_id: str, pictures: list[_Picture], captions: list[str | None]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "row": list(range(len(pictures))),
        "source_id": [source_id] * len(pictures),
        "uri": [picture.uri for picture in pictures],
        "caption": captions,
        "sha256": [picture.sha256 for picture in pictures],
        "width": [picture.size[0] for picture in pictures],
        "height": [picture.size[1] for picture in pictures],
    }
    return pa.table(columns, schema=ROWS)


def _adopted(
    draft: Index, given: tuple[Structure, Any] | None, rows: int, ctx: StepContext
) -> tuple[Structure, Any] | None:
    """The given structure where its rows are those of the index and it finds neighbours in it, else None, saying why."""
    if given is None or not len(draft):
        return None
    structure, found = given
    if (found.ntotal, found.d) != (len(draft), draft.dim):
        ctx.warn(
            f"the given FAISS index has {found.ntotal} rows of length {found.d}, here are {len(draft)} of {rows} rows of "
            f"length {draft.dim}: it is not used, one is made"
        )
        return None
    recall = measure(draft.vectors, sample(draft.vectors), found)
    if recall is None or recall < LEAST_RECALL:
        ctx.warn(f"the given FAISS index finds {recall:.3f} of the true neighbours: it is not used, one is made")
        return None
    return structure, found
