"""Vocabularies on disk."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.errors import DataError, ModelRefused
from runner.models.contrastive.vocabulary import about, read_vocabulary, write_vocabulary


def test_what_is_written_is_read(index, encoder):
    found = read_vocabulary(index, encoder.identity)
    assert found.texts[0] == "something red" and found.template == "{}"
    np.testing.assert_array_equal(found.vectors, encoder.encode_texts(found.texts))
    assert found.encoder["logit_scale"] == encoder.logit_scale
    assert read_vocabulary(index).digest == found.digest


def test_the_digest_changes_with_every_part(index, encoder, tmp_path):
    first = read_vocabulary(index)
    changed = [(first.texts[::-1], first.vectors, "{}"), (first.texts, first.vectors[::-1].copy(), "{}"),
               (first.texts, first.vectors, "a {}")]  # fmt: skip
    digests = {first.digest}
    for n, (texts, vectors, template) in enumerate(changed):
        folder = tmp_path / str(n)
        folder.mkdir()
        write_vocabulary(folder, texts, vectors, about(encoder), template=template)
        digests.add(read_vocabulary(folder).digest)
    assert len(digests) == 4


def test_vectors_of_another_encoder_are_refused(index):
    with pytest.raises(ModelRefused, match="another encoder"):
        read_vocabulary(index, "someone else")


@pytest.mark.parametrize("damage", ["short", "norm", "nan", "twice", "empty", "kind"])
def test_parts_that_do_not_fit_are_refused(index, encoder, damage, tmp_path):
    vectors, texts = load_file(index / "vectors.safetensors")["vectors"], list(read_vocabulary(index).texts)
    vectors = {
        "short": vectors[1:],
        "norm": vectors * 2,
        "nan": vectors * np.nan,
        "kind": vectors.astype(np.float64),
    }.get(damage, vectors)
    texts = {"twice": [*texts[:-1], texts[0]], "empty": [*texts[:-1], " "]}.get(damage, texts)
    with pytest.raises(DataError):
        write_vocabulary(tmp_path, texts, vectors, about(encoder))
    content = json.loads((index / "vocabulary.json").read_text("utf8")) | {"texts": texts}
    (index / "vocabulary.json").write_text(json.dumps(content), "utf8")
    save_file({"vectors": np.ascontiguousarray(vectors)}, index / "vectors.safetensors")
    with pytest.raises(DataError, match="do not fit"):
        read_vocabulary(index)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', "null"])
def test_other_folders_are_no_vocabularies(index, content):
    (index / "vocabulary.json").write_text(content, "utf8")
    with pytest.raises(DataError, match="no vocabulary"):
        read_vocabulary(index)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        read_vocabulary(tmp_path / "nowhere")
