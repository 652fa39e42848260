import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from killed_build import small_shards
from tiny_encoder import ColourEncoder

from retrieval.index import build, open_index, search
from retrieval.nearest import nearest
from runner.context import local_context
from runner.data.sources import base
from runner.errors import DataError, Interrupted

HERE = Path(__file__).parent


@pytest.fixture
def shards_of_eight():
    before = base.chunked.__kwdefaults__
    small_shards()
    yield
    base.chunked.__kwdefaults__ = before


def content(index):
    """Everything a search can see: rows by uri with vectors, and caption vectors."""
    rows = index.rows.to_pylist()
    captions = dict(zip(index.caption_rows.tolist(), index.caption_vectors.tolist(), strict=True))
    return {
        (row["source_id"], row["uri"]): (row, index.vectors[n].tolist(), captions.get(n)) for n, row in enumerate(rows)
    }


def test_the_folder_holds_what_the_layout_says(tmp_path, folder, encoder, ctx):
    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    assert len(index) == 60 and index.dim == encoder.dim and encoder.embedded == 60
    assert index.vectors.dtype == np.float16 and index.vectors.shape == (60, encoder.dim)
    assert np.allclose(np.linalg.norm(index.vectors.astype(float), axis=1), 1, atol=1e-3)
    assert len(index.caption_rows) == 15
    assert {index.rows["caption"][int(n)].as_py() for n in index.caption_rows} == {
        "a red square", "a green square", "a blue square"
    }  # fmt: skip
    row = index.rows.to_pylist()[0]
    assert (row["source_id"], row["uri"], row["width"], row["height"]) == ("photos", "blue/002.png", 24, 20)
    assert len(row["sha256"]) == 64
    source = index.sources[0]
    assert (source["records"], source["embedded"], source["unreadable"], source["captioned"]) == (60, 60, 0, 15)
    assert index.encoder == {"name": "colours", "family": "test-colours", "identity": "colours-1", "dim": 64}
    names = {p.name.partition("-")[0] for p in (tmp_path / "i").iterdir() if not p.name.startswith(".")}
    assert names == {"vectors", "captions", "rows", "shard", "faiss.index", "manifest.json"}
    stored = pq.read_table(next((tmp_path / "i").glob("rows-*.parquet")))
    assert stored.column_names == ["row", "source_id", "uri", "caption", "sha256", "width", "height"]


def test_vectors_are_the_encoders_own(tmp_path, folder, encoder, ctx):
    from PIL import Image

    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx, batch_size=7, workers=3)
    for n in (0, 17, 59):
        image = Image.open(folder / index.rows["uri"][n].as_py()).convert("RGB")
        assert np.allclose(index.vectors[n], encoder.encode_images([image])[0], atol=1e-3)
    text = index.rows["caption"][int(index.caption_rows[3])].as_py()
    assert np.allclose(index.caption_vectors[3], encoder.encode_texts([text])[0], atol=1e-3)


def test_a_second_build_embeds_nothing_and_changes_nothing(tmp_path, folder, encoder, ctx):
    build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    before = {p.name: p.read_bytes() for p in (tmp_path / "i").iterdir()}
    again = ColourEncoder()
    build(tmp_path / "i", {"folder": str(folder)}, again, ctx)
    assert again.embedded == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "i").iterdir()} == before


def test_new_files_are_appended_without_embedding_old_ones(
    tmp_path, folder, encoder, ctx, make_picture, shards_of_eight
):
    build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    for n in range(5):
        (folder / "green" / f"new{n}.png").write_bytes(make_picture(1000 + n))
    (folder / "red" / "000.png").unlink()
    again = ColourEncoder()
    grown = build(tmp_path / "i", {"folder": str(folder)}, again, ctx)
    assert again.embedded == 5 and len(grown) == 64
    fresh = build(tmp_path / "fresh", {"folder": str(folder)}, ColourEncoder(), ctx)
    assert content(grown) == content(fresh)
    assert grown.rows.equals(fresh.rows)
    keys = {shard["key"] for shard in grown.manifest["shards"]}
    assert {p.stem.partition("-")[2] for p in (tmp_path / "i").glob("vectors-*")} == keys


def test_equal_bytes_are_embedded_once_and_keep_their_own_rows(tmp_path, encoder, ctx, make_picture):
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(make_picture(7))
    specs = [{"folder": str(tmp_path / "a")}, {"folder": str(tmp_path / "b")}]
    index = build(tmp_path / "i", specs, encoder, ctx, batch_size=1)
    assert encoder.embedded == 1 and len(index) == 3
    assert len(set(index.image_numbers.tolist())) == 1
    assert (index.vectors == index.vectors[0]).all()


def test_the_order_of_sources_changes_nothing(tmp_path, folder, ctx):
    specs = [{"folder": str(folder / colour)} for colour in ("red", "green", "blue")]
    one = build(tmp_path / "1", specs, ColourEncoder(), ctx)
    two = build(tmp_path / "2", specs[::-1], ColourEncoder(), ctx)
    assert one.manifest == two.manifest and one.rows.equals(two.rows) and np.array_equal(one.vectors, two.vectors)


def test_what_cannot_be_read_is_counted_listed_and_said(tmp_path, folder, encoder, ctx, make_picture):
    whole = make_picture(5, size=(300, 200), kind="JPEG")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "out.png").symlink_to(tmp_path)
    source = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx).sources[0]
    assert (source["records"], source["embedded"], source["unreadable"]) == (63, 60, 3)
    counts = {"empty": 1, "link_out_of_root": 1, "truncated": 1, "undecodable": 1}
    assert source["problems"]["counts"] == counts
    assert {example[1] for example in source["problems"]["examples"]} == {"cut.jpg", "empty.png", "text.png", "out.png"}
    assert any("1 truncated" in message["text"] for message in ctx.journal.messages)
    # A resumed build knows of them too, although it reads no shard again.
    again = build(tmp_path / "i", {"folder": str(folder)}, encoder, local_context(tmp_path / "w2")).sources[0]
    assert again == source


def test_an_empty_corpus_gives_an_empty_index(tmp_path, encoder, ctx):
    (tmp_path / "none").mkdir()
    index = build(tmp_path / "i", {"folder": str(tmp_path / "none")}, encoder, ctx)
    similarities, rows = search(index, encoder.encode_texts(["red"]), 5)
    assert len(index) == 0 and similarities.shape == rows.shape == (1, 0)
    assert any("no picture" in message["text"] for message in ctx.journal.messages)


def test_another_encoder_is_refused(tmp_path, folder, encoder, ctx):
    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    other = ColourEncoder("2")
    with pytest.raises(DataError, match="colours-1"):
        index.embed_queries(other, ["red"])
    with pytest.raises(DataError, match="colours-1"):
        build(tmp_path / "i", {"folder": str(folder)}, other, ctx)


@pytest.mark.parametrize("vector", [np.nan, 0.0, np.inf])
def test_vectors_that_would_poison_the_index_are_refused(tmp_path, folder, ctx, vector):
    class Broken(ColourEncoder):
        def encode_prepared(self, batch):
            return np.full((len(batch), self.dim), vector, np.float32)

    with pytest.raises(DataError, match="not finite or are all zero"):
        build(tmp_path / "i", {"folder": str(folder)}, Broken(), ctx)


def test_no_folder_no_index(tmp_path):
    with pytest.raises(DataError, match="no finished image index"):
        open_index(tmp_path)


@pytest.mark.parametrize("name", ["vectors-*.npy", "captions-*.npy", "rows-*.parquet", "manifest.json"])
def test_a_damaged_index_is_an_error_never_a_wrong_number(tmp_path, folder, encoder, ctx, name):
    build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    path = next((tmp_path / "i").glob(name))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError):
        index = open_index(tmp_path / "i")
        index.matrix("mean")


def test_a_pickle_in_the_place_of_vectors_is_not_run(tmp_path, folder, encoder, ctx):
    build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    path = next((tmp_path / "i").glob("vectors-*.npy"))
    path.unlink()
    np.save(path, np.array([{"a": 1}] * 60, object), allow_pickle=True)
    with pytest.raises(DataError):
        open_index(tmp_path / "i")


def test_a_damaged_faiss_file_is_made_again(tmp_path, folder, encoder, ctx):
    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    query = encoder.encode_texts(["red", "blue"])
    expected = search(index, query, 9)
    (tmp_path / "i" / "faiss.index").write_bytes(b"IxFI nonsense")
    found = search(open_index(tmp_path / "i"), query, 9)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [0, 1, 3])
def test_a_killed_build_loses_at_most_the_shard_in_flight(tmp_path, folder, ctx, shards_of_eight, finished):
    arguments = [str(folder), str(tmp_path / "i"), str(tmp_path / "w"), str(finished)]
    child = subprocess.run([sys.executable, str(HERE / "killed_build.py"), *arguments], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    done = len(list((tmp_path / "i").glob("shard-*.json")))
    assert done == finished and not (tmp_path / "i" / "manifest.json").exists()
    saved = sum(pq.read_metadata(p).num_rows for p in (tmp_path / "i").glob("rows-*.parquet"))
    encoder = ColourEncoder()
    resumed = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx, batch_size=4)
    fresh = build(tmp_path / "fresh", {"folder": str(folder)}, ColourEncoder(), ctx, batch_size=4)
    assert encoder.embedded == 60 - saved and (saved > 0) == (finished > 0)
    assert resumed.manifest == fresh.manifest
    assert resumed.rows.equals(fresh.rows) and np.array_equal(resumed.vectors, fresh.vectors)


def test_a_shard_without_its_last_file_is_done_again(tmp_path, folder, encoder, ctx, shards_of_eight):
    build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    (tmp_path / "i" / "manifest.json").unlink()
    next((tmp_path / "i").glob("shard-*.json")).unlink()
    again = ColourEncoder()
    index = build(tmp_path / "i", {"folder": str(folder)}, again, ctx)
    assert 0 < again.embedded <= 8 and len(index) == 60


def test_a_stop_between_pictures_keeps_finished_shards(tmp_path, folder, encoder, ctx, shards_of_eight):
    class StopLater:
        left = 20

        def check(self):
            self.left -= 1
            if self.left < 0:
                raise Interrupted("stop")

    ctx.stop = StopLater()
    with pytest.raises(Interrupted):
        build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    assert 0 < len(list((tmp_path / "i").glob("shard-*.json"))) < 8


def test_two_builders_of_one_folder_take_turns(tmp_path, folder):
    encoders = [ColourEncoder(), ColourEncoder()]

    def work(n):
        return build(tmp_path / "i", {"folder": str(folder)}, encoders[n], local_context(tmp_path / str(n)))

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(work, (0, 1))
    assert one.manifest == two.manifest and sorted(e.embedded for e in encoders) == [0, 60]


# --- search ----------------------------------------------------------------------------------------------------------

COMPONENT = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])


@settings(deadline=None)
@given(
    hnp.arrays(np.float16, st.tuples(st.integers(0, 150), st.just(3)), elements=COMPONENT),
    hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.just(3)), elements=COMPONENT),
    st.integers(1, 40),
)
def test_nearest_against_brute_force_with_many_ties(vectors, queries, k):
    similarities, places = nearest(vectors, queries, k)
    k = min(k, len(vectors))
    assert similarities.shape == places.shape == (len(queries), k)
    for query, found, where in zip(queries, similarities, places, strict=True):
        products = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        slow = sorted(range(len(vectors)), key=lambda row: (-products[row], row))[:k]
        assert where.tolist() == slow and np.array_equal(found, products[slow])


def test_search_against_brute_force(tmp_path, folder, encoder, ctx):
    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    queries = encoder.encode_texts(["a red thing", "blue", "white and green"])
    for similarity in ("image", "caption", "mean"):
        rows, matrix = index.matrix(similarity)
        scores = queries.astype(np.float64) @ matrix.astype(np.float64).T
        found, where = search(index, queries, 12, similarity=similarity)
        slow = np.lexsort((np.broadcast_to(rows, scores.shape), -scores.astype(np.float32)), axis=1)[:, :12]
        assert np.array_equal(where, rows[slow])
        assert np.allclose(found, np.take_along_axis(scores, slow, 1), atol=1e-6)


def test_similarities_mean_what_they_say(tmp_path, folder, encoder, ctx):
    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    query = encoder.encode_texts(["red"])
    image, where = search(index, query, 60)
    by_image = dict(zip(where[0].tolist(), image[0].tolist(), strict=True))
    caption, where = search(index, query, 60, similarity="caption")
    by_caption = dict(zip(where[0].tolist(), caption[0].tolist(), strict=True))
    mean, where = search(index, query, 60, similarity="mean")
    assert set(by_caption) == set(index.caption_rows.tolist()) and len(where[0]) == 60
    for row, value in zip(where[0].tolist(), mean[0].tolist(), strict=True):
        expected = (by_image[row] + by_caption[row]) / 2 if row in by_caption else by_image[row]
        assert value == pytest.approx(expected, abs=2e-3)


def test_the_right_colour_comes_first(tmp_path, folder, encoder, ctx):
    index = build(tmp_path / "i", {"folder": str(folder)}, encoder, ctx)
    _, rows = search(index, index.embed_queries(encoder, ["red", "green", "blue"]), 20)
    for colour, found in zip(("red", "green", "blue"), rows, strict=True):
        assert all(index.rows["uri"][int(row)].as_py().startswith(colour) for row in found)
