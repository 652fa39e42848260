"""Files of indexes that other tools made, read without trust: clip-retrieval folders and autofaiss structures.

    img_emb/img_emb_P.npy            float16 or float32 [rows, dim]
    metadata/metadata_P.parquet      one row each: image_path, caption, ...
    knn.index, index_infos.json      a FAISS index over the rows of all partitions

Partitions are taken in the numeric order of P, so that row r of the FAISS index is the r-th of their rows. A partition
is damaged where one of its files is missing, unreadable, or has another number of rows than the other.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrieval.storage import read_json
from retrieval.structure import Structure, ivf_of, set_probes
from runner.errors import DataError

DEFAULT_PROBES = 64
"""nprobe, or efSearch, of a structure whose maker left no value."""

_NUMBERED = re.compile(r"_(\d+)$")
_LOSSLESS = ("IndexFlat", "IndexFlatIP", "IndexIVFFlat", "IndexHNSWFlat")
_PROBE = (
    "import sys, faiss; i = faiss.read_index(sys.argv[1], faiss.IO_FLAG_MMAP); "
    "l = faiss.try_extract_index_ivf(i); "
    "l = l and faiss.downcast_InvertedLists(l.invlists); "
    "sys.exit(3 if getattr(l, 'filename', '') else 0)"
)


@dataclass(frozen=True)
class Partition:
    """One pair of files; ``vectors`` is None where the vectors are to come from a FAISS index."""

    number: int
    metadata: Path
    vectors: Path | None

    @property
    def name(self) -> str:
        """As problems and shards call it."""
        return f"partition {self.number}"


def partitions(folder: Path) -> list[Partition]:
    """The partitions in numeric order. Raises ``DataError`` where there is none, or two have the same number."""
    metadata = _numbered(folder / "metadata", "metadata_*.parquet")
    vectors = _numbered(folder / "img_emb", "img_emb_*.npy")
    numbers = sorted(metadata.keys() | vectors.keys())
    if not numbers:
        raise DataError(
            f"{folder} is no clip-retrieval folder: it holds no metadata/metadata_*.parquet",
            hint="Give the output folder of clip-retrieval inference, with img_emb/ and metadata/.",
        )
    found = []
    for number in numbers:
        beside = folder / "img_emb" / f"img_emb_{number}.npy" if vectors else None
        described = metadata.get(number, folder / "metadata" / f"metadata_{number}.parquet")
        found.append(Partition(number, described, vectors.get(number, beside)))
    return found


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(pattern)):
        match = _NUMBERED.search(path.stem)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise DataError(f"{found[number].name} and {path.name} are the same partition {number}")
        found[number] = path
    return found


def read_embeddings(path: Path) -> NDArray[Any]:
    """Memory-mapped float16 or float32 [rows, dim]. Raises ``DataError``; no pickle is ever read.

    The header is compared with the size of the file before anything is mapped.
    """
    try:
        shape, dtype, offset = _header(path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no array that can be read ({error})") from error
    if dtype.hasobject:
        raise DataError(f"{path} holds Python objects; they could run code and are not read")
    if dtype.kind != "f" or dtype.itemsize not in (2, 4) or len(shape) != 2 or min(shape) < 0:
        raise DataError(f"{path} holds {dtype} {shape}, expected float16 or float32 [rows, dim]")
    expected = offset + shape[0] * shape[1] * dtype.itemsize
    if path.stat().st_size != expected:
        raise DataError(f"{path} has {path.stat().st_size} bytes, its header {shape} {dtype} says {expected}")
    if not shape[0] * shape[1]:
        return np.zeros(shape, dtype)
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"npy version {version}")
        shape, _, dtype = read(file)
        return shape, dtype, file.tell()


def read_metadata(path: Path) -> pa.Table:
    """image_path and caption (null where there is no such column) as strings. Raises ``DataError``."""
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in ("image_path", "caption") if name in file.schema_arrow.names]
            table = file.read(columns=names)
        if "image_path" not in names:
            raise DataError(
                f"{path} has no column image_path, so its pictures cannot be read",
                hint="Pictures behind addresses must be fetched first; the index needs files below `root:`.",
            )
        missing = pa.nulls(len(table), pa.string())
        columns = {name: table[name] if name in names else missing for name in ("image_path", "caption")}
        return pa.table({name: column.cast(pa.string()) for name, column in columns.items()})
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def check_partition(partition: Partition) -> tuple[int, int | None]:
    """Rows, and dim where the partition has vectors. Raises ``DataError`` naming a damaged partition."""
    try:
        with pq.ParquetFile(partition.metadata) as file:
            rows = int(file.metadata.num_rows)
        vectors = None if partition.vectors is None else read_embeddings(partition.vectors)
    except (OSError, pa.ArrowException, DataError) as error:
        raise DataError(f"{partition.name} is damaged: {getattr(error, 'message', error)}") from error
    if vectors is not None and len(vectors) != rows:
        raise DataError(
            f"{partition.name} is damaged: {len(vectors)} embeddings in {partition.vectors}, "
            f"{rows} rows in {partition.metadata}"
        )
    return rows, None if vectors is None else int(vectors.shape[1])


# --- FAISS structures ------------------------------------------------------------------------------------------------


def structure_file(path: Path) -> Path:
    """The FAISS index itself: the file given, or ``knn.index`` or ``image.index`` of a folder. Raises ``DataError``."""
    names = ("knn.index", "image.index")
    found = [path] if path.is_file() else [path / name for name in names if (path / name).is_file()]
    if not found:
        raise DataError(f"{path} holds no FAISS index", hint=f"Expected {' or '.join(names)}.")
    return found[0]


def read_structure(path: Path, nprobe: int | None) -> tuple[Structure, Any]:
    """An inner-product index that autofaiss or clip-retrieval made, read into memory, with nprobe or efSearch set.

    ``nprobe`` None: what ``index_infos.json`` beside it says, else ``DEFAULT_PROBES``. Raises ``DataError``.
    """
    import faiss

    file = structure_file(path)
    # A damaged file may bring a process down: one that loses nothing goes first.
    tried = subprocess.run(  # noqa: S603  (our own words; the file is an argument)
        [sys.executable, "-I", "-c", _PROBE, str(file)], capture_output=True, text=True, errors="replace"
    )
    if tried.returncode:
        why = "its lists stand in another file" if tried.returncode == 3 else "FAISS cannot read it"
        raise DataError(f"{file}: {why}", hint="Leave `structure:` out; one is made from the embeddings.")
    found = faiss.read_index(str(file))
    if found.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise DataError(f"{file} does not compare by inner product", hint="Make it with metric_type ip.")
    infos = _infos(file)
    for name, here in (("nb vectors", found.ntotal), ("vectors dimension", found.d)):
        if infos.get(name, here) != here:
            raise DataError(f"{file} has {here} as {name}, index_infos.json says {infos[name]}")
    lists = ivf_of(found)
    probes = nprobe or _recorded(str(infos.get("index_param", "")), lists is not None) or DEFAULT_PROBES
    has_probes = lists is not None or hasattr(found, "hnsw")
    kind = str(infos.get("index_key") or type(found).__name__)
    structure = Structure(
        kind, None if lists is None else int(lists.nlist), probes if has_probes else None, adopted=True
    )
    return structure, set_probes(found, structure.nprobe)


def _infos(file: Path) -> dict[str, Any]:
    path = file.with_name("index_infos.json")
    return read_json(path) if path.is_file() else {}


def _recorded(parameters: str, lists: bool) -> int | None:
    match = re.search(rf"\b{'nprobe' if lists else 'efSearch'}=(\d+)", parameters)
    return int(match[1]) if match else None


def reconstruct(found: Any, start: int, rows: int) -> NDArray[np.float32]:
    """Vectors float32 [rows, dim] that an index holds. Raises ``DataError`` where its codes have lost precision."""
    import faiss

    inner = faiss.downcast_index(found)
    quantizer = getattr(inner, "sq", None)
    half = quantizer is not None and quantizer.qtype == faiss.ScalarQuantizer.QT_fp16
    if not half and type(inner).__name__ not in _LOSSLESS:
        raise DataError(
            f"vectors cannot be read back from a {type(inner).__name__}: its codes have lost precision",
            hint="Give the folder with img_emb/; the structure then only proposes candidates.",
        )
    if ivf_of(inner) is not None:
        ivf_of(inner).make_direct_map()
    vectors: NDArray[np.float32] = inner.reconstruct_n(start, rows)
    return vectors
