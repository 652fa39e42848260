"""True bias scores of a classifier on a labelled data set: pictures in, rows of ``c2b_ground_truth`` out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from results.tables import arrow_schema
from runner.context import StepContext
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError
from runner.models.base import Classifier
from runner.naming import normalised
from runner.nodes.bias.datasets.base import LabelledImages
from runner.nodes.bias.evaluation import Gaps, celeba_ground_truth, imagenet_x_ground_truth
from runner.nodes.bias.labels import LabelMap, Said, judge_images, map_labels
from runner.nodes.bias.statistics import mover_interval
from runner.nodes.predicting import predict

Row = dict[str, Any]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class CaptionWording:
    """Sentences for true biases: ``template`` with ``{target}`` and ``{bias}``, or a sentence of its own for some biases."""

    template: str
    own: Mapping[str, str]

    def caption(self, target: str, bias: str) -> str:
        """The sentence for one target and bias, in small letters and without underscores."""
        own = {normalised(name): text for name, text in self.own.items()}
        text = own.get(normalised(bias), self.template)
        return text.replace("{target}", normalised(target)).replace("{bias}", normalised(bias))


class Predicted(NamedTuple):
    """Pictures that the classifier read, with their logits float32 [n, labels]."""

    images: LabelledImages
    logits: FloatArray


class Measured(NamedTuple):
    """``targets`` [t], counts [t, biases], and a table of ``c2b_prediction``: one row a picture and target it truly shows."""

    targets: list[str]
    gaps: Gaps
    predictions: pa.Table


@dataclass(frozen=True)
class Task:
    """What is measured: ``classifier`` on ``images``; ``targets`` None = all that it has a label for (``label_map``)."""

    ctx: StepContext
    classifier: Classifier
    images: LabelledImages
    targets: Sequence[str] | None
    label_map: Mapping[str, str]
    batch_size: int

    def predict(self, images: LabelledImages) -> Predicted:
        """``predict_all`` of some of the pictures."""
        return predict_all(self.ctx, self.classifier, images, self.batch_size)


def corpus_of(images: LabelledImages) -> list[dict[str, Any]]:
    """The data set's pictures as ``open_sources`` takes them."""
    return [{"folder": str(images.root), "name": images.name}]


def measure(
    ctx: StepContext,
    classifier: Classifier,
    images: LabelledImages,
    *,
    targets: Sequence[str] | None = None,
    label_map: Mapping[str, str] | None = None,
    batch_size: int = 64,
) -> Measured:
    """Run the classifier once on every picture that matters and count. Raises ``DataError`` for unknown targets."""
    if images.missing:
        ctx.warn(f"{len(images.missing)} pictures that {images.name} names are not there", item=images.missing[0])
    task = Task(ctx, classifier, images, targets, label_map or {}, batch_size)
    return _yes_no(task) if images.kind == "yes_no" else _one_of_many(task)


def predict_all(ctx: StepContext, classifier: Classifier, images: LabelledImages, batch_size: int) -> Predicted:
    """Logits of the pictures that can be read. Raises ``DataError`` where none can."""
    places = [Place(images.name, uri) for uri in images.uris]
    pictures = read_pictures(open_sources(corpus_of(images)), places)
    outputs = predict(classifier, pictures, ctx, total=len(places), batch_size=batch_size)
    if outputs.unreadable:
        place, reason = min(outputs.unreadable.items())
        ctx.warn(f"{len(outputs.unreadable)} pictures count nowhere, first: {reason}", item=place.uri)
    rows = [i for i, place in enumerate(places) if place in outputs.logits]
    if not rows:
        raise DataError(f"none of the {len(places)} pictures of {images.name} can be read")
    return Predicted(images.take(rows), np.stack([outputs.logits[places[i]] for i in rows]))


def _yes_no(task: Task) -> Measured:
    classifier, label_map = task.classifier, task.label_map
    chosen = _attributes(classifier, task.images.biases, task.targets, label_map)
    labels = map_labels(classifier.labels, chosen, label_map)
    images, logits = task.predict(task.images)
    own = [images.biases.index(name) for name in chosen]
    yes_no = classifier.head == "multilabel"
    said = [judge_images(logits, labels, name, prediction="top1", yes_no=yes_no) for name in chosen]
    gaps = celeba_ground_truth(np.stack([s.correct for s in said], 1), images.present, own)
    shown = [np.flatnonzero(images.present[:, column]) for column in own]
    parts = [
        prediction_columns(images, rows, name, _some(s, rows))
        for name, rows, s in zip(chosen, shown, said, strict=True)
    ]
    return Measured(chosen, gaps, pa.concat_tables(parts))


def _attributes(
    classifier: Classifier, attributes: Sequence[str], targets: Sequence[str] | None, label_map: Mapping[str, str]
) -> list[str]:
    """The audited attributes, as the data set spells them; by default all that the classifier has a label for."""
    by_name = {normalised(name): name for name in attributes}
    if targets is not None:
        unknown = [name for name in targets if normalised(name) not in by_name]
        if unknown:
            raise DataError(
                f"targets: the data set has no attribute {unknown[0]!r}",
                hint=f"Its attributes: {', '.join(attributes)}.",
            )
        return [by_name[normalised(name)] for name in dict.fromkeys(targets)]
    known = {normalised(part) for label in classifier.labels for part in (label, *label.split(","))}
    known |= {normalised(value) for value in label_map.values()}
    found = [name for key, name in by_name.items() if key in known]
    if not found:
        raise DataError(
            "no label of the classifier is an attribute of the data set",
            hint=f"Say with label_map which label means which attribute: {', '.join(attributes)}.",
        )
    return found


def _one_of_many(task: Task) -> Measured:
    images, classifier, targets = task.images, task.classifier, task.targets
    if images.classes.max() >= len(classifier.labels):
        raise DataError(
            f"{images.name} has class {images.classes.max()}, but the classifier has {len(classifier.labels)} labels",
            hint="Its labels must be the data set's classes, in their order.",
        )
    meaning = class_names(classifier.labels, task.label_map)
    names = list(dict.fromkeys(meaning))
    class_of = np.array([names.index(name) for name in meaning], np.int64)
    owner = class_of[images.classes]
    chosen = sorted(set(owner.tolist())) if targets is None else _classes(names, targets)
    images = images.take(np.flatnonzero(np.isin(owner, chosen)))
    if not images.uris:
        raise DataError(f"{images.name} has no picture of {', '.join(names[c] for c in chosen[:5])}")
    images, logits = task.predict(images)
    owner = class_of[images.classes]
    labels = LabelMap(meaning, tuple(names))
    correct = np.zeros(len(owner), bool)
    parts = [arrow_schema("c2b_prediction").empty_table()]
    for c in chosen:
        rows = np.flatnonzero(owner == c)
        if rows.size:
            said = judge_images(logits[rows], labels, names[c], prediction="top1", yes_no=False)
            correct[rows] = said.correct
            parts.append(prediction_columns(images, rows, names[c], said))
    gaps = imagenet_x_ground_truth(correct, owner, images.present, len(names))
    return Measured([names[c] for c in chosen], gaps.take(np.array(chosen, np.int64)), pa.concat_tables(parts))


def class_names(labels: Sequence[str], label_map: Mapping[str, str]) -> tuple[str, ...]:
    """What each label is called: as ``label_map`` says, else its own name; labels of one name are told apart by index."""
    given = {normalised(label): value for label, value in label_map.items()}
    unknown = set(given) - {normalised(label) for label in labels}
    if unknown:
        raise DataError(f"label_map: the classifier has no label {min(unknown)!r}")
    often = Counter(normalised(label) for label in labels)
    return tuple(
        given.get(normalised(label)) or (label if often[normalised(label)] == 1 else f"{label} ({i})")
        for i, label in enumerate(labels)
    )


def name_parts(name: str) -> list[str]:
    """The normalised names that a label goes by: as a whole, and each of its synonyms ("tabby, tabby cat")."""
    return list(dict.fromkeys(normalised(part) for part in (name, *name.split(",")) if part.strip()))


def _classes(names: Sequence[str], targets: Sequence[str]) -> list[int]:
    by_name: dict[str, int] = {}
    for i, name in enumerate(names):
        for part in name_parts(name):
            by_name.setdefault(part, i)
    unknown = [target for target in targets if normalised(target) not in by_name]
    if unknown:
        raise DataError(
            f"targets: the classifier has no label {unknown[0]!r}",
            hint="Labels of one name are told apart by their index: crane (134).",
        )
    return list(dict.fromkeys(by_name[normalised(target)] for target in targets))


def _some(said: Said, rows: NDArray[np.int64]) -> Said:
    return Said(said.pred[rows], said.correct[rows], said.score[rows], said.rank[rows])


def prediction_columns(images: LabelledImages, rows: NDArray[np.int64], target: str, said: Said) -> pa.Table:
    """Rows of ``c2b_prediction`` for pictures that show ``target``, column by column; ``said`` is about these rows."""
    n = len(rows)
    columns = {
        "source_id": [images.name] * n, "uri": [images.uris[i] for i in rows], "target": [target] * n,
        "pred": said.pred.tolist(), "correct": said.correct, "score": np.asarray(said.score, np.float64),
        "rank_of_target": said.rank.astype(np.int32),
    }  # fmt: skip
    return pa.table(columns, schema=arrow_schema("c2b_prediction"))


def truth_rows(
    measured: Measured,
    biases: Sequence[str],
    wording: CaptionWording,
    *,
    dataset: str,
    classifier: str,
    confidence: float,
) -> list[Row]:
    """Rows of ``c2b_ground_truth``: one a target and bias whose score is defined."""
    score = measured.gaps.score
    k, n = measured.gaps.k, measured.gaps.n
    low, high = (limit[..., 0] for limit in mover_interval(k, n, confidence))
    return [
        {
            "dataset": dataset, "classifier": classifier, "target": measured.targets[t], "bias": biases[b],
            "caption": wording.caption(measured.targets[t], biases[b]),
            "n_with": int(n[t, b, 0]), "k_with": int(k[t, b, 0]), "n_without": int(n[t, b, 1]),
            "k_without": int(k[t, b, 1]), "score": float(score[t, b]), "low": float(low[t, b]), "high": float(high[t, b]),
        }
        for t, b in np.argwhere(~np.isnan(score))
    ]  # fmt: skip
