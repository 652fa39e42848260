"""The index folder: pictures embedded once, searched many times.

    vectors-KEY.npy    float16 [n, dim], unit norm: one row a readable picture of the shard
    captions-KEY.npy   float16 [m, dim]: the shard's own captions, embedded, for the rows that have one
    rows-KEY.parquet   row (in the shard), source_id, uri, caption, sha256, width, height
    shard-KEY.json     written last: the shard is complete
    faiss.index        over the image vectors of all shards
    manifest.json      encoder, shards in row order, sources with their fingerprints, the FAISS structure and its recall

``build`` goes on where a killed build stopped (a kill costs the shard in flight), embeds only what is new when sources
grow, and orders shards by source and name, so that neither history nor the order of the sources changes a result.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval import storage
from retrieval.embed import ROWS, EmbeddedShard, KnownImage, KnownImages, embed_shard, encode_texts
from retrieval.nearest import measure, nearest, nearly, sample
from retrieval.problems import examples, report
from retrieval.structure import FaissChoice, Structure, choose, make, read, write
from retrieval.vectors import IN_MEMORY, MixedVectors, StoredVectors
from runner.context import StepContext
from runner.data.images import ImageLimits
from runner.data.sources import Problem, Problems, Shard, Source, open_sources
from runner.data.sources.base import digest
from runner.errors import DataError
from runner.models.base import ImageTextEncoder

Similarity = Literal["image", "caption", "mean"]

INDEX_LIMITS = ImageLimits(max_pixels=89_000_000)
"""What is embedded at all; a search may ask for less."""


@dataclass(frozen=True)
class _Part:
    """A shard with its key in the index folder."""

    source: Source
    shard: Shard
    key: str


def build(
    folder: Path,
    sources: Sequence[Any] | Any,
    encoder: ImageTextEncoder,
    ctx: StepContext,
    *,
    limits: ImageLimits = INDEX_LIMITS,
    batch_size: int = 64,
    workers: int | None = None,
    faiss: FaissChoice = "auto",
    nprobe: int | None = None,
    export_to: Path | None = None,
) -> Index:
    """Make or complete the index of ``sources`` (specs or opened sources) in ``folder`` and open it.

    ``faiss`` and ``nprobe`` as in ``retrieval.structure``. ``export_to`` gets a copy that later builds in ``folder`` do
    not touch. Raises ``DataError`` where the folder holds an index of another encoder.
    """
    opened = sorted(open_sources(sources), key=lambda source: source.source_id)
    with storage.exclusive(folder, ctx.check):
        refuse_other_encoder(folder, encoder)
        parts = [_part(source, shard, encoder, limits) for source in opened for shard in source.shards()]
        done = storage.finished_shards(folder)
        missing = [part for part in parts if part.key not in done]
        if missing:
            known = _known_images(folder, done, encoder.dim)
            counts = [part.shard.records for part in missing]
            ctx.advance("images", 0, None if None in counts else sum(n or 0 for n in counts))
            for part in missing:
                embedded = embed_shard(
                    part.source.records(part.shard), encoder, known, ctx,
                    limits=limits, batch_size=batch_size, workers=workers or min(4, os.cpu_count() or 1),
                )  # fmt: skip
                done[part.key] = _save(folder, part, embedded)
        entries = [_entry(source, [done[p.key] for p in parts if p.source is source]) for source in opened]
        index = finish(folder, [done[p.key] for p in parts], entries, encoder, ctx.check, faiss, nprobe)
        if export_to is not None:
            storage.export(folder, export_to)
    report(index.sources, ctx)
    return index


def _part(source: Source, shard: Shard, encoder: ImageTextEncoder, limits: ImageLimits) -> _Part:
    content = [storage.FORMAT, source.source_id, shard.name, shard.fingerprint, encoder.identity, asdict(limits)]
    return _Part(source, shard, digest(content)[:16])


def refuse_other_encoder(folder: Path, encoder: ImageTextEncoder) -> None:
    """Raise ``DataError`` where the folder holds an index of another encoder."""
    if (folder / storage.MANIFEST).exists():
        _require(storage.read_json(folder / storage.MANIFEST)["encoder"], encoder, folder)


def _require(made_by: dict[str, Any], encoder: ImageTextEncoder, folder: Path) -> None:
    if (made_by["identity"], made_by["dim"]) != (encoder.identity, encoder.dim):
        raise DataError(
            f"the index {folder} was made with encoder {made_by['name']} ({made_by['identity']}), "
            f"not with {encoder.name} ({encoder.identity})",
            hint="Search with the encoder that made it, or build another index.",
        )


def _known_images(folder: Path, done: dict[str, dict[str, Any]], dim: int) -> KnownImages:
    """Pictures that earlier shards hold, by hash of their bytes."""
    known: KnownImages = {}
    for key, meta in done.items():
        vectors = storage.load_vectors(folder, "vectors", key, meta["rows"], dim)
        rows = storage.load_rows(folder, key).select(["sha256", "width", "height"]).to_pydict()
        known |= {
            sha: KnownImage(vector, width, height)
            for sha, vector, width, height in zip(rows["sha256"], vectors, rows["width"], rows["height"], strict=True)
        }
    return known


def _save(folder: Path, part: _Part, embedded: EmbeddedShard) -> dict[str, Any]:
    return save(folder, part.key, part.source.source_id, part.shard.name, embedded, part.source.problems)


def save(folder: Path, key: str, source_id: str, name: str, embedded: EmbeddedShard, found: Problems) -> dict[str, Any]:
    """Store a finished shard and give its description; ``found`` holds its problems under its name."""
    problems = [[p.reason, p.where, p.detail] for p in found.of(name)]
    meta = {
        "source_id": source_id,
        "name": name,
        "records": embedded.records,
        "unreadable": embedded.unreadable_counts(),
        "problem_counts": dict(sorted(Counter(p[0] for p in problems).items())),
        "examples": examples(problems + [list(found) for found in embedded.unreadable]),
    }
    storage.save_shard(folder, key, embedded.rows, embedded.vectors, embedded.captions, meta)
    return {"key": key, "rows": len(embedded.vectors), "captioned": len(embedded.captions), **meta}


def finish(
    folder: Path,
    shards: Sequence[dict[str, Any]],
    sources: list[dict[str, Any]],
    encoder: ImageTextEncoder,
    check: Callable[[], None],
    faiss: FaissChoice = "auto",
    nprobe: int | None = None,
    *,
    adopt: Callable[[Index], tuple[Structure, Any] | None] | None = None,
) -> Index:
    """Write structure and manifest where something changed, remove what is no longer listed, and open the index.

    ``shards``: descriptions of finished shards in row order; ``sources``: entries of the manifest; ``adopt`` may give a
    structure made elsewhere with its FAISS index, or None where that cannot be used.
    """
    listed = [{name: shard[name] for name in ("key", "source_id", "rows", "captioned")} for shard in shards]
    rows = sum(shard["rows"] for shard in listed)
    manifest = {
        "format": storage.FORMAT,
        "created_by": "vlm-runner",
        "encoder": {"name": encoder.name, "family": encoder.family, "identity": encoder.identity, "dim": encoder.dim},
        "rows": rows,
        "shards": listed,
        "sources": sources,
    }
    draft = Index(folder, manifest)
    given = adopt(draft) if adopt is not None else None
    structure = given[0] if given else choose(rows, encoder.dim, faiss, nprobe)
    if not _is_finished(folder, manifest, structure):
        made = given[1] if given else make(structure, draft.vectors, check)
        measured = structure.described() | _recalls(draft, structure, made)
        # A reader between these lines makes the structure for itself.
        (folder / storage.FAISS).unlink(missing_ok=True)
        storage.write_json(folder / storage.MANIFEST, {**manifest, "faiss": measured})
        storage.write_whole(folder / storage.FAISS, lambda file: write(made, file))
    storage.prune(folder, {shard["key"] for shard in listed})
    return open_index(folder)


def _is_finished(folder: Path, manifest: dict[str, Any], structure: Structure) -> bool:
    path = folder / storage.MANIFEST
    if not (path.exists() and (folder / storage.FAISS).exists()):
        return False
    stored = storage.read_json(path)
    return "faiss" in stored and stored == {**manifest, "faiss": stored["faiss"]} and Structure.of(stored) == structure


def _recalls(index: Index, structure: Structure, made: Any) -> dict[str, float | None]:
    """What a structure that is not exact finds, with rows and with captions as queries."""
    queries = {} if structure.exact else {"": index.vectors, "caption_": index.caption_vectors}
    return {
        f"{name}recall_at_100": measure(index.vectors, sample(found), made, reranked=structure.reranked)
        for name, found in queries.items()
    }


def _entry(source: Source, shards: list[dict[str, Any]]) -> dict[str, Any]:
    return source_entry(source, shards, source.problems.of(""), source.fingerprint())


def source_entry(
    source: Source, shards: Sequence[dict[str, Any]], listed: Iterable[Problem], fingerprint: str
) -> dict[str, Any]:
    """What the manifest says of a source; ``listed``: problems that belong to no shard."""
    listed = list(listed)
    counts = Counter(problem.reason for problem in listed)
    for shard in shards:
        counts.update(shard["problem_counts"])
        counts.update(shard["unreadable"])
    found = [[p.reason, p.where, p.detail] for p in listed] + [e for shard in shards for e in shard["examples"]]
    return {
        "source_id": source.source_id,
        "kind": source.kind,
        "spec": source.spec,
        "licence": source.licence,
        "fingerprint": fingerprint,
        "records": sum(shard["records"] for shard in shards),
        "embedded": sum(shard["rows"] for shard in shards),
        "unreadable": sum(sum(shard["unreadable"].values()) for shard in shards),
        "captioned": sum(shard["captioned"] for shard in shards),
        "problems": {"counts": dict(sorted(counts.items())), "examples": examples(found)},
    }


@dataclass(frozen=True)
class Index:
    """An opened index. Row numbers run over all shards in the manifest's order."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def encoder(self) -> dict[str, Any]:
        """name, family, identity and dim of the encoder that made it."""
        return dict(self.manifest["encoder"])

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Per source: spec, fingerprint, counts and problems."""
        return list(self.manifest["sources"])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.manifest["encoder"]["dim"])

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def require(self, encoder: ImageTextEncoder) -> None:
        """Raise ``DataError`` unless ``encoder`` made this index."""
        _require(self.manifest["encoder"], encoder, self.folder)

    def embed_queries(self, encoder: ImageTextEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts as unit vectors float32 [n, dim], by the encoder that made this index."""
        self.require(encoder)
        return encode_texts(encoder, list(texts))

    @cached_property
    def rows(self) -> pa.Table:
        """source_id, uri, caption, sha256, width, height of every row, in row order."""
        tables = [storage.load_rows(self.folder, shard["key"]) for shard in self.manifest["shards"]]
        return pa.concat_tables([ROWS.empty_table(), *tables]).drop_columns(["row"]).combine_chunks()

    @cached_property
    def image_numbers(self) -> NDArray[np.int64]:
        """A number for each row, equal where the bytes of the pictures are equal."""
        _, numbers = np.unique(self.rows["sha256"].to_numpy().astype(str), return_inverse=True)
        return np.asarray(numbers, np.int64)

    @cached_property
    def vectors(self) -> NDArray[np.float16]:
        """Image vectors [rows, dim]: an array, or ``StoredVectors`` in its place where they are too many for memory."""
        return self._stacked("vectors", "rows")

    @cached_property
    def caption_vectors(self) -> NDArray[np.float16]:
        """Vectors of the pictures' own captions, for ``caption_rows``."""
        return self._stacked("captions", "captioned")

    @cached_property
    def caption_rows(self) -> NDArray[np.int64]:
        """Rows that have a caption of their own."""
        return np.flatnonzero(self.rows["caption"].is_valid().to_numpy(zero_copy_only=False))

    def _stacked(self, kind: str, count: str) -> NDArray[np.float16]:
        shards = self.manifest["shards"]

        def load(number: int) -> NDArray[np.float16]:
            return storage.load_vectors(self.folder, kind, shards[number]["key"], shards[number][count], self.dim)

        counts = [int(shard[count]) for shard in shards]
        if 2 * sum(counts) * self.dim > IN_MEMORY:
            return cast("NDArray[np.float16]", StoredVectors(load, counts, self.dim))
        return np.concatenate([np.zeros((0, self.dim), np.float16), *map(load, range(len(shards)))])

    def matrix(self, similarity: Similarity = "image") -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Rows that can be found and the vectors whose inner product with a query is their similarity.

        ``caption``: pictures without a caption cannot be found. ``mean``: (image + caption) / 2, and the image alone for
        pictures without a caption.
        """
        if similarity == "caption":
            return self.caption_rows, self.caption_vectors
        everything = np.arange(len(self), dtype=np.int64)
        if similarity == "image":
            return everything, self.vectors
        if isinstance(self.vectors, StoredVectors):
            mean = MixedVectors(self.vectors, self.caption_vectors, self.caption_rows)
            return everything, cast("NDArray[np.float16]", mean)
        mixed = self.vectors.astype(np.float32)
        mixed[self.caption_rows] = (mixed[self.caption_rows] + self.caption_vectors) / 2
        return everything, mixed.astype(np.float16)

    @cached_property
    def structure(self) -> Structure:
        """Which FAISS structure the image vectors have."""
        return Structure.of(self.manifest)

    @property
    def recalls(self) -> dict[str, float]:
        """What the structure finds of the true 100 nearest, by what was measured; empty where it is exact."""
        stored = self.manifest.get("faiss", {})
        names = ("recall_at_100", "caption_recall_at_100")
        return {name: float(stored[name]) for name in names if stored.get(name) is not None}

    @cached_property
    def faiss_index(self) -> Any:
        """FAISS index over the image vectors: the stored one, or a new one where that is missing or damaged.

        None where it is missing and was adopted: it cannot be made again here.
        """
        found = read(self.folder / storage.FAISS, self.structure, len(self), self.dim)
        if found is None and not self.structure.adopted:
            return make(self.structure, self.vectors)
        return found


def open_index(folder: Path) -> Index:
    """Open a finished index. Raises ``DataError`` where there is none or it is damaged."""
    path = Path(folder) / storage.MANIFEST
    if not path.exists():
        raise DataError(f"{folder} is no finished image index", hint="Build it with the step retrieval.index.")
    manifest = storage.read_json(path)
    if manifest.get("format") != storage.FORMAT:
        raise DataError(f"{path} has format {manifest.get('format')!r}, expected {storage.FORMAT}")
    index = Index(Path(folder), manifest)
    if not (len(index) == len(index.rows) == len(index.vectors)):
        raise DataError(f"{folder}: {len(index.rows)} rows and {len(index.vectors)} vectors, expected {len(index)}")
    return index


def search(
    index: Index, query_vectors: NDArray[np.float32], k: int, *, similarity: Similarity = "image"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The ``k`` most similar rows for each query: similarities and rows, both [queries, min(k, rows)].

    Best first, equal similarities by row. Exact, but for images of an index whose ``structure`` is not ``exact``: there
    similarities are exact and neighbours may be missed (``index.recalls``).
    """
    rows, vectors = index.matrix(similarity)
    stored = index.faiss_index if similarity == "image" else None
    if stored is None or index.structure.exact:
        similarities, places = nearest(vectors, query_vectors, k, stored)
    else:
        similarities, places = nearly(vectors, query_vectors, k, stored, index.structure.reranked)
    return similarities, rows[places]
