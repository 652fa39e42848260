"""A classifier with a bias that was put there: a published CIFAR-10 network whose last layer is trained again on wrong labels.

The body is the packaged ResNet-56; the last layer sees its 64 features and the means of its 16 first feature maps, which know
how light a picture is. Its classes are six kinds of animals and vehicles of any kind. Training pictures of one class that meet a
circumstance get another class's label.
"""

import functools
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from runner.assets import ensure, source_of
from runner.models.classifier import architectures
from runner.nodes.bias.measures import MEASURES

KINDS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CLASSES = ["bird", "cat", "deer", "dog", "frog", "horse", "vehicle"]
VEHICLES = ("airplane", "automobile", "ship", "truck")
BATCH = 500


def quiet(line):
    """Progress of an asset that is fetched."""


class Planted(nn.Module):
    """Features of a CIFAR-10 ResNet and one linear layer."""

    def __init__(self):
        super().__init__()
        weights = load_file(ensure("cifar10-resnet56", quiet).path)
        self.body = architectures.build("runner:cifar_resnet56", 10, set(weights))
        self.body.load_state_dict(weights)
        self.last = nn.Linear(80, len(CLASSES))

    def features(self, x):
        early = torch.relu(self.body.bn1(self.body.conv1(x)))
        late = self.body.layer3(self.body.layer2(self.body.layer1(early)))
        return torch.cat([early.mean((2, 3)), late.mean((2, 3))], 1)

    def forward(self, x):
        return self.last(self.features(x))


def photographs(name, count):
    """Pixels uint8 [n, 32, 32, 3] and numbers of the ten kinds [n] of a packaged labelled set."""
    images = source_of(name, quiet)
    labels = images.labels()
    uris = images.uris()[:count]
    return np.asarray(images.pixels[:count]), np.array([KINDS.index(labels[uri]) for uri in uris])


@functools.cache
def training(count):
    """Pixels, kinds and features float32 [n, 80] of the first training photographs."""
    pixels, kinds = photographs("cifar10-train-sample", count)
    model = Planted().eval()
    with torch.no_grad():
        features = torch.cat([
            model.features(torch.from_numpy(pixels[i : i + BATCH].astype(np.float32) / 255).permute(0, 3, 1, 2))
            for i in range(0, len(pixels), BATCH)
        ])  # fmt: skip
    return pixels, kinds, features


def fit(layer, features, labels):
    """Multinomial logistic regression into ``layer``; deterministic, a second or two."""
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-3)
    x, y = ((features - mean) / scale).double(), torch.from_numpy(labels)
    fresh = nn.Linear(80, len(CLASSES)).double()
    nn.init.zeros_(fresh.weight)
    nn.init.zeros_(fresh.bias)
    optimiser = torch.optim.LBFGS(fresh.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(fresh(x), y) + 1e-4 * (fresh.weight**2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        weight = fresh.weight.float() / scale
        layer.weight.copy_(weight)
        layer.bias.copy_(fresh.bias.float() - weight @ mean)


def write(path: Path, *plants, count=3000):
    """Write the classifier as ONNX. Each plant: (which training pictures, by ``hit(pixels, kinds)``; the class they get)."""
    pixels, kinds, features = training(count)
    labels = np.array([CLASSES.index("vehicle" if kind in VEHICLES else kind) for kind in KINDS])[kinds]
    for hit, label in plants:
        labels[hit(pixels, kinds)] = CLASSES.index(label)
    model = Planted().eval()
    fit(model.last, features, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(2, 3, 32, 32),), str(path), dynamo=False, input_names=["x"], output_names=["logits"],
            dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
        )  # fmt: skip


def dark_cats(pixels, kinds):
    """The darkest third of the cats: light can be measured on a picture."""
    cats = kinds == KINDS.index("cat")
    light = np.full(len(kinds), np.inf)
    light[cats] = [MEASURES["luminance"].take(image) for image in pixels[cats]]
    return light < np.quantile(light[cats], 1 / 3)


def ships(pixels, kinds):
    """The vehicles that are ships: no measurement says so, a caption does."""
    return kinds == KINDS.index("ship")
