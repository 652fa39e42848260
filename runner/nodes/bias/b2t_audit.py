"""Bias-to-Text over labelled pictures: what each picture says, keywords of the wrong ones, rows of ``c2b_b2t``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext
from runner.data.places import Place
from runner.data.sources import Source
from runner.errors import DataError
from runner.models.base import Classifier, ImageTextEncoder
from runner.naming import normalised
from runner.nodes.bias.b2t import b2t_intervals, b2t_scores, keywords, marks, subgroup_accuracy
from runner.nodes.bias.labels import judge_images, map_labels
from runner.nodes.bias.statistics import wilson_interval
from runner.nodes.predicting import predict

Row = dict[str, Any]
FloatArray = NDArray[np.float32]


@dataclass
class LabelledClasses:
    """``correct`` {class: {picture: right}} over the pictures that truly show it, ``captions`` {picture: text}."""

    correct: dict[str, dict[Place, bool]]
    captions: dict[Place, str] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """All pictures, each once, in order."""
        return sorted({place for own in self.correct.values() for place in own})


def captioned_pictures(
    sources: Sequence[Source], wanted: set[Place], captions: dict[Place, str]
) -> Iterator[tuple[Place, bytes]]:
    """The wanted pictures as their sources list them, noting in ``captions`` what text came with each."""
    for source in sources:
        for record in source:
            place = Place(source.source_id, record.uri)
            if place in wanted:
                if record.caption:
                    captions[place] = record.caption
                yield place, record.data


def true_classes(
    sources: Sequence[Source], labels: Sequence[str], label_map: Mapping[str, str]
) -> tuple[dict[Place, str], dict[str, str]]:
    """({picture: class}, {label of the classifier: class}) for the pictures whose label is a class of the classifier.

    ``label_map`` says what labels mean, of the data as of the classifier; others mean their own name. Raises ``DataError``
    where a source has no labels, or none is a class of the classifier.
    """
    meaning = {normalised(label): value for label, value in label_map.items()}
    own = {normalised(label): label for label in labels}
    given = {own[name]: value for name, value in meaning.items() if name in own}
    classes = {
        normalised(given.get(label, part)): given.get(label, part)
        for label in labels
        for part in (*label.split(","), label)
    }
    known: dict[Place, str] = {}
    for source in sources:
        found = source.labels()
        if found is None:
            raise DataError(f"the source {source.source_id!r} has no labels", hint="Bias-to-Text needs true labels.")
        for uri, label in found.items():
            name = normalised(meaning.get(normalised(label), label))
            if name in classes:
                known[Place(source.source_id, uri)] = classes[name].strip()
    if not known:
        raise DataError(
            "no true label is a class of the classifier",
            hint=f"Map with label_map. Its labels: {', '.join(labels[:20])}.",
        )
    return known, given


def judged_classes(
    ctx: StepContext,
    classifier: Classifier,
    sources: Sequence[Source],
    label_map: Mapping[str, str],
    targets: Sequence[str] | None,
    batch_size: int,
) -> LabelledClasses:
    """Run the classifier over the labelled pictures of the sources, and note their captions on the way."""
    known, given = true_classes(sources, classifier.labels, label_map)
    classes = sorted(set(known.values()))
    labels = map_labels(classifier.labels, classes, {label: c for label, c in given.items() if c in classes})
    chosen = _of_targets(known, targets)
    captions: dict[Place, str] = {}
    pictures = captioned_pictures(sources, set(chosen), captions)
    outputs = predict(classifier, pictures, ctx, total=len(chosen), batch_size=batch_size)
    correct: dict[str, dict[Place, bool]] = {}
    for target in sorted(set(chosen.values())):
        own = [place for place, name in chosen.items() if name == target and place in outputs.logits]
        if own:
            said = judge_images(
                np.stack([outputs.logits[p] for p in own]), labels, target,
                prediction="top1", yes_no=classifier.head == "multilabel",
            )  # fmt: skip
            correct[target] = dict(zip(own, said.correct.tolist(), strict=True))
    return LabelledClasses(correct, captions)


def _of_targets(known: dict[Place, str], targets: Sequence[str] | None) -> dict[Place, str]:
    if targets is None:
        return known
    wanted = {normalised(target) for target in targets}
    unknown = wanted - {normalised(name) for name in known.values()}
    if unknown:
        hint = f"True classes: {', '.join(sorted(set(known.values()))[:20])}."
        raise DataError(f"targets: no picture has the true class {min(unknown)!r}", hint=hint)
    return {place: name for place, name in known.items() if normalised(name) in wanted}


@dataclass(frozen=True)
class KeywordRules:
    """``top`` keywords a class, shown to the encoder as ``template`` with {keyword}."""

    top: int = 20
    template: str = "a photo of a {keyword}"
    confidence: float = 0.95


def keyword_rows(
    ctx: StepContext,
    classes: LabelledClasses,
    embeddings: Mapping[Place, FloatArray],
    encoder: ImageTextEncoder,
    rules: KeywordRules,
) -> list[Row]:
    """Rows of ``c2b_b2t`` for all classes. Says how many keywords were dropped, and which classes have none."""
    rows: dict[str, list[Row]] = {}
    for target, right in classes.correct.items():
        places = sorted(place for place in right if place in embeddings)
        rows[target] = _class_rows(ctx, target, places, right, classes.captions, embeddings, encoder, rules)
    scores = {t: {r["keyword"]: _number(r["score"]) for r in own} for t, own in rows.items()}
    marked = marks(scores)
    return [row | {"mark": marked[t][row["keyword"]]} for t, own in rows.items() for row in own]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _class_rows(
    ctx: StepContext,
    target: str,
    places: Sequence[Place],
    right: Mapping[Place, bool],
    captions: Mapping[Place, str],
    embeddings: Mapping[Place, FloatArray],
    encoder: ImageTextEncoder,
    rules: KeywordRules,
) -> list[Row]:
    found = keywords([captions[p] for p in places if not right[p] and p in captions], top=rules.top)
    if found.spanning:
        ctx.warn(f"{len(found.spanning)} keywords stand in no single caption and were dropped", item=target)
    if not found.kept:
        ctx.warn("no keywords: no wrong picture has a caption with words to tell", item=target)
        return []
    correct = np.array([right[p] for p in places], bool)
    vectors = np.stack([embeddings[p] for p in places])
    texts = [rules.template.replace("{keyword}", keyword.text) for keyword in found.kept]
    encoded = encoder.encode_texts(texts)
    score = b2t_scores(vectors, encoded, correct)
    low, high = b2t_intervals(vectors, encoded, correct, rules.confidence)
    held = [p in captions for p in places]
    told = [captions[p] for p in places if p in captions]
    rows: list[Row] = []
    for i, keyword in enumerate(found.kept):
        group = subgroup_accuracy(told, correct[held], keyword.text)
        limits = [_plain(limit) for limit in wilson_interval(group.k, group.n, rules.confidence)]
        rows.append({
            "target": target, "keyword": keyword.text, "rank": i + 1, "yake": keyword.yake, "caption": texts[i],
            "n_wrong": int((~correct).sum()), "n_right": int(correct.sum()), "score": _plain(score[i]),
            "score_low": _plain(low[i]), "score_high": _plain(high[i]), "subgroup_n": group.n, "subgroup_k": group.k,
            "subgroup_acc": _plain(group.acc), "subgroup_low": limits[0], "subgroup_high": limits[1],
            "class_acc": float(correct.mean()),
        })  # fmt: skip
    return rows


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
