"""Tar shards made to hang, to fill the memory or to lead elsewhere."""

import gzip
import io
import lzma
import tarfile
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from runner.data.images import UnreadableImage, decode
from runner.data.sources import open_source, tars
from runner.errors import DataError


def picture(kind="PNG", side=6, seed=0):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def header(name, size, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data):
    return data + bytes(-len(data) % 512)


def entry(name, data):
    return header(name, len(data)) + padded(data)


END = bytes(1024)


def listed(tmp_path, data, name="s.tar"):
    (tmp_path / name).write_bytes(data)
    source = open_source({"webdataset": str(tmp_path / name)})
    return [record.uri for record in source], source.problems.counts()


def test_links_are_refused_and_counted_also_when_asked_for_by_name(tmp_path):
    link = header("b.jpg", 0, tarfile.SYMTYPE, "/etc/passwd") + header("c.jpg", 0, tarfile.LNKTYPE, "a.jpg")
    found, problems = listed(tmp_path, entry("a.jpg", picture()) + link + END)
    assert (found, problems) == (["s.tar#a.jpg"], {"link_member": 2})
    for name in ("b.jpg", "c.jpg"):
        with pytest.raises(DataError, match="no longer holds"):
            list(open_source({"webdataset": str(tmp_path / "s.tar")}).read_many([f"s.tar#{name}"]))


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_compression_bomb_is_left_early_and_what_came_before_is_kept(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(tars, "_FREE_BYTES", 2**20)
    bomb = entry("a.jpg", picture()) + header("b.jpg", 2**26) + bytes(2**26) + entry("c.jpg", picture()) + END
    started = time.monotonic()
    found, problems = listed(tmp_path, pack(bomb), "s.tar.gz")
    assert (found, problems) == (["s.tar.gz#a.jpg"], {"compression_bomb": 1})
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_cannot_ask_for_gigabytes(tmp_path, kind):
    path = tmp_path / "s.tar"
    with path.open("wb") as file:  # a sparse file: the gigabytes cost no disk
        file.write(entry("a.jpg", picture()) + header("././@LongLink", 4 * 2**30, kind))
        file.truncate(file.tell() + 4 * 2**30 + 1024)
    tracemalloc.start()
    source = open_source({"webdataset": str(path)})
    assert [record.uri for record in source] == ["s.tar#a.jpg"] or source.problems.counts()
    assert source.problems.counts() == {"truncated_shard": 1}
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_negative_size_does_not_lead_round_in_a_circle(tmp_path, kind):
    block = bytearray(header("b.jpg", 0, kind))
    block[124:136] = (256**12 - 512).to_bytes(12, "big")  # base 256, two's complement
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    found, problems = listed(tmp_path, entry("a.jpg", picture()) + bytes(block) + END)
    assert found in ([], ["s.tar#a.jpg"]) and problems == {"truncated_shard": 1}


def test_sparse_and_giant_members_are_left_out_and_the_rest_is_read(tmp_path):
    path = tmp_path / "s.tar"
    with path.open("wb") as file:
        file.write(entry("a.jpg", picture()) + header("big.jpg", 2**30))
        file.seek(2**30, io.SEEK_CUR)
        sparse = bytearray(header("hole.jpg", 0, tarfile.GNUTYPE_SPARSE))
        sparse[386:398] = b"%011o\0" % 0
        sparse[483:495] = b"%011o\0" % (2**32)
        sparse[148:156] = b" " * 8
        sparse[148:156] = b"%06o\0 " % sum(sparse)
        file.write(bytes(sparse) + entry("z.jpg", picture(seed=1)) + END)
    source = open_source({"webdataset": str(path)})
    assert [record.uri for record in source] == ["s.tar#a.jpg", "s.tar#z.jpg"]
    assert source.problems.counts() == {"large_member": 1, "special_member": 1}
    with pytest.raises(DataError):
        list(source.read_many(["s.tar#big.jpg"]))


def test_a_compressed_shard_is_unpacked_once_not_once_a_sample(tmp_path, monkeypatch):
    count = 300
    data = b"".join(entry(f"{n:04d}.jpg", picture(side=64, seed=n)) for n in range(count)) + END
    unpacked = 0
    plain = gzip.GzipFile.read1

    def counted(self, size=-1):
        nonlocal unpacked
        piece = plain(self, size)
        unpacked += len(piece)
        return piece

    monkeypatch.setattr(gzip.GzipFile, "read1", counted)
    found, problems = listed(tmp_path, gzip.compress(data, 1), "s.tar.gz")
    assert (len(found), problems) == (count, {})
    assert unpacked <= 1.1 * len(data)


def test_going_back_beyond_the_window_still_gives_the_right_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "_WINDOW", 4096)
    monkeypatch.setattr(tars, "_PIECE", 700)
    pictures = {f"{n}.png": picture(side=40, seed=n) for n in range(6)}
    data = b"".join(entry(name, data) for name, data in pictures.items()) + END
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(data))
    source = open_source({"webdataset": str(tmp_path / "s.tar.gz")})
    assert {record.uri.partition("#")[2]: record.data for record in source} == pictures
    assert {uri.partition("#")[2]: data for uri, data in source.read_many(["s.tar.gz#5.png"])} == {
        "5.png": pictures["5.png"]
    }


def test_asking_for_a_picture_of_a_shard_that_was_cut_since_is_one_clear_error(tmp_path):
    path = tmp_path / "s.tar"
    path.write_bytes(entry("a.jpg", picture(side=64)) + END)
    source = open_source({"webdataset": str(path)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"s\.tar cannot be read"):
        list(source.read_many(["s.tar#a.jpg"]))


def test_half_a_jpeg_is_delivered_as_found_and_judged_truncated(tmp_path):
    whole = picture("JPEG", 64)
    half = whole[: len(whole) // 2]
    (tmp_path / "s.tar").write_bytes(entry("a.jpg", half) + END)
    (tmp_path / "a.jpg").write_bytes(half)
    for spec in ({"webdataset": str(tmp_path / "s.tar")}, {"folder": str(tmp_path)}):
        (record,) = open_source(spec)
        assert record.data == half
        with pytest.raises(UnreadableImage) as error:
            decode(record.data)
        assert error.value.reason == "truncated"
