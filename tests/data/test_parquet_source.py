import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from runner.data.sources import open_source
from runner.errors import DataError


def png(seed=0):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def uris(source):
    return [record.uri for record in source]


# --- parquet ---------------------------------------------------------------------------------------------------------


def parquet(path, columns, rows_per_group=3):
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return path


def test_parquet_rows_with_bytes_captions_and_nulls(tmp_path):
    parquet(
        tmp_path / "p.parquet",
        {"jpg": [png(0), None, png(2), png(3), b""], "txt": ["zero", "one", None, " three ", "four"]},
    )
    source = open_source({"parquet": str(tmp_path / "p.parquet")})
    found = [(r.uri, r.caption, r.data) for r in source]
    assert found == [
        ("p.parquet#0", "zero", png(0)), ("p.parquet#2", None, png(2)), ("p.parquet#3", "three", png(3)), ("p.parquet#4", "four", b"")
    ]  # fmt: skip
    assert source.problems.counts() == {"null_bytes": 1}
    assert dict(source.read_many(["p.parquet#3", "p.parquet#0"])) == {"p.parquet#0": png(0), "p.parquet#3": png(3)}
    for gone in ("p.parquet#1", "p.parquet#99", "p.parquet#-1", "q.parquet#0", "../p.parquet#0"):
        with pytest.raises(DataError):
            list(source.read_many([gone]))


def test_parquet_as_model_hubs_have_it(tmp_path):
    rows = [{"bytes": png(0), "path": "x"}, None, {"bytes": None, "path": "y"}]
    parquet(tmp_path / "p.parquet", {"image": rows, "label": [3, 1, 2]})
    source = open_source({"parquet": str(tmp_path / "p.parquet"), "label_field": "label"})
    assert [r.data for r in source] == [png(0)] and source.problems.counts() == {"null_bytes": 2}
    assert source.labels() == {"p.parquet#0": "3", "p.parquet#1": "1", "p.parquet#2": "2"}


def test_parquet_shards_are_runs_of_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("runner.data.sources.parquet._SHARD_ROWS", 4)
    parquet(tmp_path / "p.parquet", {"png": [png(n) for n in range(10)]}, rows_per_group=2)
    source = open_source({"parquet": str(tmp_path / "p.parquet"), "limit": 7})
    assert [(s.name, s.records) for s in source.shards()] == [("p.parquet#000000000", 4), ("p.parquet#000000004", 3)]
    assert uris(source) == [f"p.parquet#{n}" for n in range(7)]


def test_a_damaged_parquet_file_does_not_cost_the_others(tmp_path):
    good = parquet(tmp_path / "a.parquet", {"png": [png(0)]})
    (tmp_path / "b.parquet").write_bytes(good.read_bytes()[:-40])
    source = open_source({"parquet": str(tmp_path / "*.parquet")})
    assert uris(source) == ["a.parquet#0"] and source.problems.counts() == {"damaged_file": 1}


def test_asking_for_a_row_of_a_file_that_was_damaged_since_is_one_clear_error(tmp_path):
    path = parquet(tmp_path / "p.parquet", {"png": [png(0)]})
    source = open_source({"parquet": str(path)})
    assert uris(source) == ["p.parquet#0"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"p\.parquet cannot be read"):
        list(source.read_many(["p.parquet#0"]))


def test_parquet_without_pictures_names_its_columns(tmp_path):
    parquet(tmp_path / "p.parquet", {"url": ["http://x"], "text": ["y"]})
    with pytest.raises(DataError, match="url, text"):
        open_source({"parquet": str(tmp_path / "p.parquet")}).shards()
    with pytest.raises(DataError, match="'picture'"):
        open_source({"parquet": str(tmp_path / "p.parquet"), "image_field": "picture"}).shards()


# --- packaged --------------------------------------------------------------------------------------------------------


class Set:
    name, licence, fingerprint = "set", "CC0-1.0", "abc"

    def uris(self):
        return [f"{n:03d}.png" for n in range(20)]

    def read(self, uri):
        if uri == "003.png":
            raise OSError("damaged zip member")
        return png(int(uri[:3]))

    def caption(self, uri):
        return "three times" if int(uri[:3]) % 3 == 0 else None

    def labels(self):
        return dict.fromkeys(self.uris(), "thing")


def test_a_packaged_set_is_a_source_like_any_other(monkeypatch):
    import runner.assets

    monkeypatch.setattr(runner.assets, "source_of", lambda name: Set())
    source = open_source({"packaged": "cifar10-test", "limit": 10})
    assert len(uris(source)) == 9 and source.problems.counts() == {"unreadable_file": 1}
    assert source.licence == "CC0-1.0" and source.labels()["000.png"] == "thing"
    assert dict(source.read_many(["007.png"])) == {"007.png": png(7)}
    assert open_source(source.spec).source_id == source.source_id == "cifar10-test"
