"""Files that a download cut off are called damaged, and nobody is told to trust them."""

import pytest
import torch

from runner.errors import ModelRefused
from runner.nodes.sem.sae_files import read_stored

NAME = "MSAE_x_8_16_8x16_reverse.pth"


class Foreign:
    """Not a tensor."""


def whole(path, content=None):
    torch.save(content or {"bpre": torch.zeros(8)}, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "cut",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[:-30], lambda data: b"\x80\x02"],
    ids=["empty", "half", "end missing", "end of file in a pickle"],
)
def test_a_cut_file_is_damaged(tmp_path, cut):
    path = tmp_path / NAME
    path.write_bytes(cut(whole(path)))
    with pytest.raises(ModelRefused, match="damaged") as refused:
        read_stored(path)
    assert "Download it again" in str(refused.value)
    assert "trust" not in str(refused.value)


def test_a_whole_file_with_more_than_tensors_is_not_called_damaged_alone(tmp_path):
    path = tmp_path / NAME
    whole(path, {"bpre": Foreign()})
    with pytest.raises(ModelRefused, match="more than tensors") as refused:
        read_stored(path)
    assert "trust" not in str(refused.value)
