"""Steps that answer with words of a vocabulary. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from runner.artifacts import Datasets, ImageFeatures, OpenAnswers, Vocabulary
from runner.context import StepContext
from runner.models.base import ImageTextEncoder
from runner.nodes.text_specs import WORDNET, Template, Texts
from runner.references import InputPath
from runner.steps import Cost, step

if TYPE_CHECKING:
    from runner.models.contrastive.vocabulary import TextVectors
    from runner.nodes.classify.vocabulary_answers import FloatArray


Limit = Annotated[int, Field(ge=1, description="pictures of each dataset, drawn with the run's seed")]
Label = Annotated[str, Field(min_length=1, max_length=80, description="instead of the method's name in results")]
BatchSize = Annotated[int, Field(ge=1, le=4096, description="pictures, or words, encoded together")]


def _cost(params: Mapping[str, Any]) -> Cost:
    """No language model; how many pictures a split holds is known when the datasets are."""
    return Cost(images=0 if params.get("features") else None, bytes=None)


@step("classify.vocabulary", version="1")
def vocabulary(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    texts: Texts,
    template: Template = "{}",
    batch_size: Annotated[int, Field(ge=1, le=65536, description="texts encoded and saved together")] = 256,
) -> Vocabulary:
    """Embed texts to answer with: nouns, captions, lines of a file, words; each distinct text once."""
    from runner.models.contrastive.vocabulary import about, write_vocabulary
    from runner.nodes.text_embedding import embed_texts
    from runner.nodes.text_sources import distinct_texts

    found = distinct_texts(texts)
    vectors = embed_texts(ctx, encoder, found, template=template, batch_size=batch_size)
    folder = ctx.folder("index")
    write_vocabulary(folder, found, vectors, about(encoder), template=template)
    return Vocabulary(encoder=about(encoder), index=folder)


@step("classify.cased", version="2", estimate=_cost)
def cased(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    images: Datasets,
    vocabulary: Vocabulary,
    features: ImageFeatures | None = None,
    captions: Annotated[int, Field(ge=1, le=1000, description="texts retrieved for a picture")] = 10,
    alpha: Annotated[float, Field(ge=0, le=1, description="weight of the picture against its captions")] = 0.7,
    min_count: Annotated[int, Field(ge=1, description="times a word must occur in the captions")] = 2,
    template: Template = "{}",
    split: str = "test",
    limit: Limit | None = None,
    label: Label | None = None,
    lexicon: Annotated[InputPath, Field(description="WordNet, which says what can be a noun")] = WORDNET,
    batch_size: BatchSize = 64,
) -> OpenAnswers:
    """Name pictures without a class list by CaSED: words of the nearest captions, compared with picture and captions."""
    from runner.assets import resolve
    from runner.nodes.classify import vocabulary_answers as answers
    from runner.nodes.classify.words import read_lexicon

    tags = read_lexicon(Path(resolve(lexicon)))
    rules = answers.CasedRules(captions, alpha, min_count, template)

    def name(texts: TextVectors, vectors: FloatArray) -> list[str]:
        return answers.cased(ctx, encoder, texts, vectors, tags, rules, batch_size)

    settings = {"captions": captions, "alpha": alpha, "min_count": min_count, "template": template}
    where = _Where(images, split, limit, features, batch_size)
    return _open_answers(ctx, encoder, vocabulary, where, name, ("cased", label), settings)


@step("classify.clip_retrieval", version="1", estimate=_cost)
def clip_retrieval(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    images: Datasets,
    vocabulary: Vocabulary,
    features: ImageFeatures | None = None,
    split: str = "test",
    limit: Limit | None = None,
    label: Label | None = None,
    batch_size: BatchSize = 64,
) -> OpenAnswers:
    """Answer with the text of the vocabulary that is nearest to each picture."""
    from runner.nodes.classify import vocabulary_answers as answers

    def name(texts: TextVectors, vectors: FloatArray) -> list[str]:
        return [texts.texts[row[0]] for row in answers.nearest_texts(vectors, texts, 1)]

    where = _Where(images, split, limit, features, batch_size)
    return _open_answers(ctx, encoder, vocabulary, where, name, ("clip_retrieval", label), {})


class _Where(NamedTuple):
    """Which pictures are named, and from what."""

    images: Datasets
    split: str
    limit: int | None
    features: ImageFeatures | None
    batch_size: int


def _open_answers(
    ctx: StepContext,
    encoder: ImageTextEncoder,
    vocabulary: Vocabulary,
    where: _Where,
    name: Callable[[TextVectors, FloatArray], list[str]],
    method: tuple[str, str | None],
    settings: dict[str, Any],
) -> OpenAnswers:
    """Answers of ``name`` for the pictures; ``method``: its own name, which is the prompt key, and the spec's label."""
    from results.tables import arrow_table
    from runner.models.contrastive.vocabulary import read_vocabulary
    from runner.nodes.classify import vocabulary_answers as answers

    texts = read_vocabulary(vocabulary.index, encoder.identity)
    rows = answers.queries(where.images, where.split, where.limit, ctx.seed)
    found = answers.embedded(ctx, encoder, where.images, rows, where.features, where.batch_size)
    said = name(texts, found.vectors) if found.rows else []
    own, label = method
    fixed = {"method": label or own, "prompt_key": own, "model": encoder.name, "seed": ctx.seed}
    about = {"encoder": encoder.name, "texts": len(texts.texts), "split": where.split, "limit": where.limit}
    table = arrow_table("owc_prediction", list(answers.answer_rows(found, said, fixed, rows)))
    return OpenAnswers(where.images.datasets, label or own, settings | about, table)
