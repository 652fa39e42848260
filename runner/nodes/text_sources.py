"""Where lists of texts come from: WordNet, captions, files, words in the spec, templates. Pure but for reading."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import DataError
from runner.nodes.text_specs import CaptionTexts, FileTexts, TemplateTexts, Texts, WordNetTexts, WordTexts

if TYPE_CHECKING:
    from runner.nodes.wordnet import WordNet

MAX_TEXT = 300
"""Characters of a text that are kept: encoders read fewer tokens than that."""

# Senses of WordNet 3.0 below which things can be seen.
VISIBLE_KINDS = {
    "animal": 15388,
    "artifact": 21939,
    "body of water": 9225146,
    "body part": 5220461,
    "food, nutrient": 21265,
    "food, solid food": 7555863,
    "fungus": 12992868,
    "geological formation": 9287968,
    "natural object": 19128,
    "plant": 17222,
}
# Of people only what a picture shows, not what they do for a living.
_PEOPLE = ("baby", "boy", "child", "girl", "man", "person", "woman")
_FREQUENT_SENSES = 2
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def texts_of(source: Any) -> Iterator[str]:
    """The texts of one ``TextSource``, as they stand there. Raises ``DataError`` where it cannot be read."""
    if isinstance(source, WordTexts):
        yield from source.words
    elif isinstance(source, FileTexts):
        yield from file_texts(_local(source.file), source.column)
    elif isinstance(source, CaptionTexts):
        yield from _captions(source.captions)
    elif isinstance(source, WordNetTexts):
        yield from _wordnet_texts(source)
    elif isinstance(source, TemplateTexts):
        filled = distinct_texts(source.of)
        yield from (template.replace("{}", text) for template in source.templates for text in filled)


def distinct_texts(sources: Texts) -> list[str]:
    """Each different text of one source or of several, once, in order. Raises ``DataError`` where there is none."""
    listed = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    found = distinct(text for source in listed for text in texts_of(source))
    if not found:
        raise DataError("these sources hold no text", hint="Sources of captions must have captions.")
    return found


def blank_places(sources: Texts) -> list[str]:
    """Where files and words of a spec hold a text without a letter, which ``distinct_texts`` leaves out, such as "a.txt: 2"."""
    listed = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    plain = [source.of if isinstance(source, TemplateTexts) else source for source in listed]
    return [
        f"{_local(source.file).name if isinstance(source, FileTexts) else 'words'}: {number}"
        for source in plain
        if isinstance(source, FileTexts | WordTexts)
        for number, text in enumerate(texts_of(source), 1)
        if not flattened(text)
    ]


def _captions(corpus: Any) -> Iterator[str]:
    from runner.data.sources import open_sources

    for source in open_sources(corpus):
        yield from (record.caption for record in source if record.caption)


def _wordnet_texts(source: WordNetTexts) -> list[str]:
    from runner.nodes.wordnet import read_wordnet

    wordnet = read_wordnet(_local(source.folder))
    return wordnet_nouns(wordnet, source.wordnet, max_words=source.max_words, min_tagged=source.min_tagged)


def _local(path: str) -> Path:
    from runner.assets import resolve

    return Path(resolve(path))


def flattened(text: str, limit: int = MAX_TEXT) -> str:
    """One line without control characters, spaces collapsed, at most ``limit`` characters."""
    return " ".join(_CONTROL.sub(" ", text).split())[:limit].rstrip()


def distinct(texts: Iterable[str]) -> list[str]:
    """Flattened texts in order, empty ones and repetitions (whatever their case) left out."""
    found: dict[str, str] = {}
    for text in texts:
        flat = flattened(text)
        if flat:
            found.setdefault(flat.casefold(), flat)
    return list(found.values())


def wordnet_nouns(
    wordnet: WordNet, which: Literal["nouns", "physical", "imagenet"], *, max_words: int, min_tagged: int
) -> list[str]:
    """Names of at most ``max_words`` words, in alphabetical order, proper nouns and Latin names left out.

    ``nouns``: all; ``physical``: those of which one of the two most frequent senses can be seen; ``imagenet``: the names
    of the thousand ImageNet classes. ``min_tagged``: least number of the noun's senses that were met in hand-tagged
    texts, a measure of how common it is; the sense that can be seen must be one of these. Not for ``imagenet``.
    """
    if which == "imagenet":
        return sorted(_imagenet_names(wordnet, max_words))
    names = (
        _written(lemma, senses, wordnet)
        for lemma, senses in wordnet.senses.items()
        if len(lemma.split()) <= max_words
        and wordnet.tagged.get(lemma, 0) >= min_tagged
        and (which == "nouns" or _can_be_seen(lemma, senses, wordnet, min_tagged))
    )
    return sorted(name for name in names if name is not None)


def _can_be_seen(lemma: str, senses: tuple[int, ...], wordnet: WordNet, min_tagged: int) -> bool:
    met = senses[: wordnet.tagged.get(lemma, 0)] if min_tagged else senses
    kinds = frozenset(VISIBLE_KINDS.values())
    return lemma in _PEOPLE or any(not kinds.isdisjoint(wordnet.above(sense)) for sense in met[:_FREQUENT_SENSES])


def _written(lemma: str, senses: Iterable[int], wordnet: WordNet) -> str | None:
    """How WordNet writes the lemma where it means a kind of thing; None for proper nouns, Latin names and symbols."""
    kinds = (sense for sense in senses if sense not in wordnet.instances)
    forms = (name for sense in kinds for name in wordnet.words[sense] if name.lower() == lemma)
    return next((form for form in forms if _is_common(form, wordnet)), None)


def _is_common(name: str, wordnet: WordNet) -> bool:
    """Whether a name is a common noun: lower case, or ending with one ("Siamese cat", not "Felis catus")."""
    first, last = name.split()[0], name.split()[-1]
    if f"genus {first.lower()}" in wordnet.senses and first != first.lower():
        return False  # "Canis lupus": the second word of a Latin name may also be a noun
    plain = len(name) > 2 and not any(c.isdigit() for c in name)
    return plain and (name.islower() or (last != name and last.islower() and last in wordnet.senses))


def _imagenet_names(wordnet: WordNet, max_words: int) -> set[str]:
    from runner.nodes.wordnet import imagenet

    senses = (sense for sense in imagenet().senses if sense in wordnet.words)
    names = (name for sense in senses for name in wordnet.words[sense])
    return {name for name in names if len(name.split()) <= max_words and _is_common(name, wordnet)}


def file_texts(file: Path, column: str) -> Iterator[str]:
    """Texts of a file: ``.json`` a list of strings, ``.parquet`` a column, any other one text a line.

    Raises ``DataError``.
    """
    try:
        yield from _READERS.get(file.suffix.lower(), _lines)(file, column)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: no texts can be read from it: {error}") from error


def _lines(file: Path, column: str) -> Iterator[str]:
    with file.open(encoding="utf8") as lines:
        yield from lines


def _json(file: Path, column: str) -> list[str]:
    texts = json.loads(file.read_text("utf8"))
    if not isinstance(texts, list) or any(not isinstance(text, str) for text in texts):
        raise ValueError("a JSON file of texts holds one list of strings")
    return texts


def _parquet(file: Path, column: str) -> Iterator[str]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches(columns=[column]):
        if column not in batch.schema.names:
            raise ValueError(f"there is no column {column!r}")
        yield from (str(text) for text in batch.column(0).to_pylist() if text is not None)


_READERS = {".json": _json, ".parquet": _parquet}
