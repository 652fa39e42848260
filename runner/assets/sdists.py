"""Source archives of Python packages that have no wheel: downloaded by pip, never built.

``pip download`` runs a source archive's build script to learn its dependencies. Nothing that a stranger wrote may run
here, so pip's own parts are used one by one, in a process of their own: the user's settings, its index, its download.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runner.assets.archives import Staging, extract
from runner.assets.clients import require_pip
from runner.errors import AssetError

_PROGRAM = """
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


def fetch_sdist(name: str, version: str, members: dict[str, str], folder: Path, most: int) -> None:
    """Write ``members`` ({path in the archive: file name}, ``most`` bytes in all) of one source archive to ``folder``.

    Raises ``AssetError``. Hashes are the caller's to check.
    """
    require_pip()
    download = folder / "download"
    download.mkdir()
    command = [sys.executable, "-c", _PROGRAM, name, version, str(download)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    archives = list(download.glob("*.tar.gz"))
    if result.returncode != 0 or len(archives) != 1:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise AssetError(f"pip could not download the source archive of {name} {version}: {lines[-1][:300]}")
    extract(archives[0], members, Staging(folder, most))
    archives[0].unlink()
