"""Archives are hostile: nothing leaves the folder, nothing grows past what was declared."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from asset_packages import link, make_tar
from hypothesis import given
from hypothesis import strategies as st

from runner.assets.archives import Staging, extract, match
from runner.errors import AssetError

PICTURES = {"package/img/*.png": "images/"}


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    folder = tmp_path / "a" / "b" / "staging"
    folder.mkdir(parents=True)
    return Staging(folder, 1_000_000)


def names(staging: Staging) -> set[str]:
    return {path.relative_to(staging.folder).as_posix() for path in staging.folder.rglob("*") if path.is_file()}


def test_only_asked_for_members_are_written(tmp_path: Path, staging: Staging) -> None:
    archive = make_tar(
        tmp_path / "a.tgz", {"package/img/x/1.png": b"1", "package/run.js": b"evil", "package/img/2.png": b"2"}
    )
    extract(archive, PICTURES, staging)
    assert names(staging) == {"images/x/1.png", "images/2.png"}


@pytest.mark.parametrize(
    "name",
    [
        "package/img/../../../out.png",
        "package/img//etc/out.png",
        "package/img/./out.png",
        "package/img/..\\out.png",
        "package/img/C:out.png",
        "package/img/" + "x" * 300 + ".png",
    ],
)
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path, staging: Staging) -> None:
    with pytest.raises(AssetError, match="refused"):
        extract(make_tar(tmp_path / "a.tgz", {name: b"x"}), PICTURES, staging)
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(AssetError, match="refused"):
        extract(tmp_path / "a.whl", PICTURES, staging)
    assert not list(tmp_path.rglob("out.png"))


@given(st.text(alphabet="./\\ab:\0*", max_size=12))
def test_no_name_ever_leaves_the_target_folder(tail: str) -> None:
    try:
        found = match(f"package/img/{tail}.png", PICTURES)
    except AssetError:
        return
    if found is not None:
        path = Path("/srv/images-parent", found[1])
        assert path.resolve().is_relative_to("/srv/images-parent/images")
        assert "\0" not in found[1]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../etc/passwd", "package/run.js", "missing.png"])
def test_links_out_of_the_asked_for_members_are_refused(
    kind: bytes, target: str, tmp_path: Path, staging: Staging
) -> None:
    members = {
        "package/run.js": b"evil",
        "package/img/1.png": b"1",
        "package/img/l.png": link("package/img/l.png", target, kind),
    }
    with pytest.raises(AssetError, match="is a link to"):
        extract(make_tar(tmp_path / "a.tgz", members), PICTURES, staging)
    assert not any(path.is_symlink() for path in staging.folder.rglob("*"))


def test_a_link_in_the_place_of_a_single_file_is_refused(tmp_path: Path, staging: Staging) -> None:
    archive = make_tar(tmp_path / "a.tgz", {"w.bin": link("w.bin", "/etc/passwd")})
    with pytest.raises(AssetError, match="not a plain file"):
        extract(archive, {"w.bin": "w.bin"}, staging)


def test_links_between_pictures_become_copies(tmp_path: Path, staging: Staging) -> None:
    members = {
        "package/img/b/first.png": link("package/img/b/first.png", "../second.png"),
        "package/img/second.png": link("package/img/second.png", "x/third.png"),
        "package/img/x/third.png": b"3",
    }
    extract(make_tar(tmp_path / "a.tgz", members), PICTURES, staging)
    assert {(staging.folder / name).read_bytes() for name in names(staging)} == {b"3"}
    assert len(names(staging)) == 3
    assert not any(path.is_symlink() for path in staging.folder.rglob("*"))


def test_links_in_a_circle_end(tmp_path: Path, staging: Staging) -> None:
    members = {
        "package/img/a.png": link("package/img/a.png", "b.png"),
        "package/img/b.png": link("package/img/b.png", "a.png"),
    }
    with pytest.raises(AssetError, match="is a link to"):
        extract(make_tar(tmp_path / "a.tgz", members), PICTURES, staging)


def test_devices_and_fifos_are_refused(tmp_path: Path, staging: Staging) -> None:
    for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        info = tarfile.TarInfo("package/img/d.png")
        info.type = kind
        with pytest.raises(AssetError, match="not a plain file"):
            extract(make_tar(tmp_path / "a.tgz", {"package/img/d.png": info}), PICTURES, staging)


def test_a_symbolic_link_in_a_wheel_is_refused(tmp_path: Path, staging: Staging) -> None:
    info = zipfile.ZipInfo("w.bin")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(AssetError, match="not a plain file"):
        extract(tmp_path / "a.whl", {"w.bin": "w.bin"}, staging)


def test_a_bomb_is_refused_by_its_declared_size(tmp_path: Path, staging: Staging) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.bin", b"\0" * 50_000_000)
    assert (tmp_path / "a.whl").stat().st_size < 100_000
    with pytest.raises(AssetError, match=r"declares 50,000,000 bytes, 1,000,000 at most"):
        extract(tmp_path / "a.whl", {"w.bin": "w.bin"}, staging)
    assert names(staging) == set()


def test_many_small_members_cannot_exceed_the_room_together(tmp_path: Path, staging: Staging) -> None:
    archive = make_tar(tmp_path / "a.tgz", {f"package/img/{i}.png": b"\0" * 300_000 for i in range(5)})
    with pytest.raises(AssetError, match="were expected"):
        extract(archive, PICTURES, staging)
    assert sum(path.stat().st_size for path in staging.folder.rglob("*.png")) <= 1_000_000


def test_a_stream_longer_than_declared_is_stopped(staging: Staging) -> None:
    with pytest.raises(AssetError, match="larger than the 10 bytes it declares"):
        staging.append("w.bin", io.BytesIO(b"x" * 11), 10, where="a.whl: w.bin")


def test_a_bomb_with_a_lying_header_is_stopped(tmp_path: Path, staging: Staging) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.bin", b"\0" * 3_000_000)
    data = (tmp_path / "a.whl").read_bytes().replace((3_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (tmp_path / "a.whl").write_bytes(data)
    with pytest.raises(AssetError):
        extract(tmp_path / "a.whl", {"w.bin": "w.bin"}, staging)
    assert sum(path.stat().st_size for path in staging.folder.rglob("*") if path.is_file()) <= 1_000_000


def test_the_same_member_twice_is_refused(tmp_path: Path, staging: Staging) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive, pytest.warns(UserWarning):
        archive.writestr("w.bin", b"1")
        archive.writestr("w.bin", b"2")
    with pytest.raises(AssetError, match="there twice"):
        extract(tmp_path / "a.whl", {"w.bin": "w.bin"}, staging)


@pytest.mark.parametrize("name", ["a.whl", "a.tgz", "a.deb"])
@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"PK\x03\x04", b"\x1f\x8b\x08\x00garbage"])
def test_what_is_no_archive_is_one_clear_error(name: str, data: bytes, tmp_path: Path, staging: Staging) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AssetError):
        extract(tmp_path / name, {"w.bin": "w.bin"}, staging)


def test_a_tarball_cut_in_the_middle_is_refused(tmp_path: Path, staging: Staging) -> None:
    archive = make_tar(tmp_path / "a.tgz", {f"package/img/{i}.png": bytes([i]) * 9000 for i in range(50)})
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(AssetError, match="damaged"):
        extract(archive, PICTURES, staging)


# --- Debian packages -------------------------------------------------------------------------------------------------


def make_deb(folder: Path, files: dict[str, bytes], links: dict[str, str] | None = None, name: str = "stamps") -> Path:
    root = folder / f"root-{name}"
    (root / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    (root / "DEBIAN" / "control").write_text(control)
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    for path, target in (links or {}).items():
        (root / path).symlink_to(target)
    deb = folder / f"{name}_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(deb)], check=True, capture_output=True)
    return deb


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="Debian packages need dpkg")


@needs_dpkg
def test_a_debian_package_is_read(tmp_path: Path, staging: Staging) -> None:
    deb = make_deb(tmp_path, {"usr/share/s/a.png": b"1", "usr/bin/evil": b"x"}, {"usr/share/s/b.png": "a.png"})
    extract(deb, {"usr/share/s/*.png": "s/"}, staging)
    assert names(staging) == {"s/a.png", "s/b.png"}


@needs_dpkg
def test_a_link_out_of_a_debian_package_is_refused(tmp_path: Path, staging: Staging) -> None:
    deb = make_deb(tmp_path, {"usr/share/s/a.png": b"1"}, {"usr/share/s/b.png": "/etc/passwd"})
    with pytest.raises(AssetError, match="is a link to"):
        extract(deb, {"usr/share/s/*.png": "s/"}, staging)


@needs_dpkg
def test_a_cut_debian_package_is_refused(tmp_path: Path, staging: Staging) -> None:
    import os

    deb = make_deb(tmp_path, {"usr/share/s/a.png": os.urandom(200_000)})
    deb.write_bytes(deb.read_bytes()[:100_000])
    with pytest.raises(AssetError):
        extract(deb, {"usr/share/s/*.png": "s/"}, staging)
