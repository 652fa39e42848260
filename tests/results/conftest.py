"""The synthetic audit and the child program live beside the tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthetic_audit import hostile
from synthetic_proactive import proactive_run, store_proactive

from results.store import ResultsStore


@pytest.fixture
def store(tmp_path):
    """A store on a file that does not exist yet."""
    return ResultsStore(tmp_path / "results.duckdb", timeout=20)


@pytest.fixture(scope="session")
def asking(tmp_path_factory):
    """Two runs of asking for help, one of hostile words. To be read only."""
    made = ResultsStore(tmp_path_factory.mktemp("asking") / "results.duckdb")
    store_proactive(made)
    store_proactive(made, hostile, "hostile")
    return made


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """A run "other" whose one step each test fills anew: making a store takes longer than a test."""
    made = ResultsStore(tmp_path_factory.mktemp("other") / "results.duckdb")
    made.replace_run(proactive_run(run_id="other"))
    return made
