"""Makes the sample steps importable, and gives tests a workspace and a runner of sample specs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import graph_sample as sample

from runner.graph import Workspace


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "out").create()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def counted(tmp_path, monkeypatch):
    """Steps and items write one line for each piece of work really done; the fixture reads them."""
    path = tmp_path / "work.log"
    monkeypatch.setenv(sample.LOG, str(path))
    return lambda: path.read_text().split("\n")[:-1] if path.exists() else []
