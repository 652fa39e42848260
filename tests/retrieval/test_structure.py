import json

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_encoder import ColourEncoder

from retrieval import vectors as stored_vectors
from retrieval.index import Index, build, open_index, search
from retrieval.nearest import measure, nearest, nearly, sample
from retrieval.quality import best_contrast, components, on_target
from retrieval.steps import index as index_step
from retrieval.steps import search as search_step
from retrieval.structure import Structure, choose, code_bytes, list_count, make, read, write
from retrieval.vectors import MixedVectors, StoredVectors
from runner.artifacts import Captions
from runner.context import local_context
from runner.errors import DataError, Interrupted


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads of FAISS wait for each other longer than these small searches take."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def clustered(rows, dim, seed=0, centres=40):
    """Synthetic unit vectors around random centres, float16."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, dim))
    found = middle[rng.integers(centres, size=rows)] + 0.7 * rng.normal(size=(rows, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def brute(vectors, queries, k):
    scores = queries.astype(np.float64) @ np.asarray(vectors, np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


# --- the rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "dim", "kind", "nprobe", "trained_on"),
    [
        (1_000_000, 512, "Flat", None, 0),
        (1_000_001, 512, "IVF4096,SQfp16", 64, 163_840),
        (12_400_000, 512, "IVF16384,SQfp16", 256, 655_360),
        (20_000_000, 512, "IVF16384,SQfp16", 256, 655_360),
        (20_000_001, 512, "IVF16384,PQ64", 256, 655_360),
        (400_000_000, 768, "IVF65536,PQ96", 1024, 2_621_440),
    ],
)
def test_the_kind_follows_the_size(rows, dim, kind, nprobe, trained_on):
    found = choose(rows, dim)
    assert (found.kind, found.nprobe, found.trained_on) == (kind, nprobe, trained_on)
    assert found.exact == (kind == "Flat")


@given(st.integers(1, 10**9), st.integers(1, 2048))
def test_every_size_has_lists_that_can_be_filled_and_a_code_that_divides(rows, dim):
    lists = list_count(rows)
    assert 1 <= lists <= max(1, rows / 39)
    assert dim % code_bytes(dim) == 0 and 1 <= code_bytes(dim) <= max(1, dim / 8)
    for choice in ("ivf_sq", "ivf_pq"):
        if choice == "ivf_sq" or rows >= 256:
            found = choose(rows, dim, choice)
            assert 1 <= found.nprobe <= found.nlist == lists and lists <= found.trained_on <= rows


def test_the_user_can_force_kind_and_probes():
    assert choose(5000, 64, "ivf_sq", 3).nprobe == 3
    assert choose(5000, 64, "ivf_sq", 10**6).nprobe == choose(5000, 64, "ivf_sq").nlist
    assert choose(10**8, 64, "flat").exact
    assert choose(0, 64, "ivf_pq").exact
    with pytest.raises(DataError, match="256 rows"):
        choose(100, 64, "ivf_pq")


def test_a_manifest_without_structure_is_flat():
    assert Structure.of({}) == Structure("Flat")
    described = choose(9000, 64, "ivf_pq").described()
    assert Structure.of(json.loads(json.dumps({"faiss": described | {"recall_at_100": 0.5}}))).described() == described


# --- structures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["ivf_sq", "ivf_pq"])
def test_all_lists_looked_through_give_the_exact_answer(choice):
    vectors = clustered(3000, 32)
    structure = choose(3000, 32, choice, nprobe=10**6)
    made = make(structure, vectors)
    queries = sample(vectors)[:20]
    # Candidates from PQ codes are no full guarantee, 10 k of them on 3,000 rows are.
    found, places = nearly(vectors, queries, 200, made)
    true, expected = nearest(vectors, queries, 200)
    if choice == "ivf_sq":
        assert np.array_equal(places, expected) and np.array_equal(found, true)
    assert (places == expected).mean() > 0.98
    chosen = np.take_along_axis(queries.astype(np.float64) @ vectors.astype(np.float64).T, places, 1)
    assert np.allclose(found, chosen, atol=1e-6), "similarities are those of the stored vectors, not of the codes"


def test_recall_is_the_share_of_the_true_neighbours_and_grows_with_nprobe():
    vectors = clustered(4000, 32, centres=400)
    queries = sample(vectors)
    assert len(queries) == 200
    recalls = []
    for nprobe in (1, 4, 10**6):
        made = make(choose(4000, 32, "ivf_sq", nprobe), vectors)
        recalls.append(measure(vectors, queries, made, 5))
        _, places = nearly(vectors, queries, 5, made)
        true = brute(vectors, queries, 5)
        share = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(places.tolist(), true.tolist(), strict=True)])
        assert recalls[-1] == pytest.approx(share, abs=2e-3)
    assert recalls[0] < recalls[1] < recalls[2] == 1.0


def test_a_query_whose_lists_are_nearly_empty_is_still_answered_in_full():
    vectors = np.concatenate([clustered(400, 8, centres=1), -clustered(5, 8, centres=1)]).astype(np.float16)
    made = make(choose(len(vectors), 8, "ivf_sq", nprobe=1), vectors)
    queries = vectors.astype(np.float32)
    assert (made.search(queries, 300)[1] < 0).any(), "one list does not hold 300 rows"
    _, places = nearly(vectors, queries, 300, made)
    assert (places >= 0).all() and all(len(set(row)) == 300 for row in places.tolist())


@pytest.mark.parametrize("choice", ["flat", "ivf_sq", "ivf_pq"])
def test_a_structure_is_the_same_each_time_and_survives_the_disk(tmp_path, choice):
    vectors = clustered(2000, 16)
    structure = choose(2000, 16, choice, nprobe=5)
    paths = [tmp_path / "a.index", tmp_path / "b.index"]
    for path in paths:
        with path.open("wb") as file:
            write(make(structure, vectors), file)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    queries = sample(vectors)
    loaded = read(paths[0], structure, 2000, 16)
    assert np.array_equal(loaded.search(queries, 50)[1], make(structure, vectors).search(queries, 50)[1])
    assert read(paths[0], structure, 2001, 16) is None and read(paths[0], structure, 2000, 8) is None
    other = choose(2000, 16, "flat" if choice != "flat" else "ivf_sq")
    assert read(paths[0], other, 2000, 16) is None, "the file is not what the manifest says"
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    assert read(paths[0], structure, 2000, 16) is None


def test_making_can_be_stopped_between_blocks(monkeypatch):
    monkeypatch.setattr("retrieval.structure.BLOCK", 100)
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 3:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        make(Structure("Flat"), clustered(1000, 8), check)


# --- vectors on disk -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=8), st.data())
def test_stored_vectors_give_what_an_array_would(counts, data):
    rng = np.random.default_rng(sum(counts))
    parts = [rng.normal(size=(count, 4)).astype(np.float16) for count in counts]
    whole = np.concatenate([np.zeros((0, 4), np.float16), *parts])
    stored = StoredVectors(parts.__getitem__, counts, 4)
    assert len(stored) == len(whole) and stored.shape == whole.shape and stored.dtype == whole.dtype
    assert np.array_equal(stored[0:7], whole[0:7]) and np.array_equal(stored[:], whole)
    if len(whole):
        shape = hnp.array_shapes(min_dims=0, max_dims=2, max_side=6)
        rows = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, len(whole) - 1)))
        assert np.array_equal(stored[rows], whole[rows])
        for wrong in (len(whole), -1):
            with pytest.raises(IndexError):
                stored[np.array([0, wrong])]


def test_mixed_vectors_are_the_mean_where_there_is_a_caption():
    images, captions = clustered(50, 8), clustered(12, 8, seed=1)
    captioned = np.sort(np.random.default_rng(2).choice(50, 12, replace=False))
    mixed = images.astype(np.float32)
    mixed[captioned] = (mixed[captioned] + captions) / 2
    stored = StoredVectors([images[:20], images[20:]].__getitem__, [20, 30], 8)
    rows = np.random.default_rng(3).integers(0, 50, (7, 9))
    assert np.array_equal(MixedVectors(stored, captions, captioned)[rows], mixed.astype(np.float16)[rows])


@given(st.integers(1, 400), st.integers(1, 60))
def test_going_through_blocks_finds_what_brute_force_finds(rows, k):
    vectors = clustered(rows, 8, seed=rows)
    stored = StoredVectors([vectors[: rows // 3], vectors[rows // 3 :]].__getitem__, [rows // 3, rows - rows // 3], 8)
    queries = sample(vectors)[:5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.nearest.BLOCK", 64)
        similarities, places = nearest(stored, queries, k)
    products = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    expected = np.lexsort((np.broadcast_to(np.arange(rows), products.shape), -products), axis=1)[:, :k]
    assert np.allclose(similarities, np.take_along_axis(products, expected, 1), atol=1e-6)
    assert np.array_equal(places, expected) or np.allclose(np.take_along_axis(products, places, 1), similarities)


# --- the index -------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_disk(monkeypatch):
    """Every index counts as too large for memory."""
    monkeypatch.setattr("retrieval.index.IN_MEMORY", 0)
    assert stored_vectors.IN_MEMORY > 0


def test_an_index_on_disk_answers_as_one_in_memory(tmp_path, folder, encoder, ctx, monkeypatch):
    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    queries = encoder.encode_texts(["a red thing", "blue"])
    expected = {s: search(index, queries, 12, similarity=s) for s in ("image", "caption", "mean")}
    monkeypatch.setattr("retrieval.index.IN_MEMORY", 0)
    opened = open_index(tmp_path / "i")
    assert isinstance(opened.vectors, StoredVectors)
    for similarity, (found, rows) in expected.items():
        again = search(opened, queries, 12, similarity=similarity)
        assert np.array_equal(again[0], found) and np.array_equal(again[1], rows)
    small, large = index.vectors, opened.vectors
    row = np.array([3, 59, 3, 0])
    group = np.zeros(4, np.int64)
    assert np.array_equal(components(group, row, small, 0.9), components(group, row, large, 0.9))
    contrast = [queries]
    assert np.array_equal(best_contrast(group, row, small, contrast), best_contrast(group, row, large, contrast))
    assert np.array_equal(on_target(group, row, small, queries), on_target(group, row, large, queries))


def test_an_index_is_built_the_same_from_disk(tmp_path, folder, ctx, on_disk):
    build(tmp_path / "disk", {"folder": str(folder)}, ColourEncoder(), ctx, faiss="ivf_sq")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.index.IN_MEMORY", 2**28)
        build(tmp_path / "memory", {"folder": str(folder)}, ColourEncoder(), ctx, faiss="ivf_sq")
    for name in ("faiss.index", "manifest.json"):
        assert (tmp_path / "disk" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes()


def test_the_manifest_says_which_structure_and_what_it_finds(tmp_path, folder, encoder, ctx):
    exact = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    assert exact.manifest["faiss"] == Structure("Flat").described() and exact.recalls == {}
    forced = build(tmp_path / "i", {"folder": str(folder)}, ColourEncoder(), ctx, faiss="ivf_sq", nprobe=1)
    stored = json.loads((tmp_path / "i" / "manifest.json").read_text())["faiss"]
    assert (stored["kind"], stored["nlist"], stored["nprobe"], stored["trained_on"]) == ("IVF1,SQfp16", 1, 1, 40)
    assert stored["seed"] == 20250
    assert forced.recalls == {"recall_at_100": 1.0, "caption_recall_at_100": 1.0}, "one list holds everything"
    assert forced.structure.kind == "IVF1,SQfp16" and forced.faiss_index.nprobe == 1


def test_another_structure_embeds_nothing_again(tmp_path, folder, ctx):
    build(tmp_path / "i", {"folder": str(folder)}, ColourEncoder(), ctx)
    again = ColourEncoder()
    index = build(tmp_path / "i", {"folder": str(folder)}, again, ctx, faiss="ivf_sq")
    assert again.embedded == 0 and isinstance(index, Index) and not index.structure.exact
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "i").iterdir()}
    build(tmp_path / "i", {"folder": str(folder)}, again, ctx, faiss="ivf_sq")
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "i").iterdir()} == before


def test_an_index_from_before_the_choice_is_read_and_completed(tmp_path, folder, encoder, ctx):
    build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    path = tmp_path / "i" / "manifest.json"
    old = json.loads(path.read_text())
    del old["faiss"]
    path.write_text(json.dumps(old))
    assert open_index(tmp_path / "i").structure == Structure("Flat")
    again = ColourEncoder()
    assert build(tmp_path / "i", {"folder": str(folder)}, again, ctx).manifest["faiss"]["kind"] == "Flat"
    assert again.embedded == 0


def test_a_damaged_ivf_file_is_made_again(tmp_path, folder, encoder, ctx):
    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx, faiss="ivf_sq")
    query = encoder.encode_texts(["red", "blue"])
    expected = search(index, query, 9)
    (tmp_path / "i" / "faiss.index").unlink()  # a mapped file must not be cut short
    (tmp_path / "i" / "faiss.index").write_bytes(b"IwSq nonsense")
    found = search(open_index(tmp_path / "i"), query, 9)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


def asked(text):
    from results.tables import arrow_table

    task = {"description": "x", "outputs": [{"name": "c", "type": "multi", "values": ["red thing", "blue thing"]}]}
    row = {
        "resample": 0, "caption_id": "c0", "target": "red thing", "attribute": None, "value": None, "text": text,
        "is_neutral": True, "status": "kept",
    }  # fmt: skip
    return Captions(task=task, targets=["red thing"], captions=arrow_table("c2b_caption", [row]))


def test_a_search_says_that_it_is_approximate(tmp_path, folder, encoder):
    first, second = local_context(tmp_path / "1"), local_context(tmp_path / "2")
    built = index_step(first, encoder=encoder, corpus=[{"folder": str(folder)}], faiss="ivf_sq", nprobe=1)
    found = search_step(second, encoder=encoder, corpus=built, queries=asked("a red thing"), k=4, min_side=8)
    said = [message["text"] for message in second.journal.messages if "approximate" in message["text"]]
    assert said and "IVF1,SQfp16, nprobe 1" in said[0] and "recall_at_100 1.000" in said[0]
    third = local_context(tmp_path / "3")
    exact = search_step(
        third, encoder=encoder, corpus={"folder": str(folder)}, queries=asked("a red thing"), k=4, min_side=8
    )
    assert not any("approximate" in message["text"] for message in third.journal.messages)
    assert found.retrieval.equals(exact.retrieval)
