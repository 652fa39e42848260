"""Steps of the open-world protocol: ``owc.score``, ``owc.games``, ``owc.elo``, ``owc.import``. Light: imported to validate a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runner.artifacts import Categories, EloGames, Judgements, OpenAnswers, OpenScores
from runner.context import StepContext
from runner.errors import DataError, StepError
from runner.models.base import SentenceEncoder
from runner.nodes.openworld.chunks import CHUNKER_PATTERN
from runner.references import AssetRef, InputPath
from runner.steps import Artifact, Rows, Table, step

if TYPE_CHECKING:
    from runner.nodes.openworld.logs import Log

SEEDLESS = frozenset({"seedless"})
Seed = Annotated[int, Field(ge=0, description="seed of what is drawn here")]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Text = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True)
class Elo(Artifact):
    """Elo ratings of the players of ``EloGames``."""

    ratings: Annotated[Table, Rows("owc_elo")]


class ErrorCells(BaseModel):
    """Names of the four cells of the error table; a hit is what the judge accepts, close is bCS at or above the threshold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hit_close: Text = "correct_specific"
    hit_far: Text = "correct_generic"
    miss_close: Text = "wrong_specific"
    miss_far: Text = "wrong"

    @model_validator(mode="after")
    def _distinct(self) -> ErrorCells:
        if len(set(self.model_dump().values())) < 4:
            raise ValueError("the four cells need four different names")
        return self


_CELLS = ErrorCells()


@step("owc.score", version="3", tags=SEEDLESS)
def score(
    ctx: StepContext,
    *,
    answers: Annotated[list[OpenAnswers], Field(description="answers of one or several methods")],
    sentences: SentenceEncoder,
    judgements: Judgements | None = None,
    categories: Categories | None = None,
    chunker: Annotated[
        str,
        Field(
            pattern=CHUNKER_PATTERN,
            description="what cuts answers into concepts: spacy:<model>, rules, comma; auto: an installed spaCy model, else "
            "rules, chosen when the step runs",
        ),
    ] = "auto",
    threshold: Annotated[Cosine, Field(description="bCS from which an answer is close to its label")] = 0.6,
    cells: Annotated[ErrorCells, Field(description="names of the error cells")] = _CELLS,
    thresholds: Annotated[
        list[Cosine], Field(min_length=1, max_length=100, description="of the mean-average semantic similarity")
    ] = [0.5, 0.6, 0.7, 0.8, 0.9],  # noqa: B006
    bootstrap: Annotated[int, Field(ge=0, le=100_000, description="draws of the intervals; 0 = none")] = 1000,
    groups: Annotated[
        dict[Text, list[Text]] | None, Field(description="datasets by group; default: as the datasets say")
    ] = None,
    seed: Seed = 1234,
) -> OpenScores:
    """Score free-text answers against the names of the true classes, and say how sure the means are.

    An answer that failed counts 0 for inclusion and exact match, has no similarity, and is always among the unscored.
    """
    from results.tables import arrow_table
    from runner.nodes.openworld.chunks import open_chunker
    from runner.nodes.openworld.inputs import answer_rows, cached_encoder, groups_of, judged_of
    from runner.nodes.openworld.scoring import score_answers
    from runner.nodes.openworld.summaries import summary_rows

    rows = answer_rows(answers)
    members = groups_of(answers, groups)
    cutter = open_chunker(chunker)
    judged = judged_of(rows, judgements, categories, ctx.warn)
    named = cells.model_dump()
    scores = score_answers(
        rows, cutter, cached_encoder(ctx, sentences), judged, threshold=threshold,
        thresholds=sorted(set(thresholds)), cells=named,
        progress=lambda spans, total: ctx.track(spans, unit="answers", total=total),
    )  # fmt: skip
    judge = None if judgements is None else judgements.judge
    labels = {"chunker": cutter.name, "judge": judge, "encoder": sentences.name}
    summary = summary_rows(
        rows, scores.values, scores.unscored, members, draws=bootstrap, seed=seed, labels=labels, say=ctx.warn
    )
    settings = labels | {
        "encoder_identity": sentences.identity, "chunker_version": cutter.version, "threshold": threshold,
        "judge_parse": None if judgements is None else judgements.parse, "bootstrap": bootstrap, "seed": seed,
        "groups": members,
    }  # fmt: skip
    return OpenScores(
        settings, arrow_table("owc_score", scores.rows), arrow_table("owc_concept", scores.concepts),
        arrow_table("owc_summary", summary), arrow_table("owc_error_cell", _cell_rows(scores.rows, named, threshold)),
    )  # fmt: skip


def _cell_rows(rows: list[dict[str, Any]], cells: dict[str, str], threshold: float) -> list[dict[str, Any]]:
    from runner.nodes.openworld.scoring import CATEGORIES, QUADRANTS
    from runner.nodes.openworld.summaries import cell_rows

    quadrants = cell_rows(rows, "quadrant", "error_cell", [cells[name] for name in QUADRANTS], threshold)
    return quadrants + cell_rows(rows, "six_way", "six_way", CATEGORIES, None)


@step("owc.games", version="1", tags=SEEDLESS)
def games(
    ctx: StepContext,
    *,
    scores: Annotated[list[OpenScores], Field(description="scores of the players' answers")],
    criterion: Annotated[
        Literal["semantic_similarity", "llama_score"],
        Field(description="who wins; llama_score: a judge decides afterwards (owc.judge_games)"),
    ] = "semantic_similarity",
    margin: Annotated[float, Field(ge=0, le=2, description="smaller differences of similarity are draws")] = 0.05,
    games: Annotated[int, Field(ge=1, le=1_000_000, description="games for each dataset")] = 10_000,
    seed: Seed = 1234,
) -> EloGames:
    """Draw pairs of answers to one picture, and say which is nearer to the label."""
    from results.tables import arrow_table
    from runner.nodes.openworld.games import FEW, draw_games, tables
    from runner.nodes.openworld.inputs import score_rows

    by_dataset = tables(score_rows(scores, same_encoder=criterion == "semantic_similarity"), ctx.warn)
    for name in (name for name, table in by_dataset.items() if len(table.samples) < FEW):
        few = len(by_dataset[name].samples)
        ctx.warn(
            f"ratings on {name} rest on {few} pictures; their limits are over games and know nothing of other pictures"
        )
    judged = None if criterion == "llama_score" else margin
    rows = [
        row
        for dataset, table in by_dataset.items()
        for row in draw_games(dataset, table, games=games, seed=seed, margin=judged)
    ]
    players = sorted({name for table in by_dataset.values() for name in table.players})
    return EloGames(criterion, players, arrow_table("owc_elo_game", rows))


@step("owc.elo", version="1", tags=SEEDLESS)
def elo(
    ctx: StepContext,
    *,
    games: EloGames,
    k: Annotated[float, Field(gt=0, le=1000, description="largest change of a rating in one game")] = 16,
    shards: Annotated[int, Field(ge=1, le=100_000, description="parts whose median is the final rating")] = 100,
    zero_sum: Annotated[bool, Field(description="both players move by the same amount")] = True,
    seed: Seed = 1234,
) -> Elo:
    """Rate players by their games: the rating after one pass, and the median over shards of the shuffled games."""
    from results.tables import arrow_table
    from runner.nodes.openworld.games import rating_rows

    rows = games.games.to_pylist()
    unscored = sum(row["score"] is None for row in rows)
    if 0 < unscored < len(rows):
        ctx.warn(f"{unscored} of {len(rows)} games have no score and are left out")
    rated = rating_rows(rows, games.criterion, k=k, shards=shards, zero_sum=zero_sum, seed=seed)
    return Elo(arrow_table("owc_elo", rated))


@step("owc.import", version="1", tags=SEEDLESS)
def import_logs(
    ctx: StepContext,
    *,
    path: Annotated[InputPath, Field(description="folder of <task>/<model>/*_samples_*.jsonl")],
    label: Annotated[Text | None, Field(description="name of the method in the results")] = None,
    judge_wrap: Annotated[
        Text, Field(pattern=r"\{\}", description="sentence in which a judge reads a comma list; {} = the list")
    ] = "{}",
) -> OpenAnswers:
    """Read the answers of earlier runs from their per-sample logs, so that they can be scored anew.

    Of several logs of one task and model the longest counts. Lines that are no records are reported and left out.
    """
    from pathlib import Path

    from results.tables import arrow_table
    from runner.nodes.openworld.logs import dataset_entries, log_files, longest, prediction_rows, read_log

    folder = Path(path)
    if isinstance(path, AssetRef) or not folder.is_dir():
        raise StepError(f"{path} is no folder", step=ctx.step, hint="Name the folder that holds the tasks' folders.")
    files = log_files(folder)
    if not files:
        raise DataError(f"{folder} holds no <task>/<model>/*_samples_*.jsonl")
    logs = [read_log(file) for file in ctx.track(files, unit="logs")]
    rows: list[dict[str, Any]] = []
    for choice in longest(logs):
        _report(ctx, choice.kept, folder)
        for other in choice.others:
            ctx.warn(
                f"left out: {choice.kept.path.name} of the same task and model is as long or longer",
                item=_name(other, folder),
            )
        rows += prediction_rows(choice.kept, label or "imported", judge_wrap)
    if not rows:
        raise DataError(
            f"no line of the {len(files)} logs below {folder} is a record with doc_id, target and filtered_resps"
        )
    settings = {"layout": "lmms-owc", "logs": len(files), "judge_wrap": judge_wrap}
    return OpenAnswers(dataset_entries(rows), label or "imported", settings, arrow_table("owc_prediction", rows))


def _name(log: Log, folder: Any) -> str:
    return str(log.path.relative_to(folder))


def _report(ctx: StepContext, log: Log, folder: Any) -> None:
    """Name the first lines that are no records, and count the others."""
    from runner.nodes.openworld.logs import PROBLEMS_NAMED

    for number, reason in log.problems[:PROBLEMS_NAMED]:
        ctx.failed(f"{_name(log, folder)}:{number}", f"this line is no record: {reason}")
    rest = len(log.problems) - PROBLEMS_NAMED
    if rest > 0:
        ctx.failed(_name(log, folder), f"{rest} further lines are no records")
