import json

import numpy as np
import pytest
import torch
from tiny import write_sentences
from transformers import AutoModel, AutoTokenizer

from runner.errors import ModelRefused
from runner.models.encoders.sentence import MeanPooled

TEXTS = ["red square", "a photo of a green square", "blue", "red square"]


def test_embeddings_are_the_mean_over_the_tokens(tmp_path):
    folder = write_sentences(tmp_path / "s")
    encoder = MeanPooled(folder)
    got = encoder.encode(TEXTS)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, row in zip(TEXTS, got, strict=True):
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(got[0], got[3], atol=1e-6)
    assert encoder.encode([]).shape == (0, 16)


def test_identity_follows_the_weights(tmp_path):
    first, same, other = (MeanPooled(write_sentences(tmp_path / n, seed)) for n, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first.identity == same.identity != other.identity


def test_another_pooling_or_a_missing_file_is_refused(tmp_path):
    folder = write_sentences(tmp_path / "s")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(ModelRefused, match="does not pool by the mean"):
        MeanPooled(folder)
    (folder / "1_Pooling" / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"model\.safetensors is missing"):
        MeanPooled(folder)
