"""The packaged towers themselves, and the packaged classifier in our own architecture."""

import json

import numpy as np
import pytest
from PIL import Image

from runner.models.classifier import load_classifier
from runner.models.classifier.preprocess import PreprocessSpec
from runner.models.classifier.sniff import sniff

pytestmark = pytest.mark.assets

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def photographs():
    from runner.assets import source_of

    images = source_of("cifar10-test", lambda line: None)
    return images.pixels[:200], [images.labels()[uri] for uri in images.uris()[:200]]


def test_minilm_knows_what_is_alike():
    from runner.assets import resolve
    from runner.models.encoders.sentence import MeanPooled

    encoder = MeanPooled(resolve("asset:minilm", lambda line: None))
    cat, kitten, lorry = encoder.encode(["a cat", "a kitten", "a lorry on the motorway"])
    assert encoder.dim == 384
    assert cat @ kitten > 0.6 > 0.4 > cat @ lorry


def test_tinyvit_puts_photographs_of_one_class_together(photographs):
    from runner.assets import resolve
    from runner.models.encoders.backbone import Backbone, prepare
    from runner.models.encoders.heads import unit_rows

    backbone = Backbone(resolve("asset:tinyvit-5m", lambda line: None))
    pixels, labels = photographs
    v = unit_rows(backbone.features(np.stack([prepare(Image.fromarray(p)) for p in pixels[:80]])))
    cosines = v @ v.T - 2 * np.eye(len(v))
    names = np.array(labels[:80])
    assert v.shape == (80, 320)
    assert (names[cosines.argmax(1)] == names).mean() > 0.5


def test_the_packaged_classifier_is_right_on_nine_of_ten_photographs(photographs):
    from runner.assets import resolve

    path = resolve("asset:cifar10-resnet56", lambda line: None)
    if path.is_dir():
        path = next(p for p in sorted(path.iterdir()) if sniff(p).format == "safetensors")
    settings = {"architecture": "runner:cifar_resnet56", "labels": CIFAR, "preprocess": PreprocessSpec(size=32)}
    model = load_classifier(path, **settings)
    pixels, labels = photographs
    scores = model.logits(np.stack([model.prepare(Image.fromarray(p)) for p in pixels]))
    assert np.mean([CIFAR[i] == name for i, name in zip(scores.argmax(1), labels, strict=True)]) >= 0.9


@pytest.mark.large
def test_the_spec_reproduces_its_table(tmp_path):
    """Recall on unseen captions and zero-shot accuracy of both heads; reference values measured beforehand."""
    from runner.context import local_context
    from runner.nodes.encoder.steps import evaluate_mini, fit_mini

    drawn = [{"packaged": name} for name in ("google-emoji", "fluent-3d", "tuxpaint-stamps")]
    fitted = fit_mini(local_context(tmp_path / "fit"), corpus=drawn)
    measured = evaluate_mini(
        local_context(tmp_path / "e"), fits={"drawn": fitted}, dataset={"packaged": "cifar10-test"}
    )
    got = {(r["head"], r["dataset"], r["metric"]): r["value"] for r in fitted.scores.to_pylist()}
    got |= {(r["head"], r["prompt"]): r["value"] for r in measured.scores.to_pylist()}
    expected = {
        ("ridge", "google-emoji", "recall@1"): 0.25, ("ridge", "google-emoji", "recall@5"): 0.52,
        ("ridge", "fluent-3d", "recall@1"): 0.25, ("ridge", "fluent-3d", "recall@5"): 0.48,
        ("ridge", "tuxpaint-stamps", "recall@1"): 0.26, ("ridge", "tuxpaint-stamps", "recall@5"): 0.49,
        ("contrastive", "google-emoji", "recall@1"): 0.33, ("contrastive", "google-emoji", "recall@5"): 0.55,
        ("drawn: ridge", "{}"): 0.615, ("drawn: ridge", "a photo of a {}"): 0.641,
        ("drawn: contrastive", "{}"): 0.578, ("drawn: contrastive", "a photo of a {}"): 0.576,
    }  # fmt: skip
    far = {key: (got[key], value) for key, value in expected.items() if abs(got[key] - value) > 0.03}
    assert not far, json.dumps({str(k): v for k, v in far.items()})
