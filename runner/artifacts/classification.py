"""Classification, closed and open world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from runner.steps import Arrays, Artifact, Folder, Rows, Table


@dataclass(frozen=True)
class Datasets(Artifact):
    """One or several classification datasets: the pictures of their splits and the text of each picture's class.

    ``datasets``: in order, ``{"dataset", "known", "group", "classes", "domain_noun", "template", "licence"}``: ``known`` is
    the public dataset's key whatever its name here (or None, or missing), ``classes`` are the target texts by class index,
    ``group`` one of the protocol's (or None), ``domain_noun`` what fine-grained questions call the subject (or None),
    ``template`` the customary CLIP prompt with one ``{}``. ``corpus``: source specs from which the bytes can be read.
    ``images``: sorted by dataset, split, order of the split.
    """

    datasets: list[dict[str, Any]]
    corpus: list[dict[str, Any]]
    images: Annotated[Table, Rows("dataset_image")]


@dataclass(frozen=True)
class ImageFeatures(Artifact):
    """Embeddings of a dataset's pictures: ``features["features"]`` float32 [n, dim], unit norm, row i for row i of ``rows``.

    ``encoder``: ``{"name", "family", "identity", "dim", "logit_scale"}``. ``rows``: dataset, split, sample_id, target,
    class_index. Pictures that cannot be read have no row.
    """

    datasets: list[dict[str, Any]]
    encoder: dict[str, Any]
    features: Arrays
    rows: Table


@dataclass(frozen=True)
class FewShotPool(Artifact):
    """Labelled pictures, at most ``shots`` a class drawn with ``seed``, shared by all few-shot methods.

    ``corpus`` as in ``Datasets``.
    """

    datasets: list[dict[str, Any]]
    corpus: list[dict[str, Any]]
    pool: Annotated[Table, Rows("few_shot_pool")]
    shots: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Neighbours(Artifact):
    """Pool pictures for each query, in the order they are shown. ``shots`` and ``seed`` are those of the pool."""

    encoder: dict[str, Any]
    how: str
    neighbours: Annotated[Table, Rows("pool_neighbour")]
    shots: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Vocabulary(Artifact):
    """Texts to answer with, embedded. ``index``: a folder that ``runner.models.contrastive.vocabulary`` reads and writes."""

    encoder: dict[str, Any]
    index: Folder


@dataclass(frozen=True)
class ClosedAnswers(Artifact):
    """Answers of one method that was given the class list."""

    datasets: list[dict[str, Any]]
    method: str
    settings: dict[str, Any]
    answers: Annotated[Table, Rows("closed_world_answer")]


@dataclass(frozen=True)
class OpenAnswers(Artifact):
    """Free-text answers of one method that was given no class list; a picture without one has a ``failure``."""

    datasets: list[dict[str, Any]]
    method: str
    settings: dict[str, Any]
    answers: Annotated[Table, Rows("owc_prediction")]


@dataclass(frozen=True)
class CircleAnswers(OpenAnswers):
    """Answers given with pseudo-labelled context, the context pictures and the history of their labels."""

    contexts: Annotated[Table, Rows("circle_context")]
    labels: Annotated[Table, Rows("circle_label")]
    calls: Annotated[Table, Rows("circle_call")]


@dataclass(frozen=True)
class Judgements(Artifact):
    """What a language model said of each distinct pair of answer and label."""

    judge: str
    parse: str
    judgements: Annotated[Table, Rows("owc_judgement")]


@dataclass(frozen=True)
class Categories(Artifact):
    """The six-way category of each distinct pair of answer and label."""

    judge: str
    categories: Annotated[Table, Rows("owc_category")]


@dataclass(frozen=True)
class OpenScores(Artifact):
    """Scores of free-text answers, one row an answer, with means and intervals. ``settings``: encoder, chunker, judge."""

    settings: dict[str, Any]
    scores: Annotated[Table, Rows("owc_score")]
    concepts: Annotated[Table, Rows("owc_concept")]
    summary: Annotated[Table, Rows("owc_summary")]
    cells: Annotated[Table, Rows("owc_error_cell")]


@dataclass(frozen=True)
class EloGames(Artifact):
    """Pairs of answers drawn to be compared, with the outcome for the first (1, 0.5, 0)."""

    criterion: str
    players: list[str]
    games: Annotated[Table, Rows("owc_elo_game")]
