"""The index with the genuine CLIP architecture: open_clip, tiny, random weights."""

import json

import numpy as np
import pytest
from PIL import Image

from retrieval.index import build, search
from runner.data.images import decode


@pytest.fixture
def clip(tmp_path):
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    from runner.models.encoders.clip import load_local

    torch.manual_seed(0)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    home = tmp_path / "clip"
    home.mkdir()
    size = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (home / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": size}))
    weights = {name: value.contiguous().clone() for name, value in CLIP(**config).state_dict().items()}
    save_file(weights, home / "open_clip_model.safetensors")
    return load_local(home, None, device="cpu", half=False)


def test_clip_vectors_are_indexed_and_found(tmp_path, folder, clip, ctx):
    index = build(tmp_path / "i", {"folder": str(folder), "limit": 12}, clip, ctx, batch_size=5)
    assert index.vectors.shape == (12, 16)
    for n in (0, 11):
        image = decode((folder / index.rows["uri"][n].as_py()).read_bytes())
        assert isinstance(image, Image.Image)
        assert np.allclose(index.vectors[n], clip.encode_images([image])[0], atol=2e-3)
    queries = index.embed_queries(clip, ["a red square", "a blue square"])
    found, rows = search(index, queries, 12)
    scores = queries @ index.vectors.astype(np.float32).T
    assert np.allclose(found, np.take_along_axis(scores, rows, 1), atol=1e-5)
    assert (np.diff(found, axis=1) <= 0).all()
