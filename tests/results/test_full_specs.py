"""The specs at the papers' scale are sound once the user's datasets and captions are there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATASETS = ("caltech101", "sun397", "dtd", "eurosat", "ucf101", "flowers102", "food101", "oxford_pets", "stanford_cars", "fgvc_aircraft")  # fmt: skip


def validated(name, folder):
    captions = folder / "captions.parquet"
    captions.write_bytes(b"")
    given = [f"captions={captions}", *(f"{dataset}={folder}" for dataset in DATASETS)]
    options = [part for text in given for part in ("--set", text)]
    command = [sys.executable, "-m", "runner", "validate", f"specs/full/{name}.yaml", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["circle", "owc"])
def test_only_what_the_user_brings_is_missing(tmp_path, name):
    done = validated(name, tmp_path)
    assert done.returncode == 0, done.stderr


BROUGHT = {
    "sith": ("conceptnet", "image_mean", "waterbirds", "visu"),
    "sith_task": ("root", "conceptnet", "image_mean"),
    "proactive": ("root", "kept"),
    "proactive_train": ("model", "train", "root", "kept"),
    "sem": ("sae", "fairface", "utkface", "celeba", "waterbirds"),
}


@pytest.mark.parametrize("name", BROUGHT)
def test_only_files_that_the_user_brings_are_missing(tmp_path, name):
    given = [f"{what}={tmp_path / what}" for what in BROUGHT[name]]
    for what in BROUGHT[name]:
        (tmp_path / what).mkdir() if what not in ("conceptnet", "image_mean", "sae", "kept") else (
            tmp_path / what
        ).touch()
        if what == "root" and name.startswith("proactive"):
            (tmp_path / what / "QuickDraw_preprocessed.jsonl").touch()
    options = [part for text in given for part in ("--set", text)]
    command = [sys.executable, "-m", "runner", "validate", f"specs/full/{name}.yaml", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
