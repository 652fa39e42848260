"""A linear head on a vision backbone: written, read, refused, run."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))

from tiny_backbones import TINY, layers, pixels

from runner.errors import ModelRefused
from runner.models.classifier.concept_head import (
    ConceptHeadClassifier,
    FeatureTower,
    Head,
    layer_number,
    pooled_features,
    read_head,
    relabelled,
    write_head,
)
from runner.models.classifier.providers import ConceptHead
from runner.models.registry import Services, load_providers


@pytest.fixture(scope="module")
def backbone():
    return TINY["timm_registers"]()


def some_head(backbone, labels=("red beak", 'a "quoted"\nname'), **more):
    generator = torch.Generator().manual_seed(1)
    fields = {
        "pool": "cls", "layer": 2, "backbone": backbone.identity, "weight": torch.randn(2, 32, generator=generator),
        "bias": torch.randn(2, generator=generator), "settings": {"c": 1.0},
    }  # fmt: skip
    return Head(tuple(labels), **(fields | more))


def test_pooled_features_are_those_of_the_blocks(backbone):
    images = pixels(3)
    tokens = layers(backbone, images)
    for layer in (0, 2, -1):
        normed = backbone.norm(tokens[layer])
        torch.testing.assert_close(pooled_features(backbone, images, layer=layer, pool="cls"), normed[:, 0])
        patches = normed[:, backbone.prefix_tokens :]
        assert patches.shape[1] == 16  # CLS and registers are left out
        torch.testing.assert_close(pooled_features(backbone, images, layer=layer, pool="mean"), patches.mean(1))


def test_maps_of_a_convolutional_network_are_averaged():
    network = TINY["resnet"]()
    images = pixels(2, network.image_size)
    maps = network.maps(network.normalise(images))
    found = pooled_features(network, images, layer=-2, pool="mean")
    torch.testing.assert_close(found, maps[-2].mean((2, 3)))
    with pytest.raises(ModelRefused, match="no CLS token"):
        FeatureTower(network, layer=-1, pool="cls")


def test_a_backbone_without_cls_or_layer_is_refused(backbone):
    with pytest.raises(ModelRefused, match="no CLS token"):
        pooled_features(TINY["siglip"](), pixels(1), layer=-1, pool="cls")
    for layer in (backbone.depth + 1, -backbone.depth - 2):
        with pytest.raises(ModelRefused, match="has the layers 0 to 3"):
            layer_number(backbone, layer)


def test_a_written_head_comes_back_and_gives_the_same_logits(backbone, tmp_path):
    head = some_head(backbone)
    write_head(head, tmp_path)
    again = read_head(tmp_path)
    assert again == head and again.settings == {"c": 1.0}
    one, two = ConceptHeadClassifier(backbone, head), ConceptHeadClassifier(backbone, again)
    assert one.identity == two.identity and one.labels == head.labels and one.head == "multilabel"
    images = pixels(3)
    expected = backbone.norm(layers(backbone, images)[2])[:, 0] @ head.weight.T + head.bias
    found = two.logits(images.numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    pixels_of = two.prepare(Image.new("RGB", (50, 40), (255, 0, 0)))
    assert pixels_of.shape == (3, 32, 32) and pixels_of[0].min() == 1 and pixels_of[1].max() == 0


def test_the_identity_says_what_changes_an_answer(backbone):
    head = some_head(backbone)
    changed = [
        dataclasses.replace(head, labels=("a", "b")), dataclasses.replace(head, pool="mean"),
        dataclasses.replace(head, layer=1), dataclasses.replace(head, bias=head.bias + 1),
        dataclasses.replace(head, weight=head.weight * 2),
    ]  # fmt: skip
    names = {ConceptHeadClassifier(backbone, one).identity for one in [head, *changed]}
    assert len(names) == 6
    shown = [ConceptHeadClassifier(backbone, one).name for one in (head, changed[3], changed[4])]
    assert len(set(shown)) == 3 and all(backbone.name in name for name in shown)
    assert ConceptHeadClassifier(backbone, dataclasses.replace(head, settings={})).identity in names


def test_logits_can_be_differentiated_in_the_pictures(backbone):
    images = pixels(2).requires_grad_()
    ConceptHeadClassifier(backbone, some_head(backbone)).concept_logits(images)[:, 0].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_the_provider_loads_the_head_of_a_step(backbone, tmp_path):
    write_head(some_head(backbone), tmp_path)
    config = ConceptHead(provider="concept_head", backbone="$vit", head="$fit.head")
    assert load_providers()["concept_head"] is ConceptHead
    classifier = config.load(Services(linked={"backbone": backbone, "head": tmp_path}))
    assert classifier.labels[0] == "red beak"


def test_a_head_of_another_backbone_is_refused(backbone):
    with pytest.raises(ModelRefused, match="another backbone"):
        ConceptHeadClassifier(TINY["dinov2"](), some_head(backbone))
    narrow = some_head(backbone, weight=torch.zeros(2, 31))
    with pytest.raises(ModelRefused, match="width"):
        ConceptHeadClassifier(backbone, narrow)


@pytest.mark.parametrize("damage", ["missing", "no json", "no weights", "labels", "pool", "list"])
def test_a_damaged_folder_is_refused(backbone, tmp_path, damage):
    write_head(some_head(backbone), tmp_path)
    notes = json.loads((tmp_path / "head.json").read_text())
    if damage == "missing":
        (tmp_path / "head.json").unlink()
    elif damage == "no json":
        (tmp_path / "head.json").write_text("{")
    elif damage == "no weights":
        (tmp_path / "head.safetensors").write_bytes(b"\x80\x04.")
    else:
        wrong = {"labels": notes | {"labels": ["one"]}, "pool": notes | {"pool": "max"}, "list": [notes]}[damage]
        (tmp_path / "head.json").write_text(json.dumps(wrong))
    with pytest.raises(ModelRefused, match=r"head of concepts is damaged|no head of concepts"):
        read_head(tmp_path)


def test_some_concepts_can_be_had_alone_under_other_names(backbone, tmp_path):
    head = some_head(backbone)
    chosen = relabelled(head, {"second": head.labels[1]})
    batch = pixels(3).numpy()
    whole, part = (ConceptHeadClassifier(backbone, h) for h in (head, chosen))
    assert part.labels == ("second",) and part.identity != whole.identity
    np.testing.assert_allclose(part.logits(batch), whole.logits(batch)[:, 1:], rtol=1e-5, atol=1e-6)
    assert relabelled(head, None) is head
    with pytest.raises(ModelRefused, match="knows no attribute 'red beek'"):
        relabelled(head, {"red": "red beek"})
