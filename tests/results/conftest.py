"""The synthetic audit and the child program live beside the tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from results.store import ResultsStore


@pytest.fixture
def store(tmp_path):
    """A store on a file that does not exist yet."""
    return ResultsStore(tmp_path / "results.duckdb", timeout=20)
