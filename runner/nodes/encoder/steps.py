"""Steps: fit the embedded mini encoder on captioned pictures, and measure it on labelled ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from runner.context import StepContext
from runner.data.sources.specs import Corpus, SourceSpec
from runner.models.encoders.providers import MINILM, TINYVIT
from runner.references import InputPath
from runner.steps import Artifact, Folder, Rows, Table, step

if TYPE_CHECKING:
    from runner.models.encoders.backbone import Backbone
    from runner.models.encoders.sentence import MeanPooled
    from runner.nodes.backbone_features import SourceFeatures

Share = Annotated[float, Field(ge=0, le=0.9)]


@dataclass(frozen=True)
class MiniHead(Artifact):
    """A fitted embedded mini encoder.

    ``head``: the folder that the provider ``embedded_mini`` takes; ``scores``: recall on held-out captions;
    ``summary``: sources, counts, and whether the heads were fitted again on the held-out captions.
    """

    head: Folder
    scores: Annotated[Table, Rows("encoder_score")]
    summary: dict[str, Any]


@dataclass(frozen=True)
class EncoderScores(Artifact):
    """How well encoders do on a labelled set."""

    scores: Annotated[Table, Rows("encoder_score")]


@step("encoder.fit_mini", version="1")
def fit_mini(
    ctx: StepContext,
    *,
    corpus: Corpus,
    train_only: Annotated[
        Corpus | None, Field(description="further captioned pictures, fitted on but never held out to score on")
    ] = None,
    holdout_captions: Annotated[Share, Field(description="share of the captions kept unseen, to score on")] = 0.2,
    refit: Annotated[bool, Field(description="after scoring, fit once more on all captions")] = False,
    seed: Annotated[int | None, Field(description="none = the run's seed")] = None,
    epochs: Annotated[int, Field(ge=1, le=10_000, description="of the contrastive head")] = 40,
    backbone: InputPath = TINYVIT,
    sentences: InputPath = MINILM,
    threads: Annotated[int | None, Field(ge=1, le=256, description="of onnxruntime; none = all cores")] = None,
) -> MiniHead:
    """Fit the two heads of the embedded mini encoder on captioned pictures, and score them on unseen captions."""
    from results.tables import arrow_table
    from runner.data.sources import open_sources
    from runner.models.encoders.heads import MiniHeads, save_heads
    from runner.nodes.backbone_features import source_features
    from runner.nodes.encoder.fitting import fit_and_score, make_pairs

    vision, text = _towers(backbone, sentences, threads)
    seed = ctx.seed if seed is None else seed
    scored = _listed(corpus)
    sources = open_sources([*scored, *_listed(train_only)])
    parts = [source_features(ctx, vision, source, captioned=True) for source in sources]
    extra = [number >= len(scored) for number, part in enumerate(parts) for _ in part.uris]
    pairs = make_pairs(*_joined(parts), text.encode, extra)

    def after_epoch() -> None:
        ctx.advance("epochs")
        ctx.check()

    rounds = 1 + (refit and holdout_captions > 0)
    ctx.advance("epochs", 0, rounds * epochs)
    ridge, contrastive, scores, counts = fit_and_score(
        pairs,
        holdout=holdout_captions,
        seed=seed,
        refit=refit,
        epochs=epochs,
        on_epoch=after_epoch,
    )
    summary = {
        "sources": {part.source_id: len(part.uris) for part in parts},
        "unreadable": sum(part.unreadable for part in parts),
        "holdout_captions": holdout_captions,
        "refit": refit,
        "seed": seed,
        **counts,
    }
    known = {key: row for part in parts for key, row in zip(part.keys, part.features, strict=True)}
    folder = ctx.folder("head")
    save_heads(MiniHeads(ridge, contrastive, known, vision.identity, text.identity, summary), folder)
    return MiniHead(folder, arrow_table("encoder_score", [score.row() for score in scores]), summary)


@step("encoder.evaluate_mini", version="1")
def evaluate_mini(
    ctx: StepContext,
    *,
    fits: dict[str, MiniHead],
    dataset: SourceSpec,
    templates: Annotated[list[str], Field(min_length=1, description="prompts; {} is the class")] = [  # noqa: B006
        "{}",
        "a photo of a {}",
    ],
    backbone: InputPath = TINYVIT,
    sentences: InputPath = MINILM,
    threads: Annotated[int | None, Field(ge=1, le=256, description="of onnxruntime; none = all cores")] = None,
) -> EncoderScores:
    """Zero-shot accuracy of fitted heads on a labelled set that they were not fitted on."""
    from results.tables import arrow_table
    from runner.data.sources import open_source
    from runner.errors import DataError
    from runner.nodes.backbone_features import source_features
    from runner.nodes.encoder.evaluation import zero_shot_scores

    source = open_source(dataset)
    labels = source.labels()
    if labels is None:
        raise DataError(f"{source.source_id}: this source has no labels to measure against")
    vision, text = _towers(backbone, sentences, threads)
    found = source_features(ctx, vision, source, captioned=False)
    scores = []
    for name, fit in fits.items():
        heads = _fitted_heads(Path(fit.head), vision, text)
        scores += zero_shot_scores(name, heads, found, labels, templates, text.encode)
    return EncoderScores(arrow_table("encoder_score", [score.row() for score in scores]))


def _towers(backbone: str, sentences: str, threads: int | None) -> tuple[Backbone, MeanPooled]:
    from runner.assets import resolve
    from runner.models.encoders.backbone import Backbone
    from runner.models.encoders.sentence import MeanPooled

    return Backbone(resolve(backbone), threads=threads), MeanPooled(resolve(sentences))


def _listed(corpus: Any) -> list[Any]:
    if corpus is None:
        return []
    return list(corpus) if isinstance(corpus, (list, tuple)) else [corpus]


def _joined(parts: list[SourceFeatures]) -> tuple[Any, list[str], list[str]]:
    import numpy as np

    captions = [caption for part in parts for caption in part.captions if caption is not None]
    sources = [part.source_id for part in parts for _ in part.uris]
    return np.concatenate([part.features for part in parts]), captions, sources


def _fitted_heads(folder: Path, vision: Backbone, text: MeanPooled) -> Any:
    from runner.errors import ModelRefused
    from runner.models.encoders.heads import load_heads

    heads = load_heads(folder)
    if (heads.backbone, heads.sentences) != (vision.identity, text.identity):
        raise ModelRefused(f"{folder}: the head was fitted to another image backbone or sentence encoder")
    return heads
