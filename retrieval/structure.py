"""Which FAISS structure an index gets, how it is made and how much it finds. Rules, by number of rows n:

kind      n <= 1,000,000 ``Flat`` (exact); n <= 20,000,000 ``IVF{nlist},SQfp16``; above ``IVF{nlist},PQ{m}``.
nlist     the power of two nearest to 4 sqrt(n) (in the exponent), at most n/39: k-means wants 39 rows a list.
sample    40 rows for each list, drawn without replacement with ``SEED``, at least 40 x 256 for PQ (or all rows).
m         bytes of a PQ code: the largest divisor of dim that is at most dim/8 (64 for 512).
nprobe    lists looked through: nlist/64, at least 8, at most nlist.
reranked  candidates for each neighbour wanted: 10 where codes lose precision (PQ, and whatever was made elsewhere).

Every choice is stored in the manifest, and beside it the share of the true 100 nearest that a search finds, over 200
rows of the index as queries (``recall_at_100``) and over 200 captions, where it has some (``caption_recall_at_100``).
Codes are kept in memory while the structure is made (n dim 2 bytes for SQfp16, n (m + 8) for PQ) and mapped afterwards;
the vectors themselves are read block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from retrieval.vectors import blocks
from runner.errors import DataError

FaissChoice = Literal["auto", "flat", "ivf_sq", "ivf_pq"]

SEED = 20250
LARGEST_FLAT = 1_000_000
LARGEST_SQ = 20_000_000
PQ_CENTROIDS = 256
ROWS_A_LIST = 40
BLOCK = 2**16
MEASURED_QUERIES = 200
MEASURED_K = 100


@dataclass(frozen=True)
class Structure:
    """``kind``: FAISS factory string; ``trained_on``: rows of the training sample. ``nlist``, ``nprobe`` and ``seed`` are
    None where there are no lists. An ``adopted`` structure was made elsewhere; ``nprobe`` then also is efSearch of HNSW."""

    kind: str
    nlist: int | None = None
    nprobe: int | None = None
    trained_on: int = 0
    seed: int | None = None
    adopted: bool = False

    @property
    def exact(self) -> bool:
        """Whether nothing can be missed."""
        return self.kind == "Flat" and not self.adopted

    @property
    def reranked(self) -> int:
        """Candidates for each neighbour wanted, to be ranked by the stored vectors."""
        return 10 if self.adopted or "PQ" in self.kind else 1

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> Structure:
        """The structure that a manifest names; manifests from before there was a choice name none: Flat."""
        stored = manifest.get("faiss") or {"kind": "Flat"}
        return cls(**{field.name: stored[field.name] for field in fields(cls) if field.name in stored})

    def described(self) -> dict[str, Any]:
        """As the manifest holds it, without what is measured."""
        return asdict(self)


def choose(rows: int, dim: int, choice: FaissChoice = "auto", nprobe: int | None = None) -> Structure:
    """The structure for ``rows`` vectors by the rules above. Raises ``DataError`` where PQ has too few rows to be trained."""
    if choice == "auto":
        choice = "flat" if rows <= LARGEST_FLAT else "ivf_sq" if rows <= LARGEST_SQ else "ivf_pq"
    if choice == "flat" or not rows:
        return Structure("Flat")
    if choice == "ivf_pq" and rows < PQ_CENTROIDS:
        raise DataError(
            f"faiss: ivf_pq needs {PQ_CENTROIDS} rows to be trained, the index has {rows}", hint="Write faiss: auto."
        )
    lists = list_count(rows)
    code = "SQfp16" if choice == "ivf_sq" else f"PQ{code_bytes(dim)}"
    sample = ROWS_A_LIST * (max(lists, PQ_CENTROIDS) if choice == "ivf_pq" else lists)
    probes = min(lists, nprobe or max(8, lists // 64))
    return Structure(f"IVF{lists},{code}", lists, probes, min(rows, sample), SEED)


def list_count(rows: int) -> int:
    """nlist for an index of ``rows`` vectors."""
    power: int = 2 ** round(math.log2(4 * math.sqrt(rows)))
    return max(1, min(power, rows // 39))


def code_bytes(dim: int) -> int:
    """Bytes of a PQ code: the largest divisor of ``dim`` that is at most dim/8."""
    return max(m for m in range(1, max(1, dim // 8) + 1) if dim % m == 0)


def make(structure: Structure, vectors: Any, check: Callable[[], None] = lambda: None) -> Any:
    """An inner-product FAISS index over float [n, dim], made block by block; ``check`` may raise between blocks."""
    import faiss

    found = faiss.index_factory(vectors.shape[1], structure.kind, faiss.METRIC_INNER_PRODUCT)
    if structure.nlist is not None:
        _train(found, structure, vectors)
    for _, block in blocks(vectors, BLOCK):
        check()
        found.add(block)
    return set_probes(found, structure.nprobe)


def _train(found: Any, structure: Structure, vectors: Any) -> None:
    found.cp.seed = SEED
    if hasattr(found, "pq"):
        found.do_polysemous_training = False  # orders codes for a search that is not used here, seconds a byte
        found.pq.cp.seed = SEED
        found.pq.cp.min_points_per_centroid = 1  # a forced PQ on few rows is the user's wish, no reason for warnings
    chosen = np.random.default_rng(SEED).choice(len(vectors), structure.trained_on, replace=False)
    found.train(np.ascontiguousarray(vectors[np.sort(chosen)], np.float32))


def set_probes(found: Any, nprobe: int | None) -> Any:
    """Set nprobe of an IVF, or efSearch of an HNSW graph; the same index is returned."""
    if nprobe is not None:
        lists = ivf_of(found)
        if lists is not None:
            lists.nprobe = min(nprobe, lists.nlist)
        elif hasattr(found, "hnsw"):
            found.hnsw.efSearch = nprobe
    return found


def ivf_of(found: Any) -> Any:
    """The IVF inside an index, also behind a rotation; None where there is none."""
    import faiss

    lists = faiss.try_extract_index_ivf(found)
    return None if lists is None else faiss.downcast_index(lists)


def write(found: Any, file: IO[bytes]) -> None:
    """Write the index to an open file, without a copy in memory."""
    import faiss

    faiss.write_index(found, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def read(path: Path, structure: Structure, rows: int, dim: int) -> Any:
    """The stored index, its lists memory-mapped, if it is there and is what ``structure`` says, else None."""
    import faiss

    if not path.is_file():
        return None
    try:
        found = faiss.read_index(str(path), 0 if structure.exact else faiss.IO_FLAG_MMAP)
    except RuntimeError:  # a damaged file: it can be made again from the vectors
        return None
    lists = ivf_of(found)
    same = structure.adopted or (None if lists is None else lists.nlist) == structure.nlist
    if (found.ntotal, found.d) != (rows, dim) or not same:
        return None
    return set_probes(found, structure.nprobe)
