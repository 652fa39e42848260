import hashlib

import pytest

from runner import assets
from runner.assets import cache
from runner.errors import AssetError


@pytest.fixture
def shipped(register, tmp_path, monkeypatch):
    """An asset of one file below a project folder of its own."""
    data = b"weights"
    monkeypatch.setattr(cache, "PROJECT", tmp_path)
    register({"thing": {"shipped": "weights/thing", "files": [["w.bin", len(data), hashlib.sha256(data).hexdigest()]]}})
    file = tmp_path / "weights" / "thing" / "w.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    return file


def test_a_shipped_asset_is_used_where_it_lies(shipped):
    asset = assets.ensure("thing")
    assert asset.path == shipped
    assert asset.source == assets.SHIPPED
    assert assets.resolve("asset:thing") == shipped


def test_a_changed_file_is_noticed_and_nothing_is_fetched_over_it(shipped):
    shipped.write_bytes(b"weighty")
    with pytest.raises(AssetError, match=r"not whole: w\.bin does not have the registered SHA-256"):
        assets.ensure("thing")
    assert shipped.read_bytes() == b"weighty"


def test_a_missing_folder_is_said_to_be_missing(shipped):
    shipped.unlink()
    shipped.parent.rmdir()
    assert assets.status("thing") == "missing"
    with pytest.raises(AssetError, match=r"w\.bin is missing"):
        assets.ensure("thing")
