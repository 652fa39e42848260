"""Candidate words of CaSED: what captions near a picture name. Pure; source: Conti et al. (NeurIPS 2023), text filtering.

The published code tags parts of speech in the sentence; here a lexicon (WordNet) says which ones a word can have, so that
a word that can be a noun is kept also where the sentence uses it as a verb. Ours too: letters are those of any script, so
that "café" stays whole, and plurals are led back by WordNet, not by cutting the s.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from runner.errors import DataError
from runner.nodes.wordnet import parse_exceptions

Tags = Callable[[str], frozenset[str]]
"""Penn Treebank tags that a lower-case word can have."""

KEPT_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS", "JJ", "JJR", "JJS", "VBG", "VBN"})
MEDIA_WORDS = frozenset(
    {"image", "photo", "picture", "thumbnail", "logo", "symbol", "clipart", "portrait", "painting", "illustration",
     "icon", "profile"}
)  # fmt: skip
NO_WORD = "object"
SHORTEST = 3

_TOKEN = re.compile(r"<[^<>]*>")
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_ODD = re.compile(r"[^\w\s\-.'&]")
_EXTENSION = re.compile(r"\.\w+")
_SEPARATOR = re.compile(r"[_\-]")
_NO_SINGULAR = ("ss", "us", "is", "ies", "oes")
_HISSING = ("ses", "xes", "zes", "ches", "shes")

Irregular = Mapping[str, Sequence[str]]
"""Singulars by irregular plural."""
_NONE: Irregular = MappingProxyType({})

# Determiners, pronouns, prepositions, conjunctions, auxiliaries and numerals. WordNet knows some of them as nouns ("who",
# "are", "out", "off", "may" the month), which a tagger hardly ever reads in lower-cased captions. Not listed are those
# that WordNet's tagged texts have as nouns and that captions have so too ("a tin can", "human being", "the past",
# "might", "will"): without the sentence they are kept, since the picture decides among candidates anyway (ours).
_FUNCTION_TEXT = """
the this that these those some any each every both either neither all another such much many more most few several
she her hers him his they them their theirs its our ours you your yours who whom whose which what
and but for nor yet with without within into onto upon from over under above below between among against about across
after before behind beside besides beyond during except inside outside near off out per since than through throughout
till toward towards until via while where when why how because although though unless whether
are was were been has have had having does did done could may must shall should would
not one two three four five six seven eight nine ten
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_TEXT.split())


def candidate_words(
    captions: Iterable[str], tags: Tags, *, min_count: int = 2, irregular: Irregular = _NONE
) -> list[str]:
    """Words that may name a picture, from the captions nearest to it, in the order of their first appearance.

    Of all words those are kept that occur ``min_count`` times, or the most frequent where none does, and of these the
    ones that ``tags`` allows one of ``KEPT_TAGS``. ``["object"]`` where nothing is left. ``irregular`` as in ``singular``.
    """
    words = [word for word in plain_words(" ".join(captions), tags, irregular) if word not in MEDIA_WORDS]
    counts = Counter(words)
    least = min(min_count, max(counts.values(), default=0))
    kept = [word for word in counts if counts[word] >= least and not KEPT_TAGS.isdisjoint(tags(word))]
    return kept or [NO_WORD]


def plain_words(text: str, tags: Tags, irregular: Irregular = _NONE) -> Iterator[str]:
    """Lower-case singular words of a text, markup, links, file endings and what is no letter taken out.

    A file ending is a dot with the word characters after it, wherever: "street.The lamp" gives street and lamp.
    Letters are Unicode's, so that "café" keeps its accent (ours).
    """
    text = _URL.sub(" ", _TOKEN.sub(" ", text))
    text = _SEPARATOR.sub(" ", _EXTENSION.sub("", _ODD.sub("", text)))
    for word in text.split():
        letters = "".join(filter(str.isalpha, word)) if len(word) >= SHORTEST else ""
        if letters:
            yield singular(letters.lower(), tags, irregular)


def singular(word: str, tags: Tags, irregular: Irregular = _NONE) -> str:
    """A word without its plural s; words in -ss, -us, -is, -ies and -oes stay as they are.

    Ours: of the irregular singulars and those without -s or -es ("boxes"), the first noun that the lexicon knows and
    does not call rare ("lenses": lens, not lense); without any, that in -f or -fe ("wolves"), then any irregular one. A
    listed word that is no plural of one it knows stays ("lens", "clothes").
    """
    if not word.endswith("s") or word.endswith(_NO_SINGULAR) or len(word) <= SHORTEST:
        return word
    known = [form for form in (*irregular.get(word, ()), *_regular(word)) if _is_noun(form, tags)]
    common = [form for form in known if RARE not in tags(form)]
    found = common or known or [form for form in _in_f(word) if _is_noun(form, tags)]
    found = found or [form for form in irregular.get(word, ()) if form.isalpha()]
    if found:
        return found[0]
    return word if _is_listed(word, tags) else word[:-1]


def _regular(word: str) -> list[str]:
    return [word[:-1]] + ([word[:-2]] if word.endswith(_HISSING) and len(word) > SHORTEST + 1 else [])


def _in_f(word: str) -> list[str]:
    return [word[:-3] + ending for ending in ("f", "fe")] if word.endswith("ves") else []


def _is_noun(word: str, tags: Tags) -> bool:
    return "NN" in tags(word) and _is_listed(word, tags)


def _is_listed(word: str, tags: Tags) -> bool:
    return UNKNOWN not in tags(word)


UNKNOWN = "UNKNOWN"
"""Beside ``NN``: the lexicon does not know the word, and taggers read unknown words as nouns."""
RARE = "RARE"
"""Beside ``NN``: the lexicon knows the noun, and never met it in hand-tagged texts."""


@dataclass(frozen=True)
class Lexicon:
    """Which parts of speech a word can have: lemmas of WordNet by part of speech, and their irregular forms.

    ``irregular_nouns``: singulars by plural; ``rare_nouns``: those without a sense in hand-tagged texts.
    """

    nouns: frozenset[str]
    adjectives: frozenset[str]
    adverbs: frozenset[str]
    verbs: frozenset[str]
    irregular_adjectives: frozenset[str] = frozenset()
    irregular_verbs: frozenset[str] = frozenset()
    irregular_nouns: Irregular = field(default_factory=dict)
    rare_nouns: frozenset[str] = frozenset()

    def __call__(self, word: str) -> frozenset[str]:
        """Penn tags of a lower-case word; none for function words, and ``NN`` with ``UNKNOWN`` for unknown ones."""
        if word in _FUNCTION_WORDS:
            return frozenset()
        found = frozenset(tag for tag, fits in self._tests(word) if fits)
        return found or frozenset({"NN", UNKNOWN})

    def _tests(self, word: str) -> Iterator[tuple[str, bool]]:
        yield "NN", word in self.nouns
        yield RARE, word in self.rare_nouns
        yield "NNS", word.endswith("s") and word[:-1] in self.nouns
        yield "JJ", word in self.adjectives
        yield "JJR", _inflected(word, "er", self.adjectives) or word in self.irregular_adjectives
        yield "JJS", _inflected(word, "est", self.adjectives) or word in self.irregular_adjectives
        yield "RB", word in self.adverbs
        yield "VB", word in self.verbs
        yield "VBG", _inflected(word, "ing", self.verbs) or (word.endswith("ing") and word in self.irregular_verbs)
        yield "VBN", _inflected(word, "ed", self.verbs) or (word in self.irregular_verbs and not word.endswith("ing"))


def _inflected(word: str, ending: str, lemmas: frozenset[str]) -> bool:
    """Whether the word is a lemma with the ending, its last e dropped before it or not."""
    stem = word.removesuffix(ending)
    return stem != word and len(stem) > 1 and (stem in lemmas or stem + "e" in lemmas)


def read_lexicon(folder: Path) -> Lexicon:
    """The lexicon of a folder with WordNet's ``index.*`` and ``.exc`` files. Raises ``DataError``."""
    try:
        nouns, *lemmas = (_entries(folder / f"index.{part}") for part in ("noun", "adj", "adv", "verb"))
        plurals, *irregular = (
            parse_exceptions((folder / f"{part}.exc").read_text("utf8").splitlines())
            for part in ("noun", "adj", "verb")
        )
        rare = frozenset(fields[0] for fields in nouns if fields[-1 - int(fields[2])] == "0")
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{folder} does not hold WordNet's word lists: {error}") from error
    noun, adjective, adverb, verb = (frozenset(fields[0] for fields in entries) for entries in (nouns, *lemmas))
    adjectives, verbs = map(frozenset, irregular)
    return Lexicon(noun, adjective, adverb, verb, adjectives, verbs, plurals, rare)


def _entries(file: Path) -> list[list[str]]:
    """Fields of the lines of an index: ``lemma part senses ... senses tagged offset ...`` (wndb(5WN))."""
    return [line.split() for line in file.read_text("utf8").splitlines() if line and not line.startswith(" ")]
