import ctypes
import sys
from pathlib import Path

import pytest

from runner.models.sandbox import landlock

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items):
    if sys.platform != "linux" or landlock.abi(ctypes.CDLL(None, use_errno=True)) == 0:
        for item in items:
            if Path(__file__).parent in item.path.parents and "filter" not in item.name:
                item.add_marker(pytest.mark.skip(reason="this kernel has no Landlock"))
