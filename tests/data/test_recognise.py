import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.audit import corpus_source
from runner.data.sources.recognise import recognise
from runner.errors import UsageError


@pytest.fixture
def place(tmp_path):
    for name in ("photos/a.jpg", "tars/00000.tar", "tars/00000.parquet", "files/00000/0.jpg", "files/00000.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers/00000_stats.json").write_text("{}")
    (tmp_path / "dated/2024").mkdir(parents=True)
    pq.write_table(pa.table({"URL": ["http://x"], "TEXT": ["y"]}), tmp_path / "laion-0.parquet")
    pq.write_table(pa.table({"url": ["http://x"], "jpg": [b"y"]}), tmp_path / "bytes-0.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("photos", "folder"), ("dated", "folder"), ("tars", "img2dataset"), ("files", "img2dataset"),
        ("numbers", "img2dataset"), ("tars/*.tar", "webdataset"), ("a.TAR.gz", "webdataset"), ("cc12m.tsv", "urls"),
        ("a.csv", "urls"), ("a.jsonl", "urls"), ("laion-0.parquet", "urls"), ("laion-*.parquet", "urls"),
        ("bytes-*.parquet", "parquet"), ("broken.parquet", "parquet"), ("none-*.parquet", "parquet"),
        ("no/such/folder", None), ("photos/a.jpg", None),
    ],
)  # fmt: skip
def test_a_path_says_its_kind(place, name, kind):
    assert recognise(str(place / name)) == kind


def test_the_audit_command_writes_the_kind_it_found(place):
    assert corpus_source(str(place / "tars"), place) == {"img2dataset": "./tars"}
    assert corpus_source(str(place / "laion-*.parquet"), place) == {"urls": "./laion-*.parquet"}
    assert corpus_source("packaged:stamps", place) == {"packaged": "stamps"}
    with pytest.raises(UsageError) as error:
        corpus_source(str(place / "nowhere"), place)
    assert "list of links" in (error.value.hint or "")
