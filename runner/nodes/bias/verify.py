"""The check of retrieved pictures by a classifier that is neither the retriever nor the audited one. Where files are read.

The score of a target is the share of the softmax of the outputs that mean it, taken among all outputs (``all``), among those
that mean a class of the task (``task``), or the geometric mean of the two (``both``). Which is taken, and from where on it
counts as yes, is chosen on labelled pictures by Youden's J.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from runner.artifacts import RetrievedImages
from runner.context import StepContext
from runner.data.places import Place, read_pictures
from runner.data.sources import Source
from runner.errors import DataError
from runner.models.base import Classifier
from runner.naming import normalised
from runner.nodes.bias.mixture import confusion_of
from runner.nodes.bias.seeds import seed_of
from runner.nodes.bias.verification import (
    MIN_YOUDEN,
    held_out_answers,
    quality_row,
    youden_low,
    youden_threshold,
)
from runner.nodes.predicting import predict

if TYPE_CHECKING:
    from runner.nodes.wordnet import WordNet

FloatArray = NDArray[np.float64]
Row = dict[str, Any]
ScoreKind = Literal["both", "task", "all"]

SCORE_KINDS: tuple[ScoreKind, ...] = ("both", "task", "all")


@dataclass(frozen=True)
class VerifyOptions:
    """What the step's parameters say."""

    reject: bool = True
    min_probability: float = 0.5
    label_map: Mapping[str, str] = field(default_factory=dict)
    calibration_label_map: Mapping[str, str] = field(default_factory=dict)
    per_class: int = 100
    batch_size: int = 64


@dataclass(frozen=True)
class Calibration:
    """Labelled pictures: ``labels`` gives the class of each, in the words of the task where it is one of its classes."""

    sources: Sequence[Source]
    labels: Mapping[Place, str]


@dataclass(frozen=True)
class Checked:
    """What a verifier found: rows of ``c2b_verifier``, and its answer and score for each target and picture."""

    verifier: list[Row]
    shows: Mapping[tuple[str, Place], bool | None]
    scores: Mapping[tuple[str, Place], float] = field(default_factory=dict)
    values: Mapping[tuple[str, Place, str], str | None] = field(default_factory=dict)


def task_classes(task: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names of each class of the task: its own and the one used in captions."""
    names: dict[str, tuple[str, ...]] = {}
    for output in task["outputs"]:
        for value in output["values"]:
            names[value] = tuple(dict.fromkeys((value, output.get("caption_names", {}).get(value, value))))
    return names


def retrieved_places(images: RetrievedImages) -> dict[str, list[Place]]:
    """Kept pictures of each target, over all its captions, sorted."""
    target_of = {c["caption_id"]: c["target"] for c in images.captions.to_pylist()}
    places: dict[str, set[Place]] = {target: set() for target in images.targets}
    columns = images.retrieval.select(["caption_id", "source_id", "uri", "kept"]).to_pylist()
    for row in columns:
        if row["kept"]:
            places[target_of[row["caption_id"]]].add(Place(row["source_id"], row["uri"]))
    return {target: sorted(found) for target, found in places.items()}


# --- calibration pictures --------------------------------------------------------------------------------------------


def calibration_sample(
    sources: Sequence[Source],
    classes: Iterable[str],
    label_map: Mapping[str, str],
    *,
    per_class: int,
    seed: int,
    audited: Iterable[Place] = (),
) -> Calibration:
    """At most ``per_class`` pictures of each label, drawn by ``seed``; none that the audit uses.

    ``label_map``: label -> class of the task, for those that have other names. Labels that are no class of the task stay as
    they are: their pictures show none of the targets. Raises ``DataError`` where a source has no labels, or no label is a
    class of the task.
    """
    by_name = {normalised(name): name for name in classes} | {normalised(k): v for k, v in label_map.items()}
    used = set(audited)
    by_label: dict[str, list[Place]] = {}
    for source in sources:
        labels = source.labels()
        if labels is None:
            raise DataError(f"the calibration source {source.source_id!r} has no labels")
        for uri, label in labels.items():
            by_label.setdefault(by_name.get(normalised(label), label), []).append(Place(source.source_id, uri))
    if not set(by_label) & set(by_name.values()):
        found = ", ".join(sorted(by_label)[:10])
        raise DataError(f"no label of the calibration pictures is a class of the task: {found}", hint=_MAP_HINT)
    drawn: dict[Place, str] = {}
    for label, places in sorted(by_label.items()):
        free = sorted(set(places) - used)
        order = np.random.default_rng(seed_of(seed, "calibration", label)).permutation(len(free))
        drawn |= {free[i]: label for i in order[:per_class]}
    return Calibration(sources, drawn)


_MAP_HINT = "Say with calibration_label_map which label means which class."


# --- outputs that mean a target --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outputs:
    """Outputs of the verifier by class of the task, and what the user should know about how they were found."""

    of: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()


def verifier_outputs(labels: Sequence[str], classes: Mapping[str, Sequence[str]], given: Mapping[str, str]) -> Outputs:
    """Outputs that mean each class of the task: those that ``given`` (label -> class) names, else by WordNet and equal names.

    ``classes``: names of each class. WordNet is fetched only where equal names do not settle it. Raises ``DataError`` where
    ``given`` names an unknown label or class.
    """
    by_label = _by_label(labels)
    _check_given(given, by_label, classes)
    found: dict[str, set[int]] = {name: set() for name in classes}
    for label, name in given.items():
        found[name].update(by_label[normalised(label)])
    open_ = [name for name in classes if not found[name]]
    exact = {name: {i for n in classes[name] for i in by_label.get(normalised(n), ())} for name in open_}
    if len(labels) <= len(classes) and all(exact.values()):
        return Outputs({name: tuple(sorted(found[name] or exact[name])) for name in classes})
    notes = _by_wordnet(labels, {name: classes[name] for name in open_}, found)
    for name in open_:
        found[name] |= exact[name]
    return _exclusive(found, notes)


def _by_label(labels: Sequence[str]) -> dict[str, list[int]]:
    """Outputs by name and by each synonym that a label lists."""
    found: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        for name in dict.fromkeys(map(normalised, (label, *label.split(",")))):
            found.setdefault(name, []).append(i)
    return found


def _check_given(given: Mapping[str, str], labels: Mapping[str, Any], classes: Mapping[str, Any]) -> None:
    for label, name in given.items():
        if normalised(label) not in labels:
            raise DataError(f"label_map: the verifier has no label {label!r}")
        if name not in classes:
            raise DataError(f"label_map: {name!r} is no class of the task", hint=f"Its classes: {', '.join(classes)}.")


@functools.cache
def _senses(labels: tuple[str, ...]) -> tuple[WordNet, list[int | None]]:
    from runner.assets import ensure
    from runner.nodes.wordnet import imagenet, label_senses, read_wordnet

    wordnet = read_wordnet(ensure("wordnet", lambda line: None).path)
    return wordnet, label_senses(labels, wordnet, imagenet())


def _by_wordnet(
    labels: Sequence[str], classes: Mapping[str, Sequence[str]], found: Mapping[str, set[int]]
) -> list[str]:
    from runner.nodes.wordnet import meaning_of

    wordnet, senses = _senses(tuple(labels))
    notes = []
    for name, names in classes.items():
        meaning = meaning_of(names, senses, wordnet)
        found[name].update(meaning.outputs)
        if meaning.others:
            notes.append(
                f"{name!r} is taken as {meaning.sense}; the verifier also knows {'; '.join(meaning.others)}: "
                "use label_map or a WordNet id as caption name where that is meant"
            )
    return notes


def _exclusive(found: Mapping[str, set[int]], notes: Sequence[str]) -> Outputs:
    from runner.nodes.wordnet import exclusive

    return Outputs(exclusive({name: tuple(sorted(outputs)) for name, outputs in found.items()}), tuple(notes))


def rivals(
    labels: Sequence[str], task: Mapping[str, Any], given: Mapping[str, str], ctx: StepContext
) -> dict[str, Mapping[str, tuple[int, ...]]]:
    """For each class of the task, the verifier's outputs that mean it and those of the classes it stands against.

    Classes of different outputs of the task (smiling, young) do not exclude each other. Ambiguous names are warned of.
    """
    _check_given(given, _by_label(labels), task_classes(task))
    found: dict[str, Mapping[str, tuple[int, ...]]] = {}
    for output in task["outputs"]:
        own = task_classes({"outputs": [output]})
        outputs = verifier_outputs(labels, own, {label: name for label, name in given.items() if name in own})
        for note in outputs.notes:
            ctx.warn(note)
        found |= dict.fromkeys(own, outputs.of)
    return found


# --- scores ----------------------------------------------------------------------------------------------------------


def target_scores(
    logits: FloatArray, outputs: Mapping[str, Sequence[int]], target: str, kind: ScoreKind, *, multilabel: bool = False
) -> FloatArray:
    """Probability of the target for each picture, float64 [n] in [0, 1]; see the top of this module for ``kind``.

    ``logits``: [n, labels]. A ``multilabel`` head gives the highest probability among the target's outputs instead.
    """
    z = np.asarray(logits, np.float64)
    own = z[:, list(outputs[target])]
    if multilabel:
        return np.asarray(1 / (1 + np.exp(-own.max(1))))
    task = [i for each in outputs.values() for i in each]
    among_all = logsumexp(own, axis=1) - logsumexp(z, axis=1)
    among_task = logsumexp(own, axis=1) - logsumexp(z[:, task], axis=1)
    mixed = {"all": among_all, "task": among_task, "both": (among_all + among_task) / 2}[kind]
    return np.asarray(np.exp(np.minimum(mixed, 0)))


@dataclass(frozen=True)
class _Rule:
    """How a target is recognised, and its row of ``c2b_verifier``."""

    kind: ScoreKind
    threshold: float
    row: Row


class ClassifierVerifier:
    """A classifier asked whether pictures show targets."""

    def __init__(self, ctx: StepContext, model: Classifier, images: RetrievedImages, options: VerifyOptions) -> None:
        self.ctx, self.model, self.images, self.options = ctx, model, images, options
        self.rivals = rivals(model.labels, images.task, options.label_map, ctx)

    def check(self, sources: Sequence[Source], calibration: Calibration | None) -> Checked:
        """Calibrate, then judge every retrieved picture."""
        known = (
            {} if calibration is None else self._logits(calibration.sources, calibration.labels, "calibration images")
        )
        labels = {} if calibration is None else calibration.labels
        rules = {target: self._rule(target, known, labels) for target in self.images.targets}
        wanted = retrieved_places(self.images)
        judged = {place for target, places in wanted.items() if rules[target].row["usable"] for place in places}
        logits = self._logits(sources, judged)
        shows: dict[tuple[str, Place], bool | None] = {}
        scores: dict[tuple[str, Place], float] = {}
        for target, places in wanted.items():
            shows |= {(target, place): None for place in places}
            if rules[target].row["usable"]:
                scores |= self._scored(target, [p for p in places if p in logits], logits, rules[target].kind)
        shows |= {key: score >= rules[key[0]].threshold for key, score in scores.items()}
        return Checked([rule.row for rule in rules.values()], shows, scores)

    def _logits(
        self, sources: Sequence[Source], places: Iterable[Place], unit: str = "images"
    ) -> Mapping[Place, NDArray[np.float32]]:
        wanted = set(places)
        done = predict(
            self.model, read_pictures(sources, wanted), self.ctx,
            total=len(wanted), batch_size=self.options.batch_size, unit=unit,
        )  # fmt: skip
        if done.unreadable:
            place, reason = min(done.unreadable.items())
            self.ctx.warn(f"{len(done.unreadable)} pictures cannot be checked, first: {reason}", item=place.uri)
        return done.logits

    def _scored(
        self, target: str, places: Sequence[Place], logits: Mapping[Place, Any], kind: ScoreKind
    ) -> dict[tuple[str, Place], float]:
        if not places:
            return {}
        z = np.stack([logits[place] for place in places])
        multilabel = self.model.head == "multilabel"
        score = target_scores(z, self.rivals[target], target, kind, multilabel=multilabel)
        return {(target, place): float(s) for place, s in zip(places, score, strict=True)}

    def _rule(self, target: str, logits: Mapping[Place, Any], labels: Mapping[Place, str]) -> _Rule:
        outputs = self.rivals[target][target]
        row = self._blank(target, outputs)
        if not outputs:
            return _Rule("all", 1.0, row | {"reason": "no label of the verifier means it: give label_map"})
        places = sorted(logits)
        shows = np.array([labels[place] == target for place in places], bool)
        if not labels:
            return _Rule("both", self.options.min_probability, row | {"usable": True})
        if not shows.any() or shows.all():
            return _Rule(
                "both", 1.0, row | {"reason": "the calibration pictures do not show it with others to compare"}
            )
        return self._calibrated(target, places, labels, logits, row)

    def _calibrated(
        self, target: str, places: Sequence[Place], labels: Mapping[Place, str], logits: Mapping[Place, Any], row: Row
    ) -> _Rule:
        shows = np.array([labels[place] == target for place in places], bool)
        tried = []
        for kind in SCORE_KINDS:
            score = np.array(list(self._scored(target, places, logits, kind).values()))
            said = held_out_answers(score, shows, seed=self.ctx.seed)
            found = quality_row(said, shows)
            tried.append((found["sensitivity"] + found["specificity"], kind, score, said, found))
        _, kind, score, said, found = max(tried, key=lambda one: one[0])
        row |= found
        row |= usability(row)
        truth = [labels[place] for place in places]
        threshold = youden_threshold(score, shows)
        confusion = confusion_of(score, truth, target, threshold)
        row |= {"confusion": None if confusion is None else confusion.to_json()}
        confused = often_taken_for(said, truth, target)
        if row["usable"] and confused:
            self.ctx.warn(f"the verifier takes {confused} for {target!r}: {_MIXED_UP}", item=target)
        return _Rule(kind, threshold, row)

    def _blank(self, target: str, outputs: Sequence[int]) -> Row:
        return {
            "verifier": self.model.name, "target": target, "labels": [self.model.labels[i] for i in outputs],
            **quality_row([], []), "usable": False, "reason": None,
        }  # fmt: skip


_MIXED_UP = (
    "refusing what it does not recognise leaves pictures of that kind in; the estimated share of a group's pictures that show "
    "the target allows for them"
)


def often_taken_for(said: NDArray[np.bool_], labels: Sequence[str], target: str) -> str:
    """Other labels of whose calibration pictures a third or more were taken for the target, in words; "" for none."""
    truth = np.array(labels, object)
    shares = {label: float(said[truth == label].mean()) for label in sorted(set(labels) - {target})}
    worst = sorted((label for label, share in shares.items() if share >= 1 / 3), key=lambda label: -shares[label])
    return ", ".join(f"{shares[label]:.0%} of the pictures of {label!r}" for label in worst)


def usability(row: Mapping[str, Any]) -> Row:
    """``usable`` and ``reason``: whether J = Se + Sp - 1 is clearly above 0, so that the answers can be used."""
    low = youden_low(row)
    if low is not None and low > MIN_YOUDEN:
        return {"usable": True, "reason": None}
    return {
        "usable": False,
        "reason": f"on the calibration pictures it recognises {row['sensitivity']:.0%} and refuses "
        f"{row['specificity']:.0%} of the others, which may be little better than guessing",
    }
