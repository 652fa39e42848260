"""Steps that answer with words of a vocabulary. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from runner.artifacts import Vocabulary
from runner.context import StepContext
from runner.models.base import ImageTextEncoder
from runner.nodes.classify.vocabulary_specs import (
    CaptionTexts,
    FileTexts,
    Texts,
    TextSource,
    WordNetTexts,
    WordTexts,
)
from runner.steps import step

if TYPE_CHECKING:
    from runner.nodes.wordnet import WordNet


def _one_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError("write {} once, where the text goes, such as 'a photo of a {}'")
    return template


Template = Annotated[
    str, Field(max_length=300, description="what is embedded; {} is the text"), AfterValidator(_one_place)
]


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
    from runner.errors import DataError
    from runner.models.contrastive.vocabulary import about, write_vocabulary
    from runner.nodes.classify.vocabulary_embedding import embed_texts
    from runner.nodes.classify.vocabulary_texts import distinct

    listed = list(texts) if isinstance(texts, (list, tuple)) else [texts]
    found = distinct(text for source in listed for text in _texts_of(source))
    if not found:
        raise DataError("these sources hold no text", hint="Sources of captions must have captions.")
    vectors = embed_texts(ctx, encoder, found, template=template, batch_size=batch_size)
    folder = ctx.folder("index")
    write_vocabulary(folder, found, vectors, about(encoder), template=template)
    return Vocabulary(encoder=about(encoder), index=folder)


def _texts_of(source: TextSource) -> Iterator[str]:
    from runner.assets import resolve
    from runner.nodes.classify.vocabulary_texts import file_texts, wordnet_nouns

    if isinstance(source, WordTexts):
        yield from source.words
    elif isinstance(source, FileTexts):
        yield from file_texts(Path(resolve(source.file)), source.column)
    elif isinstance(source, CaptionTexts):
        yield from _captions(source.captions)
    elif isinstance(source, WordNetTexts):
        yield from wordnet_nouns(
            _wordnet(source.folder), source.wordnet, max_words=source.max_words, min_tagged=source.min_tagged
        )


def _captions(corpus: Any) -> Iterator[str]:
    from runner.data.sources import open_sources

    for source in open_sources(corpus):
        yield from (record.caption for record in source if record.caption)


def _wordnet(folder: str) -> WordNet:
    from runner.assets import resolve
    from runner.nodes.wordnet import read_wordnet

    return read_wordnet(Path(resolve(folder)))
