"""What classifiers and image-text encoders say of pictures with one part hidden."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import StepError
from runner.nodes.embedding import ImageTower, embed
from runner.nodes.predicting import predict

if TYPE_CHECKING:
    from runner.artifacts import MaskedPictures
    from runner.context import StepContext
    from runner.models.base import Classifier, ImageTextEncoder

FloatArray = NDArray[np.float64]
SOURCE = "masked"

YesNo = tuple[Sequence[str], Sequence[str]]
"""Texts that say that a concept is there, and texts that say that it is not."""


def places_of(pictures: MaskedPictures) -> tuple[list[dict[str, Any]], list[Place]]:
    """Source specs of the folder of pictures, and each distinct picture once, sorted."""
    uris: list[Any] = pictures.views["uri"].unique().to_pylist()
    return [{"folder": str(pictures.pictures), "name": SOURCE}], [Place(SOURCE, uri) for uri in sorted(uris)]


def classifier_values(
    ctx: StepContext, classifier: Classifier, pictures: MaskedPictures, labels: Sequence[str], batch_size: int
) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Probabilities of ``labels`` by uri (softmax over all labels, or a sigmoid each), and why other pictures have none."""
    sources, places = places_of(pictures)
    read = read_pictures(open_sources(sources), places)
    outputs = predict(classifier, read, ctx, total=len(places), batch_size=batch_size)
    columns = [classifier.labels.index(label) for label in labels]
    found = {
        place.uri: probabilities(row.astype(np.float64), classifier.head)[columns]
        for place, row in outputs.logits.items()
    }
    return found, {place.uri: reason for place, reason in outputs.unreadable.items()}


def probabilities(logits: FloatArray, head: str) -> FloatArray:
    """Softmax or sigmoid of logits [labels] or [..., labels]."""
    if head == "softmax":
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        return np.asarray(raised / raised.sum(-1, keepdims=True))
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))


def zero_shot_values(
    ctx: StepContext, encoder: ImageTextEncoder, pictures: MaskedPictures, texts: Sequence[YesNo], batch_size: int
) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """By uri the softmax of logit_scale x cosine over the two sides of each concept: probability of yes; several texts of a side
    are averaged in embedding space."""
    sides = np.stack([[_side(encoder, side) for side in pair] for pair in texts])
    sources, places = places_of(pictures)
    found = embed(ctx, ImageTower(encoder), open_sources(sources), places, batch_size)
    lean = encoder.logit_scale * (sides[:, 0].astype(np.float64) - sides[:, 1])
    values = {
        place.uri: probabilities(lean @ vector.astype(np.float64), "sigmoid") for place, vector in found.vectors.items()
    }
    return values, {place.uri: reason for place, reason in found.unreadable.items()}


def _side(encoder: ImageTextEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vector of one side; the texts stand as they are, braces included."""
    each = encoder.encode_texts(list(texts)).astype(np.float64)
    mean = each.mean(0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def labels_for(
    concepts: Mapping[str, str] | None, attributes: Sequence[str], classifier: Classifier, step: str
) -> dict[str, str]:
    """Label of the classifier by attribute. Without ``concepts``: labels of the same names. Raises ``StepError``."""
    if concepts is None:
        same = {attribute: attribute for attribute in attributes if attribute in classifier.labels}
        if not same:
            raise StepError(
                f"{classifier.name} has no label with the name of an attribute", step=step,
                hint="write concepts: {attribute: label} (labels: " + ", ".join(map(repr, classifier.labels[:10])) + " ...)",
            )  # fmt: skip
        return same
    lost = [f"{label!r} (for {attribute!r})" for attribute, label in concepts.items() if label not in classifier.labels]
    if lost:
        raise StepError(
            f"{classifier.name} has no label {', '.join(lost[:5])}", step=step,
            hint=f"its labels are {', '.join(map(repr, classifier.labels[:20]))}",
        )  # fmt: skip
    return dict(concepts)


def check_attributes(names: Sequence[str], attributes: Sequence[str], step: str) -> None:
    """Raises ``StepError`` for a concept that is no attribute of the pictures."""
    unknown = [name for name in names if name not in attributes]
    if unknown:
        near = difflib.get_close_matches(unknown[0], attributes, 3)
        raise StepError(
            f"concepts: the pictures have no attribute {', '.join(map(repr, unknown[:5]))}", step=step,
            hint=f"nearest: {', '.join(near)}" if near else f"there are {', '.join(attributes[:20])}",
        )  # fmt: skip
