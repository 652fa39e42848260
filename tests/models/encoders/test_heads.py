import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ModelRefused
from runner.models.encoders.heads import MeanHead, MiniHeads, RidgeHead, load_heads, save_heads, unit_rows
from runner.nodes.encoder.contrastive import Towers, as_head


def random_heads(seed=0, known=3):
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    ridge = RidgeHead(*(rng.normal(size=s).astype(np.float32) for s in ((12, 16), (12,), (16,))), logit_scale=9.0)
    contrastive = as_head(Towers(12, 16))
    memory = {rng.bytes(32): rng.normal(size=12).astype(np.float32) for _ in range(known)}
    return MiniHeads(ridge, contrastive, memory, "backbone", "sentences", {"sources": {"a": 3}})


@pytest.mark.parametrize("known", [0, 3])
def test_heads_come_back_as_they_were(known, tmp_path):
    heads = random_heads(known=known)
    save_heads(heads, tmp_path)
    back = load_heads(tmp_path)
    rng = np.random.default_rng(1)
    v, t = rng.normal(size=(5, 12)).astype(np.float32), rng.normal(size=(5, 16)).astype(np.float32)
    for kind in ("ridge", "contrastive", "mean"):
        np.testing.assert_array_equal(back.head(kind).images(v), heads.head(kind).images(v))
        np.testing.assert_array_equal(back.head(kind).texts(t), heads.head(kind).texts(t))
        assert back.head(kind).dim == back.head(kind).images(v).shape[1]
    assert (back.trained_on, back.backbone, back.ridge.logit_scale) == ({"sources": {"a": 3}}, "backbone", 9.0)
    assert back.known.keys() == heads.known.keys()
    assert all((back.known[key] == row).all() for key, row in heads.known.items())


@given(st.integers(0, 2**32 - 1))
def test_the_mean_heads_cosine_is_the_mean_of_the_cosines(seed):
    heads = random_heads(0)
    rng = np.random.default_rng(seed)
    v, t = rng.normal(size=(3, 12)).astype(np.float32), rng.normal(size=(4, 16)).astype(np.float32)
    both = MeanHead(heads.ridge, heads.contrastive)
    each = [head.images(v) @ head.texts(t).T for head in (heads.ridge, heads.contrastive)]
    np.testing.assert_allclose(both.images(v) @ both.texts(t).T, sum(each) / 2, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(both.images(v), axis=1), 1, atol=1e-5)


def test_the_numpy_head_is_the_torch_head():
    import torch

    torch.manual_seed(3)
    towers = Towers(12, 16).eval()
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    v, t = torch.randn(6, 12), torch.randn(6, 16)
    head = as_head(towers)
    with torch.no_grad():
        expected = towers(v, t).numpy()
    np.testing.assert_allclose(head.logit_scale * head.images(v.numpy()) @ head.texts(t.numpy()).T, expected, atol=1e-4)


def test_rows_of_zeros_stay_zero():
    np.testing.assert_array_equal(unit_rows(np.array([[0, 0], [3, 4]], np.float32)), np.float32([[0, 0], [0.6, 0.8]]))


@pytest.mark.parametrize("file", ["heads.json", "heads.safetensors", "features.safetensors"])
def test_a_damaged_folder_is_refused(file, tmp_path):
    save_heads(random_heads(), tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-5])
    with pytest.raises(ModelRefused, match="encoder heads"):
        load_heads(tmp_path)
