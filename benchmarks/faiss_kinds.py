"""The search structures of an index against brute force in numpy, on the same vectors in the same run.

    python benchmarks/faiss_kinds.py [--rows 10000 100000 1000000]

The vectors are synthetic: unit vectors of 256 dimensions around random centres (one for each 200 rows, cosine to the
centre about 0.7), queries are further draws around the same centres. Real embeddings are less even, so recall on them is
what the manifest of an index says, not this table. Searches go through retrieval as a spec's do: candidates from the
structure, similarities from the stored half-precision vectors. Time a query is that of a batch of 100.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from retrieval.nearest import nearest, nearly
from retrieval.structure import Structure, choose, list_count, make, read, write

DIM, QUERIES, K = 256, 100, 100
CLUSTER = 200
BLOCK = 2**16


def clustered(rows: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Memory-mapped float16 [rows, DIM] written to ``path``, and float32 queries [QUERIES, DIM]."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, rows // CLUSTER), DIM)).astype(np.float32)
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, DIM))
    for start in range(0, rows, BLOCK):
        stored[start : start + BLOCK] = around(centres, rng, min(BLOCK, rows - start))
    stored.flush()
    return np.load(path, mmap_mode="r", allow_pickle=False), around(centres, rng, QUERIES)


def around(centres: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Unit vectors float32 [count, DIM] near randomly chosen centres."""
    drawn = centres[rng.integers(len(centres), size=count)] + rng.normal(size=(count, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def brute_force(vectors: np.ndarray, queries: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds and places of the K largest products [queries, K], unordered, with the vectors as float32 in memory."""
    in_memory = vectors.astype(np.float32)
    return timed(lambda: np.argpartition(-(queries @ in_memory.T), K - 1, axis=1)[:, :K], 3)


def timed(function: Any, repeats: int) -> tuple[float, Any]:
    """Shortest of several runs in seconds, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """Share of the true neighbours that were found."""
    return float(np.mean([np.isin(t, f).mean() for f, t in zip(found, true, strict=True)]))


def pq_bytes(rows: int, dim: int) -> int:
    """Bytes of an IVF-PQ index: a code and an id of 8 bytes a row, centroids of the lists and of the code in float32."""
    structure = choose(rows, dim, "ivf_pq")
    code = int(structure.kind.rpartition("PQ")[2])
    return rows * (code + 8) + 4 * dim * list_count(rows) + 4 * dim * 256


def try_kind(structure: Structure, vectors: np.ndarray, queries: np.ndarray, true: np.ndarray, path: Path) -> str:
    """One line of the table."""
    making, made = timed(lambda: make(structure, vectors), 1)
    with path.open("wb") as file:
        write(made, file)
    del made
    stored = read(path, structure, *vectors.shape)
    if structure.exact:
        seconds, (_, found) = timed(lambda: nearest(vectors, queries, K, stored), 3)
    else:
        seconds, (_, found) = timed(lambda: nearly(vectors, queries, K, stored, structure.reranked), 3)
    probes = "" if structure.nprobe is None else f" nprobe {structure.nprobe}"
    return (
        f"  {structure.kind + probes:28} recall@{K} {recall(found, true):.4f}  {1000 * seconds / QUERIES:8.3f} ms/query  "
        f"file {path.stat().st_size / 2**20:8.1f} MiB  made in {making:6.1f} s"
    )


def compare(rows: int, folder: Path) -> None:
    """Print the table for one size."""
    vectors, queries = clustered(rows, folder / "vectors.npy")
    seconds, true = brute_force(vectors, queries)
    print(f"{rows:,} x {DIM}, synthetic; auto takes {choose(rows, DIM).kind}")
    print(f"  {'numpy, float32 in memory':28} recall@{K} 1.0000  {1000 * seconds / QUERIES:8.3f} ms/query")
    for choice in ("flat", "ivf_sq", "ivf_pq"):
        print(try_kind(choose(rows, DIM, choice), vectors, queries, true, folder / f"{choice}.index"), flush=True)
    measured, derived = (folder / "ivf_pq.index").stat().st_size, pq_bytes(rows, DIM)
    print(f"  IVF-PQ by the formula {derived / 2**20:.1f} MiB, the file is {100 * (measured / derived - 1):+.2f} %")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Search structures against brute force.")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    print(f"{faiss.omp_get_max_threads()} thread(s)")
    for rows in parser.parse_args().rows:
        with tempfile.TemporaryDirectory() as folder:
            compare(rows, Path(folder))
    print(
        f"10,000,000 x 512 as {choose(10**7, 512, 'ivf_pq').kind}, by the formula: {pq_bytes(10**7, 512) / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
