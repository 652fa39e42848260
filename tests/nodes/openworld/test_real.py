"""The real sentence encoder on a few strings: published facts, and one by one against all at once."""

import numpy as np
import pytest
from scored_material import MODEL, answers_of, row

from runner.assets import ensure
from runner.context import local_context
from runner.models.encoders.sentence import MeanPooled
from runner.nodes.openworld.chunks import open_chunker
from runner.nodes.openworld.concepts import concepts_of
from runner.nodes.openworld.metrics import embed_distinct, semantic_similarity
from runner.nodes.openworld.steps import score

pytestmark = pytest.mark.assets


@pytest.fixture(scope="module")
def folder():
    return ensure("minilm", lambda line: None).path


@pytest.fixture(scope="module")
def minilm(folder):
    return MeanPooled(folder)


TEXTS = [
    "lighthouse",
    "The object in the photo is a lighthouse.",
    "",
    "a dog",
    "A DOG",
    "golden retriever",
    "a" * 300,
    "a dog",
]


def test_distinct_strings_at_once_are_as_good_as_one_by_one(minilm):
    alone = np.concatenate([minilm.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(embed_distinct(TEXTS, minilm.encode).gathered(), alone, atol=1e-5)
    np.testing.assert_allclose(semantic_similarity(alone, alone), 1, atol=1e-6)


def test_published_example(minilm, tmp_path):
    """ "lighthouse" against "The object in the photo is a lighthouse.": concepts {1.000, 0.779}, mCS 0.779."""
    rows = [
        row("lighthouse", TEXTS[1]),
        row("lighthouse", "", "1"),
        row("lighthouse", "THE OBJECT in the photo is a LIGHTHOUSE.", "2"),
    ]
    scores = score(
        local_context(tmp_path), answers=[answers_of(rows)], sentences=minilm, chunker=MODEL
    ).scores.to_pylist()
    first, empty, shouted = scores
    assert first["bcs"] == pytest.approx(1, abs=1e-6) and first["n_concepts"] == 2
    assert first["mcs"] == pytest.approx(0.779, abs=5e-4) and first["semantic_similarity"] == first["mcs"]
    assert empty["n_concepts"] == 1 and 0.05 < empty["bcs"] < 0.4
    assert shouted["semantic_similarity"] == pytest.approx(first["semantic_similarity"], abs=1e-6)


def test_scores_against_one_by_one(minilm, tmp_path):
    pairs = [
        ("golden retriever", "The dog is a golden retriever, and it sits on a couch."),
        ("banded", "a striped pattern"),
        ("MD-80", "airliner, commercial, MD-80"),
        ("banded", "a striped pattern"),
        ("Sea or Lake", "An aerial photo of a lake near Chicago"),
    ]
    rows = [row(target, prediction, str(i)) for i, (target, prediction) in enumerate(pairs)]
    made = score(
        local_context(tmp_path), answers=[answers_of(rows)], sentences=minilm, chunker=MODEL
    ).scores.to_pylist()
    chunker = open_chunker(MODEL)
    for (target, prediction), scores in zip(pairs, made, strict=True):
        (spans,) = chunker.spans([prediction])
        (label,) = minilm.encode([target])
        cosines = sorted(float(minilm.encode([c.text])[0] @ label) for c in concepts_of(prediction, spans))
        wanted = [cosines[-1], cosines[(len(cosines) - 1) // 2], np.mean(cosines), cosines[0]]
        np.testing.assert_allclose([scores[n] for n in ("bcs", "mcs", "ccs_mean", "ccs_min")], wanted, atol=1e-5)


def test_long_texts_are_read_as_far_as_one_says(folder, minilm):
    """The model takes 512 tokens, which changes only texts of more than 256."""
    longer = MeanPooled(folder, max_tokens=10_000)
    assert (minilm.max_tokens, longer.max_tokens) == (256, 512) and minilm.identity != longer.identity
    short, long = (
        "a photo of a dog",
        "a photo of a dog in a park, " * 20 + "and then a spaceship lands on the moon " * 30,
    )
    np.testing.assert_allclose(longer.encode([short]), minilm.encode([short]), atol=1e-6)
    assert float((longer.encode([long]) @ minilm.encode([long]).T)[0, 0]) < 0.99
