"""Folders as img2dataset writes them: key = 5 digits of the shard + 4 of the row, rows of failures included."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.data.images import decode
from runner.data.sources import open_source
from runner.data.sources.borders import content_box, letterbox, white_bars
from runner.errors import DataError

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("url", "caption", "key", "status", "error_message")]
    + [(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
    + [("exif", pa.string()), ("sha256", pa.string())]
)


def photo(width, height, seed=0):
    """A picture with structure and no white: smooth colour waves."""
    y, x = np.mgrid[0:height, 0:width]
    wave = np.stack([np.sin(x / 9 + seed), np.cos(y / 7), np.sin((x + y) / 11 + seed)], axis=2)
    return Image.fromarray((90 + 80 * wave).astype(np.uint8))


def encoded(image, kind="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95)
    return buffer.getvalue()


def padded(original, side=256):
    """As ``resize_mode border`` does it: longest side to ``side``, then white around the middle."""
    scale = side / max(original.size)
    small = original.resize([max(1, round(length * scale)) for length in original.size], Image.Resampling.BOX)
    square = Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return square


def row(number, shard=0, *, status="success", data=b"", size=(0, 0), message=None, caption=None):
    done = status == "success"
    return {
        "url": f"https://example.org/{number}.jpg", "caption": caption or f"caption {number}",
        "key": f"{shard:05d}{number:04d}", "status": status, "error_message": message,
        "width": 256 if done else None, "height": 256 if done else None,
        "original_width": size[0] if done else None, "original_height": size[1] if done else None,
        "exif": None, "sha256": hashlib.sha256(data).hexdigest() if done else None, "data": data if done else None,
    }  # fmt: skip


def write_tar(path, rows, ending="jpg"):
    with tarfile.open(path, "w") as tar:
        for r in rows:
            for name, data in ((ending, r["data"]), ("txt", f"tar {r['caption']}".encode()), ("json", b"{}")):
                info = tarfile.TarInfo(f"{r['key']}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_parquet(path, rows, with_pictures=False):
    table = pa.Table.from_pylist([{k: v for k, v in r.items() if k != "data"} for r in rows], schema=SCHEMA)
    if with_pictures:
        table = table.append_column("jpg", pa.array([r["data"] for r in rows], pa.binary()))
    pq.write_table(table, path, row_group_size=3)


def write_shard(root, rows, shard=0, form="tar"):
    root.mkdir(exist_ok=True)
    stored = [r for r in rows if r["data"] is not None]
    name = f"{shard:05d}"
    if form == "tar":
        write_tar(root / f"{name}.tar", stored)
    if form == "files":
        (root / name).mkdir()
        for r in stored:
            (root / name / f"{r['key']}.jpg").write_bytes(r["data"])
            (root / name / f"{r['key']}.txt").write_text(f"file {r['caption']}")
    write_parquet(root / f"{name}.parquet", rows, with_pictures=form == "parquet")
    (root / f"{name}_stats.json").write_text(json.dumps({"count": len(rows), "successes": len(stored)}))
    return root


def mixed(shard=0):
    """Ten rows: two failed downloads, one failed resize, seven pictures."""
    rows = [row(n, shard, data=encoded(photo(64, 64, n)), size=(64, 64)) for n in range(10)]
    for number, status, message in (
        (2, "failed_to_download", "HTTP Error 404: Not Found"),
        (5, "failed_to_download", "HTTP Error 404: Not Found"),
        (7, "failed_to_resize", "Image decoding error"),
    ):
        rows[number] = row(number, shard, status=status, message=message)
    return rows


def opened(root, **options):
    return open_source({"img2dataset": str(root), **options})


def read(source):
    return list(source), source.problems.counts()


FAILED = {"failed_to_download": 2, "failed_to_resize": 1}
URI = {"tar": "00000.tar#{}.jpg", "files": "00000/{}.jpg", "parquet": "00000.parquet#{}"}


@pytest.mark.parametrize("form", ["tar", "files", "parquet"])
def test_only_successes_are_read_and_failures_are_counted_in_every_format(tmp_path, form):
    rows = mixed()
    source = opened(write_shard(tmp_path / "out", rows, form=form))
    records, problems = read(source)
    good = [n for n in range(10) if n not in (2, 5, 7)]
    place = [str(n) if form == "parquet" else rows[n]["key"] for n in good]
    assert [r.uri for r in records] == [URI[form].format(p) for p in place]
    assert [(r.caption, r.data) for r in records] == [(f"caption {n}", rows[n]["data"]) for n in good]
    assert records[0].metadata == {"url": "https://example.org/0.jpg"}
    assert problems == FAILED
    assert "404: Not Found (2)" in next(p.detail for p in source.problems if p.reason == "failed_to_download")
    assert [shard.records for shard in source.shards()] == [7]
    asked = [records[4].uri, records[1].uri]
    assert dict(source.read_many(asked)) == {r.uri: r.data for r in (records[1], records[4])}
    again = open_source(source.spec)
    assert [r.uri for r in again] == [r.uri for r in records] and again.fingerprint() == source.fingerprint()


def test_problems_are_counted_once_however_often_a_shard_is_read(tmp_path):
    source = opened(write_shard(tmp_path / "out", mixed()))
    assert read(source)[1] == read(source)[1] == FAILED


def test_several_shards_limit_and_order(tmp_path):
    for shard in (1, 0, 2):
        write_shard(tmp_path / "out", mixed(shard), shard)
    source = opened(tmp_path / "out", limit=9)
    records, problems = read(source)
    assert [s.name for s in source.shards()] == ["00000", "00001"] and [s.records for s in source.shards()] == [7, 2]
    assert [r.uri for r in records][-2:] == ["00001.tar#000010000.jpg", "00001.tar#000010001.jpg"]
    assert len(records) == 9 and problems == FAILED


def test_a_tar_without_its_parquet_is_read_alone_and_said(tmp_path):
    root = write_shard(tmp_path / "out", mixed())
    (root / "00000.parquet").unlink()
    records, problems = read(opened(root))
    assert len(records) == 7 and records[0].caption == "tar caption 0" and problems == {"missing_parquet": 1}
    (root / "00000.parquet").write_bytes(b"PAR1 and then nothing")
    records, problems = read(opened(root))
    assert len(records) == 7 and problems == {"damaged_parquet": 1}


def test_a_parquet_of_another_shard_is_never_silent(tmp_path):
    root = write_shard(tmp_path / "out", mixed())
    write_parquet(root / "00000.parquet", mixed(shard=1))
    records, problems = read(opened(root))
    assert (records, problems) == ([], {**FAILED, "missing_member": 7, "shifted_shard": 7})


def test_a_parquet_shifted_by_one_row_is_never_silent(tmp_path):
    rows = mixed()
    root = write_shard(tmp_path / "out", rows)
    keys = [r["key"] for r in rows]
    write_parquet(
        root / "00000.parquet", [{**r, "key": key} for r, key in zip(rows, [*keys[1:], "000000010"], strict=True)]
    )
    _, problems = read(opened(root))
    assert problems["shifted_shard"] == problems["missing_member"] == 4  # 1, 4 and 9 of 7 stored remain


def test_members_that_are_not_there_and_stats_that_disagree_are_counted(tmp_path):
    rows = mixed()
    root = write_shard(tmp_path / "out", rows)
    write_tar(root / "00000.tar", [r for r in rows[:4] if r["data"] is not None])
    (root / "00000_stats.json").write_text('{"successes": 9}')
    records, problems = read(opened(root))
    assert len(records) == 3 and problems == {**FAILED, "missing_member": 4, "count_mismatch": 1}


def test_a_cut_tar_is_reported_with_what_it_costs(tmp_path):
    root = write_shard(tmp_path / "out", mixed())
    tar = root / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:9000])
    records, problems = read(opened(root))
    assert problems["truncated_shard"] == 1 and len(records) + problems["missing_member"] == 7 and records


def test_a_shard_where_everything_failed_or_whose_pictures_are_gone_is_reported(tmp_path):
    root = write_shard(tmp_path / "out", mixed())
    write_shard(root, [row(n, 1, status="failed_to_download", message="timed out") for n in range(4)], 1)
    write_parquet(root / "00002.parquet", mixed(2))
    (root / "00003.tfrecord").write_bytes(b"x")
    records, problems = read(opened(root))
    assert len(records) == 7
    assert problems == {"failed_to_download": 6, "failed_to_resize": 1, "missing_shard": 2}


def test_a_damaged_shard_of_the_format_parquet_does_not_cost_the_others(tmp_path):
    root = write_shard(tmp_path / "out", mixed(), form="parquet")
    write_shard(root, mixed(1), 1, form="parquet")
    whole = (root / "00001.parquet").read_bytes()
    (root / "00001.parquet").write_bytes(whole[: len(whole) // 2])
    records, problems = read(opened(root, limit=100))
    assert len(records) == 7 and problems == {**FAILED, "damaged_file": 1, "damaged_parquet": 1}


def test_a_picture_that_is_null_though_its_row_succeeded_is_missing(tmp_path):
    rows = mixed()
    rows[4]["data"] = None
    root = write_shard(tmp_path / "out", rows, form="parquet")
    (root / "00000_stats.json").unlink()
    assert read(opened(root))[1] == {**FAILED, "missing_member": 1}


def test_a_folder_without_shards_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="no shard") as error:
        opened(tmp_path).shards()
    assert "00000.tar" in (error.value.hint or "")


@pytest.mark.parametrize("uri", ["00009.tar#000090000.jpg", "x", "../00000.tar#a.jpg", "00000.tar#nothing.jpg", ""])
def test_a_uri_of_nothing_is_an_error(tmp_path, uri):
    with pytest.raises(DataError):
        list(opened(write_shard(tmp_path / "out", mixed())).read_many([uri]))


# --- hashes ----------------------------------------------------------------------------------------------------------


def test_hashes_are_compared_where_pictures_were_stored_as_downloaded(tmp_path):
    rows = mixed()
    for r in rows:
        r["width"] = r["height"] = None
    rows[3]["sha256"] = "0" * 64
    root = write_shard(tmp_path / "out", rows)
    records, problems = read(opened(root))
    assert len(records) == 6 and problems == {**FAILED, "sha256_mismatch": 1}
    assert len(read(opened(root, verify_sha256=False))[0]) == 7


def test_hashes_of_what_was_downloaded_say_nothing_about_resized_pictures(tmp_path):
    rows = mixed()
    for r in rows:
        r["sha256"] = r["sha256"] and hashlib.sha256(b"before resizing").hexdigest()
    root = write_shard(tmp_path / "out", rows)
    assert len(read(opened(root))[0]) == 7
    records, problems = read(opened(root, verify_sha256=True))
    assert not records and problems["sha256_mismatch"] == 7


# --- white borders ---------------------------------------------------------------------------------------------------

SIZES = [(640, 480), (480, 640), (300, 300), (1000, 250), (333, 500), (257, 256)]


def bordered(root, make=padded):
    rows = [row(n, data=encoded(make(photo(*size, seed=n))), size=size) for n, size in enumerate(SIZES)]
    return write_shard(root, rows)


def test_white_bars_are_cut_off_alike_in_a_pass_and_by_uri(tmp_path):
    source = opened(bordered(tmp_path / "out"))
    records, problems = read(source)
    shapes = [decode(r.data).size for r in records]
    assert shapes == [(256, 192), (192, 256), (256, 256), (256, 64), (170, 256), (256, 256)] and problems == {}
    assert dict(source.read_many([r.uri for r in records])) == {r.uri: r.data for r in records}
    fresh = opened(tmp_path / "out")
    assert dict(fresh.read_many([records[3].uri])) == {records[3].uri: records[3].data}
    inside = np.asarray(Image.open(io.BytesIO(records[0].data)), float)
    assert np.abs(inside - np.asarray(photo(640, 480).resize((256, 192), Image.Resampling.BOX), float)).mean() < 3
    assert [r.data[:4] == b"\x89PNG" for r in records] == [True, True, False, True, True, False]


def test_bars_that_are_kept_are_counted(tmp_path):
    source = opened(bordered(tmp_path / "out"), crop_borders=False)
    records, problems = read(source)
    assert all(decode(r.data).size == (256, 256) for r in records) and problems == {"white_borders": 5}
    assert source.fingerprint() != opened(tmp_path / "out").fingerprint()


def squeezed(image):
    return image.resize((256, 256))


def centre(image):
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((256, 256))


def keep_ratio(image):
    return image.resize([round(length * 256 / min(image.size)) for length in image.size])


@pytest.mark.parametrize("make", [squeezed, centre, keep_ratio])
@pytest.mark.parametrize("crop", ["auto", True, False])
def test_pictures_that_were_not_padded_stay_as_they_are(tmp_path, make, crop):
    source = opened(bordered(tmp_path / "out", make), crop_borders=crop)
    rows = pq.read_table(tmp_path / "out/00000.parquet")
    records, problems = read(source)
    assert [hashlib.sha256(r.data).hexdigest() for r in records] == rows["sha256"].to_pylist() and problems == {}


def test_bars_can_be_cut_off_without_a_parquet_file(tmp_path):
    root = bordered(tmp_path / "out")
    (root / "00000.parquet").unlink()
    (_, high), (wide, _) = [decode(r.data).size for r in opened(root, crop_borders=True)][:2]
    assert 192 <= high <= 196 and 192 <= wide <= 196  # JPEG smears the line next to the picture
    assert [decode(r.data).size for r in opened(root)][:2] == [(256, 256)] * 2


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([64, 224, 256, 257]))
def test_the_box_is_inside_touches_two_sides_and_stands_in_the_middle(width, height, side):
    left, top, right, bottom = content_box(side, width, height)
    assert 0 <= left < right <= side and 0 <= top < bottom <= side
    assert max(right - left, bottom - top) == side
    assert abs(left - (side - right)) <= 1 and abs(top - (side - bottom)) <= 1
    assert content_box(side, height, width) == (top, left, bottom, right)


@given(st.integers(20, 90), st.integers(20, 90))
def test_bars_are_found_where_they_were_put(width, height):
    pixels = np.asarray(padded(photo(width, height), 64))
    box = content_box(64, width, height)
    if box != (0, 0, 64, 64):
        assert white_bars(pixels, box)
        assert not white_bars(255 - pixels, box)
    if min(box.left, 64 - box.right) or min(box.top, 64 - box.bottom):
        assert letterbox(pixels) == box
