"""Files that hold no image mean are refused in words of our own."""

import numpy as np
import pytest

from runner.errors import DataError
from runner.nodes.sith.decomposing import _mean_of_file


@pytest.mark.parametrize("content", [b"", b"0.1 0.2 0.3\n", b"\x93NUMPY\x01"], ids=["empty", "text", "cut"])
@pytest.mark.parametrize("name", ["mean.txt", "mean.npy", "mean.safetensors"])
def test_what_is_no_vector_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected one vector") as refused:
        _mean_of_file(path)
    assert "pickle" not in str(refused.value)


def test_a_vector_and_an_array_of_objects(tmp_path):
    np.save(tmp_path / "mean.npy", np.arange(3.0))
    assert _mean_of_file(tmp_path / "mean.npy").tolist() == [0, 1, 2]
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object))
    with pytest.raises(DataError, match="expected one vector") as refused:
        _mean_of_file(tmp_path / "objects.npy")
    assert "pickle" not in str(refused.value)
