import json
import pickle
import re
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_encoder import ColourEncoder

from retrieval import foreign
from retrieval.adopt import import_folder
from retrieval.index import build, open_index, search
from retrieval.steps import import_clip_retrieval
from retrieval.steps import search as search_step
from runner.context import local_context
from runner.data.images import decode
from runner.data.sources import open_source
from runner.errors import DataError

PARTITION = 5


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def write_partition(made, number, vectors, rows):
    (made / "img_emb").mkdir(parents=True, exist_ok=True)
    (made / "metadata").mkdir(parents=True, exist_ok=True)
    np.save(made / "img_emb" / f"img_emb_{number}.npy", vectors)
    pq.write_table(pa.Table.from_pylist(rows), made / "metadata" / f"metadata_{number}.parquet")


@pytest.fixture
def made(tmp_path, folder):
    """What clip-retrieval writes for the 60 pictures: 12 partitions, so that text order would put 10 before 2."""
    encoder, paths = ColourEncoder(), sorted(folder.rglob("*.png"), key=lambda p: p.name)
    vectors = encoder.encode_images([decode(p.read_bytes()) for p in paths]).astype(np.float16)
    for number in range(12):
        chosen = slice(number * PARTITION, (number + 1) * PARTITION)
        rows = [{"image_path": str(p), "caption": f"a {p.parent.name} square"} for p in paths[chosen]]
        write_partition(tmp_path / "made", number, vectors[chosen], rows)
    return tmp_path / "made"


def take(tmp_path, made, folder, encoder=None, name="i", **more):
    ctx = local_context(tmp_path / f"w-{name}")
    index = import_folder(tmp_path / name, made, str(folder), encoder or ColourEncoder(), ctx, **more)
    return index, [message["text"] for message in ctx.journal.messages]


def counts_of(index):
    return index.sources[0]["problems"]["counts"]


def stacked(made):
    return np.concatenate([np.load(p.vectors) for p in foreign.partitions(made)]).astype(np.float32)


def test_partitions_come_in_numeric_order(made):
    assert [p.number for p in foreign.partitions(made)] == list(range(12))


def test_every_row_keeps_its_own_vector_and_picture(tmp_path, made, folder):
    encoder = ColourEncoder()
    index, said = take(tmp_path, made, folder, encoder)
    assert len(index) == 60 and said == []
    assert [Path(uri).name for uri in index.rows["uri"].to_pylist()] == [f"{n:03d}.png" for n in range(60)]
    own = build(tmp_path / "own", {"folder": str(folder)}, ColourEncoder(), local_context(tmp_path / "w"))
    by_uri = {row["uri"]: (row, own.vectors[n]) for n, row in enumerate(own.rows.to_pylist())}
    for n, row in enumerate(index.rows.to_pylist()):
        expected, vector = by_uri[row["uri"]]
        assert {**row, "caption": None} == {**expected, "caption": None}
        assert np.allclose(index.vectors[n].astype(float), vector.astype(float), atol=2e-3)
    assert len(index.caption_rows) == 60 and index.sources[0]["captioned"] == 60
    # Only the sample of the check was embedded.
    assert encoder.embedded == 60
    uris = index.rows["uri"].to_pylist()[:3]
    again = dict(open_source(json.loads(json.dumps(index.sources[0]["spec"]))).read_many(uris))
    assert again == {uri: (folder / uri).read_bytes() for uri in uris}


def test_a_second_import_does_nothing_again(tmp_path, made, folder):
    take(tmp_path, made, folder)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "i").iterdir()}
    again = ColourEncoder()
    index, _ = take(tmp_path, made, folder, again)
    assert again.embedded == 0 and len(index) == 60
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "i").iterdir()} == before
    next((tmp_path / "i").glob("shard-*.json")).unlink()
    assert len(take(tmp_path, made, folder)[0]) == 60


def test_a_search_over_the_import_is_that_over_our_own_index(tmp_path, made, folder):
    index, _ = take(tmp_path, made, folder)
    own = build(tmp_path / "own", {"folder": str(folder)}, ColourEncoder(), local_context(tmp_path / "w"))
    query = ColourEncoder().encode_texts(["red", "a blue thing"])
    uris = [[i.rows["uri"][int(n)].as_py() for n in search(i, query, 15)[1].ravel()] for i in (index, own)]
    assert set(uris[0][:15]) == set(uris[1][:15]) and set(uris[0][15:]) == set(uris[1][15:])


def test_float32_and_unnormalised_embeddings_are_stored_as_unit_half_precision(tmp_path, made, folder):
    for part in foreign.partitions(made):
        np.save(part.vectors, 7 * np.load(part.vectors).astype(np.float32))
    index, _ = take(tmp_path, made, folder)
    assert index.vectors.dtype == np.float16
    assert np.allclose(np.linalg.norm(index.vectors.astype(float), axis=1), 1, atol=1e-3)


# --- damage ----------------------------------------------------------------------------------------------------------


def cut_rows(made):
    path = made / "img_emb" / "img_emb_10.npy"
    np.save(path, np.load(path)[:-1])


def cut_file(made):
    path = made / "img_emb" / "img_emb_10.npy"
    path.write_bytes(path.read_bytes()[:-40])


def bomb(made):
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (1000000000000, 64), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    path = made / "img_emb" / "img_emb_10.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 100)


def objects(made):
    np.save(made / "img_emb" / "img_emb_10.npy", np.array([[{"a": 1}]] * 5, object), allow_pickle=True)


def pickled(made):
    (made / "img_emb" / "img_emb_10.npy").write_bytes(pickle.dumps([1.0]))


def integers(made):
    np.save(made / "img_emb" / "img_emb_10.npy", np.ones((5, 64), np.int32))


def flat(made):
    np.save(made / "img_emb" / "img_emb_10.npy", np.ones(5, np.float32))


def no_metadata(made):
    (made / "metadata" / "metadata_10.parquet").unlink()


def no_embeddings(made):
    (made / "img_emb" / "img_emb_10.npy").unlink()


def torn_metadata(made):
    path = made / "metadata" / "metadata_10.parquet"
    path.write_bytes(path.read_bytes()[:-9])


DAMAGE = [
    (cut_rows, "4 embeddings"), (cut_file, "bytes"), (bomb, "header"), (objects, "Python objects"), (pickled, "no array"),
    (integers, "int32"), (flat, "expected float16"), (no_metadata, "metadata_10"), (no_embeddings, "img_emb_10"),
    (torn_metadata, "metadata_10|magic|Parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), DAMAGE, ids=[d.__name__ for d, _ in DAMAGE])
def test_a_damaged_partition_is_named_and_refused_or_left_out(tmp_path, made, folder, damage, said):
    damage(made)
    with pytest.raises(DataError, match="partition 10 is damaged") as error:
        take(tmp_path, made, folder, name="refused")
    assert re.search(said, error.value.message) and "skip_damaged" in error.value.hint
    assert not (tmp_path / "refused" / "manifest.json").exists()
    index, messages = take(tmp_path, made, folder, skip_damaged=True)
    names = {Path(uri).name for uri in index.rows["uri"].to_pylist()}
    assert len(index) == 55 and not names & {f"{n:03d}.png" for n in range(50, 55)}
    assert counts_of(index) == {"damaged_partition": 1} and any("partition 10" in text for text in messages)


def test_no_pickle_is_run(tmp_path, made, folder):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    np.save(made / "img_emb" / "img_emb_3.npy", np.array([[Payload()]] * 5, object), allow_pickle=True)
    with pytest.raises(DataError, match="partition 3"):
        take(tmp_path, made, folder)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_clip_folder_is_said_to_be_none(tmp_path, made, folder):
    with pytest.raises(DataError, match="no clip-retrieval folder"):
        take(tmp_path, folder, folder)
    (made / "img_emb" / "img_emb_007.npy").write_bytes((made / "img_emb" / "img_emb_7.npy").read_bytes())
    with pytest.raises(DataError, match="same partition 7"):
        take(tmp_path, made, folder)


def test_metadata_without_paths_are_refused(tmp_path, made, folder):
    rows = [{"url": "http://example.org/a.jpg", "caption": "a"}] * PARTITION
    pq.write_table(pa.Table.from_pylist(rows), made / "metadata" / "metadata_4.parquet")
    with pytest.raises(DataError, match="no column image_path"):
        take(tmp_path, made, folder)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_rows_without_a_usable_picture_are_left_out_and_counted(tmp_path, made, folder, make_picture):
    (tmp_path / "secret.png").write_bytes(make_picture(1))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "cut.png").write_bytes(make_picture(2)[:300])
    paths = ["link.png", "../secret.png", str(tmp_path / "secret.png"), "cut.png", None]
    good = stacked(made)[:1].repeat(5, 0).astype(np.float16)
    write_partition(made, 12, good, [{"image_path": path, "caption": None} for path in paths])
    zero = np.zeros((2, 64), np.float16)
    zero[1] = np.nan
    rows = [{"image_path": path, "caption": "x"} for path in ("red/000.png", "red/003.png")]
    write_partition(made, 13, zero, rows)
    (folder / "green" / "001.png").unlink()
    index, messages = take(tmp_path, made, folder)
    assert len(index) == 59
    counts = {"bad_vector": 2, "missing_file": 1, "no_path": 1, "outside_root": 3, "truncated": 1}
    assert {k if k != "undecodable" else "truncated": v for k, v in counts_of(index).items()} == counts
    source = index.sources[0]
    assert (source["records"], source["embedded"], source["unreadable"]) == (67, 59, 1)
    assert any("3 outside_root" in text for text in messages)


def test_relative_paths_and_paths_through_a_linked_root_are_the_same(tmp_path, made, folder):
    expected = take(tmp_path, made, folder)[0].rows
    (tmp_path / "linked").symlink_to(folder)
    assert take(tmp_path, made, tmp_path / "linked", name="linked")[0].rows["uri"].equals(expected["uri"])
    for part in foreign.partitions(made):
        table = pq.read_table(part.metadata).to_pylist()
        rows = [{**row, "image_path": str(Path(row["image_path"]).relative_to(folder))} for row in table]
        pq.write_table(pa.Table.from_pylist(rows), part.metadata)
    assert take(tmp_path, made, folder, name="relative")[0].rows["uri"].equals(expected["uri"])


# --- the encoder -----------------------------------------------------------------------------------------------------


def test_another_encoder_is_refused(tmp_path, made, folder):
    class Other(ColourEncoder):
        def encode_prepared(self, batch):
            return np.roll(super().encode_prepared(batch), 7, axis=1)

    with pytest.raises(DataError, match=r"another encoder.*60 pictures"):
        take(tmp_path, made, folder, Other())


def test_another_length_is_refused(tmp_path, made, folder):
    class Shorter(ColourEncoder):
        dim = 32

    with pytest.raises(DataError, match="length 64, colours makes 32"):
        take(tmp_path, made, folder, Shorter())


def test_without_any_picture_the_encoder_cannot_be_checked(tmp_path, made, folder):
    (tmp_path / "empty").mkdir()
    index, messages = take(tmp_path, made, tmp_path / "empty")
    assert len(index) == 0 and any("could not be checked" in text for text in messages)
    assert counts_of(index) == {"outside_root": 60}


# --- autofaiss -------------------------------------------------------------------------------------------------------


def autofaiss(folder, vectors, kind, metric=faiss.METRIC_INNER_PRODUCT, **infos):
    folder.mkdir()
    found = faiss.index_factory(vectors.shape[1], kind, metric)
    if hasattr(found, "do_polysemous_training"):
        found.do_polysemous_training = False  # seconds, for nothing here
    found.train(vectors)
    found.add(vectors)
    faiss.write_index(found, str(folder / "knn.index"))
    infos = {"index_key": kind, "nb vectors": len(vectors), "vectors dimension": vectors.shape[1], **infos}
    (folder / "index_infos.json").write_text(json.dumps(infos))
    return folder


@pytest.mark.parametrize(
    ("kind", "param", "nprobe"),
    [
        ("IVF4,Flat", "nprobe=3", 3), ("PCAR32,IVF2_HNSW4,PQ8x4fs", "nprobe=2,ht=2048", 2), ("HNSW8", "efSearch=40", 40),
        ("IVF2,PQ8x4", "", 64), ("Flat", "", None),
    ],
)  # fmt: skip
def test_a_given_structure_proposes_and_the_embeddings_decide(tmp_path, made, folder, kind, param, nprobe):
    given = autofaiss(tmp_path / "faiss", stacked(made), kind, index_param=param)
    exact, _ = take(tmp_path, made, folder, name="exact")
    index, said = take(tmp_path, made, folder, structure=given)
    stored = index.manifest["faiss"]
    assert said == [] and (stored["kind"], stored["nprobe"], stored["adopted"]) == (kind, nprobe, True)
    assert stored["recall_at_100"] >= 0.5 and stored["caption_recall_at_100"] is not None
    query = ColourEncoder().encode_texts(["red", "blue"])
    found, rows = search(index, query, 6)
    scores = query.astype(np.float64) @ index.vectors.astype(np.float64).T
    assert np.allclose(found, np.take_along_axis(scores, rows, 1), atol=1e-6)
    if nprobe is None or nprobe > 4:
        assert np.array_equal(rows, search(exact, query, 6)[1])
    # Where the file goes missing, the search is exact.
    (tmp_path / "i" / "faiss.index").unlink()
    assert np.array_equal(search(open_index(tmp_path / "i"), query, 6)[1], search(exact, query, 6)[1])


def test_a_users_nprobe_counts_more_than_the_recorded_one(tmp_path, made, folder):
    given = autofaiss(tmp_path / "faiss", stacked(made), "IVF4,Flat", index_param="nprobe=3")
    index, _ = take(tmp_path, made, folder, structure=given / "knn.index", nprobe=2)
    assert index.structure.nprobe == 2 and index.faiss_index.nprobe == 2


@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat", "SQfp16", "IVF4,SQfp16", "HNSW8"])
def test_vectors_are_read_back_where_nothing_is_lost(tmp_path, made, folder, kind):
    given = autofaiss(tmp_path / "faiss", stacked(made), kind)
    expected, _ = take(tmp_path, made, folder, name="expected")
    for path in (made / "img_emb").iterdir():
        path.unlink()
    index, _ = take(tmp_path, made, folder, structure=given)
    assert np.allclose(index.vectors.astype(float), expected.vectors.astype(float), atol=2e-3)
    assert index.rows.equals(expected.rows)


def test_vectors_are_not_read_back_from_lossy_codes(tmp_path, made, folder):
    given = autofaiss(tmp_path / "faiss", stacked(made), "IVF2,PQ8x4")
    for path in (made / "img_emb").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="lost precision"):
        take(tmp_path, made, folder, structure=given)
    with pytest.raises(DataError, match="no img_emb"):
        take(tmp_path, made, folder, name="without")


def test_a_structure_of_other_rows_is_not_used(tmp_path, made, folder):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(600, 64)).astype(np.float32)
    index, said = take(tmp_path, made, folder, structure=autofaiss(tmp_path / "many", noise, "Flat"), name="many")
    assert not index.structure.adopted and any("600 rows" in text for text in said)
    (folder / "red" / "000.png").unlink()
    given = autofaiss(tmp_path / "faiss", stacked(made), "Flat")
    index, said = take(tmp_path, made, folder, structure=given)
    assert len(index) == 59 and not index.structure.adopted and any("59 of 60 rows" in text for text in said)


@pytest.mark.parametrize("how", ["nonsense", "l2", "infos", "none"])
def test_a_structure_that_cannot_be_used_is_refused(tmp_path, made, folder, how):
    metric = faiss.METRIC_L2 if how == "l2" else faiss.METRIC_INNER_PRODUCT
    given = autofaiss(
        tmp_path / "faiss", stacked(made), "Flat", metric, **({"nb vectors": 7} if how == "infos" else {})
    )
    if how == "nonsense":
        (given / "knn.index").write_bytes(b"IxFI" + b"\xff" * 200)
    if how == "none":
        (given / "knn.index").unlink()
    said = {"nonsense": "cannot read", "l2": "inner product", "infos": "says 7", "none": "no FAISS index"}[how]
    with pytest.raises(DataError, match=said):
        take(tmp_path, made, folder, structure=given)


def test_a_structure_whose_lists_stand_in_another_file_is_refused(tmp_path, made, folder):
    given = autofaiss(tmp_path / "faiss", stacked(made), "IVF4,Flat")
    found = faiss.read_index(str(given / "knn.index"))
    lists = faiss.OnDiskInvertedLists(4, found.code_size, str(tmp_path / "elsewhere.ivfdata"))
    for number in range(4):
        size = found.invlists.list_size(number)
        if size:
            ids, codes = found.invlists.get_ids(number), found.invlists.get_codes(number)
            lists.add_entries(number, size, ids, codes)
    found.replace_invlists(lists)
    faiss.write_index(found, str(given / "knn.index"))
    with pytest.raises(DataError, match="another file"):
        take(tmp_path, made, folder, structure=given)


# --- the step --------------------------------------------------------------------------------------------------------


def test_the_imported_index_is_a_corpus_of_a_search(tmp_path, made, folder):
    from test_structure import asked

    encoder = ColourEncoder()
    built = import_clip_retrieval(local_context(tmp_path / "1"), encoder=encoder, folder=str(made), root=str(folder))
    assert built.sources.to_pylist()[0]["embedded"] == 60 and built.sources.to_pylist()[0]["kind"] == "folder"
    ctx = local_context(tmp_path / "2")
    found = search_step(ctx, encoder=encoder, corpus=built, queries=asked("a red thing"), k=4, min_side=8)
    kept = [row["uri"] for row in found.retrieval.to_pylist() if row["kept"]]
    assert kept and all(uri.startswith("red/") for uri in kept)
    assert dict(open_source(found.corpus[0]).read_many(kept)) == {uri: (folder / uri).read_bytes() for uri in kept}
