"""Zero-shot classification with fitted heads, scored against labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runner.models.encoders.heads import HeadKind, MiniHeads, unit_rows
from runner.nodes.backbone_features import SourceFeatures
from runner.nodes.encoder_metrics import Score, accuracy_score

FloatArray = NDArray[np.float32]
KINDS: tuple[HeadKind, ...] = ("ridge", "contrastive", "mean")


def zero_shot_scores(
    name: str,
    heads: MiniHeads,
    found: SourceFeatures,
    labels: Mapping[str, str],
    templates: Sequence[str],
    encode: Callable[[Sequence[str]], FloatArray],
) -> list[Score]:
    """Accuracy of each head with each template over the labelled pictures; ``labels`` maps uri to class name."""
    rows = [row for row, uri in enumerate(found.uris) if uri in labels]
    classes = sorted({labels[found.uris[row]] for row in rows})
    truth = np.array([classes.index(labels[found.uris[row]]) for row in rows], np.int64)
    v = unit_rows(found.features[rows])
    scores = []
    for template in templates:
        t = encode([template.replace("{}", label) for label in classes])
        for kind in KINDS:
            head = heads.head(kind)
            scored = f"{name}: {kind}"
            scores.append(accuracy_score(scored, found.source_id, template, head.images(v), head.texts(t), truth))
    return scores
