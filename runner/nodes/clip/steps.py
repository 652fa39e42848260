"""Steps: train a small CLIP on captioned pictures, and score image-text encoders on labelled ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from runner.context import StepContext
from runner.data.sources.specs import Corpus, SourceSpec
from runner.models.base import ImageTextEncoder
from runner.models.encoders.providers import MINILM, TINYVIT
from runner.nodes.clip.specs import ClipSize, Training
from runner.references import AssetRef, InputPath
from runner.steps import Artifact, Folder, Rows, Table, step

if TYPE_CHECKING:
    from runner.data.sources import Source
    from runner.nodes.clip.corpus import Part, Prepared
    from runner.nodes.clip.training import Trainer

WORDNET = AssetRef("asset:wordnet")


@dataclass(frozen=True)
class TrainedClip(Artifact):
    """A CLIP trained from scratch.

    ``checkpoint``: folder with ``open_clip_config.json``, ``open_clip_model.safetensors`` (float16) and a model card;
    ``scores``: recall on captions that were held out; ``summary``: data, counts, size and plan of the training.
    """

    checkpoint: Folder
    log: Annotated[Table, Rows("clip_train_log")]
    scores: Annotated[Table, Rows("encoder_score")]
    summary: dict[str, Any]


@dataclass(frozen=True)
class ClipScores(Artifact):
    """How well image-text encoders name the pictures of a labelled set."""

    scores: Annotated[Table, Rows("encoder_score")]


@step("clip.train", version="1")
def train(
    ctx: StepContext,
    *,
    corpus: Corpus,
    training: Training,
    model: ClipSize = ClipSize(),  # noqa: B008 - frozen
    labelled: Annotated[
        Corpus | None, Field(description="pictures whose class names serve as captions; never held out")
    ] = None,
    wordnet: Annotated[
        InputPath | None, Field(description="nouns and glosses for the text tower; none = captions only")
    ] = WORDNET,
    texts: Annotated[list[str], Field(description="further texts for the text tower")] = [],  # noqa: B006
    holdout_captions: Annotated[
        float, Field(ge=0, le=0.9, description="share of the captions kept unseen, to score on")
    ] = 0.2,
    seed: Annotated[int | None, Field(ge=0, description="none = the run's seed")] = None,
    backbone: InputPath = TINYVIT,
    sentences: InputPath = MINILM,
    threads: Annotated[int | None, Field(ge=1, le=256, description="of onnxruntime; none = all cores")] = None,
) -> TrainedClip:
    """Train a small CLIP on captioned pictures, taught by a frozen image backbone and a frozen sentence encoder."""
    from runner.assets import resolve
    from runner.data.sources import open_sources
    from runner.models.encoders.backbone import Backbone
    from runner.models.encoders.sentence import MeanPooled
    from runner.nodes.clip.corpus import number_captions, prepare
    from runner.nodes.clip.training import STATE, Trainer

    seed = ctx.seed if seed is None else seed
    sources = open_sources([*_listed(corpus), *_listed(labelled)])
    parts = _parts(ctx, Backbone(resolve(backbone), threads=threads), sources, len(_listed(corpus)))
    captions = number_captions(parts, holdout_captions, seed)
    _need_pictures(int((~captions.pictures_held()).sum()), training)
    encoder = MeanPooled(resolve(sentences), device=ctx.device)
    further = [*_wordnet_texts(wordnet, seed), *texts]
    ready = prepare(ctx, sources, parts, captions, further, encoder, model)

    trainer = Trainer(ready.corpus, model, training, seed=seed, device=ctx.device, state=ctx.scratch / STATE)
    ctx.advance("steps", trainer.done, training.steps)

    def after_step() -> None:
        ctx.advance("steps")
        ctx.check()

    trainer.run(after_step)
    licences = {source.source_id: getattr(source, "licence", None) for source in sources}
    return _written(ctx, trainer, ready, {"licences": licences, "holdout_captions": holdout_captions})


@step("clip.evaluate", version="1")
def evaluate(
    ctx: StepContext,
    *,
    encoders: dict[str, ImageTextEncoder],
    dataset: SourceSpec,
    templates: Annotated[list[str], Field(min_length=1, description="prompts; {} is the class")] = [  # noqa: B006
        "{}",
        "a photo of a {}",
    ],
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 64,
) -> ClipScores:
    """Accuracy of naming the pictures of a labelled set by the nearest class prompt, for several encoders side by side."""
    import numpy as np

    from results.tables import arrow_table
    from runner.data.places import Place
    from runner.data.sources import open_source
    from runner.errors import DataError
    from runner.nodes.clip.evaluation import zero_shot
    from runner.nodes.embedding import ImageTower, embed

    source = open_source(dataset)
    labels = source.labels()
    if not labels:
        raise DataError(f"{source.source_id}: this source has no labels to measure against")
    wanted = [Place(source.source_id, record.uri) for record in source if record.uri in labels]
    rows = []
    for name, encoder in encoders.items():
        found = embed(ctx, ImageTower(encoder), [source], wanted, batch_size, unit=f"images of {name}")
        places = sorted(found.vectors)
        images = np.stack([found.vectors[place] for place in places])
        true = [labels[place.uri] for place in places]
        rows += [s.row() for s in zero_shot(name, source.source_id, encoder, images, true, templates)]
    return ClipScores(arrow_table("encoder_score", rows))


def _parts(ctx: StepContext, backbone: Any, sources: list[Source], own: int) -> list[Part]:
    """Features and captions of each source; those after the first ``own`` are captioned by their labels."""
    from runner.nodes.backbone_features import source_features
    from runner.nodes.clip.corpus import captioned, labelled

    parts = [captioned(source_features(ctx, backbone, source, captioned=True)) for source in sources[:own]]
    for source in sources[own:]:
        parts.append(labelled(source_features(ctx, backbone, source, captioned=False), source.labels()))
    return parts


def _written(ctx: StepContext, trainer: Trainer, ready: Prepared, known: dict[str, Any]) -> TrainedClip:
    """Score the trained network, and write it with its card."""
    import torch

    from results.tables import arrow_table
    from runner.models.encoders.clip import SMALL_FAMILY
    from runner.nodes.clip.card import card
    from runner.nodes.clip.evaluation import held_out_recall
    from runner.nodes.clip.network import write

    network = trainer.student.clip.eval()
    scores = held_out_recall(SMALL_FAMILY, network, trainer.size, ready.parts, ready.captions, ready.pixels)
    summary = known | ready.counts() | trainer.summary()
    folder = ctx.folder("checkpoint")
    notes = {"seed": trainer.seed, "steps": trainer.plan.steps}
    write(folder, network, trainer.size, torch.unique(ready.corpus.tokens), notes)
    (folder / "README.md").write_text(card(summary, scores), "utf8")
    rows = [score.row() for score in scores]
    return TrainedClip(folder, arrow_table("clip_train_log", trainer.log), arrow_table("encoder_score", rows), summary)


def _need_pictures(kept: int, training: Training) -> None:
    from runner.errors import DataError

    if training.batch > kept:
        raise DataError(
            f"a batch of {training.batch} is more than the {kept} pictures that are left to train on",
            hint="Lower training.batch or holdout_captions, or add pictures.",
        )


def _wordnet_texts(wordnet: str | None, seed: int) -> list[str]:
    from runner.assets import resolve
    from runner.nodes.clip.texts import glosses, noun_texts
    from runner.nodes.wordnet import read_wordnet

    if wordnet is None:
        return []
    folder = Path(resolve(wordnet))
    known = read_wordnet(folder)
    return noun_texts(known, glosses((folder / "data.noun").read_text("utf8").splitlines()), seed)


def _listed(corpus: Any) -> list[Any]:
    if corpus is None:
        return []
    return list(corpus) if isinstance(corpus, (list, tuple)) else [corpus]
