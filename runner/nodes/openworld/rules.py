"""Noun chunks by rules, without a model (ours): runs of words between punctuation and words of the closed classes.

What it is for: scoring on a machine without spaCy. It knows English function words, the verbs that descriptions of pictures
are made of, and adverbs by their ending. Every other word is taken for an adjective or noun, so that rare verbs end up
in chunks ("a dog chasing" is one); entities are not told from other nouns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runner.nodes.openworld.concepts import PARSED_CHARACTERS, Chunker, Spans

_TOKEN = re.compile(r"\w+(?:[-'\u2019./&]\w+)*|[^\w\s]|\n")
_WORD = re.compile(r"\w")

_DETERMINERS = """
a an the this that these those his her its their my your our some any each every no another several many
few both all
"""
# Words that cannot stand inside a noun chunk.
_CLOSED = """
i you he she it we they me him us them who whom whose which what where when why how there here
himself herself itself themselves something someone anything everything nothing
of in on at by for with without from to into onto over under above below between among through during before after
behind beside beneath near around along across against toward towards within upon off up down out as like than per via
about inside outside next front
and or but nor so yet if because while although though since whether either neither not also too very
am is are was were be been being isn't aren't do does did done has have had having can could may might must shall
should will would cannot don't doesn't
appears appear appeared seems seem looks look looking shows show shown showing depicts depict depicted features
feature featured featuring contains contain containing includes include including included displays displayed
displaying represents represent called named known identified located situated placed seen taken captured
sitting standing lying holding wearing using riding flying walking running eating playing parked surrounded
sits stands lies holds wears uses rides flies walks runs eats plays belongs suggests suggest indicates indicate
then just only even still most more less quite rather perhaps maybe likely yes
"""
_FORMS_OF_BE = "am is are was were be been being"

DETERMINERS = frozenset(_DETERMINERS.split())
CLOSED = frozenset(_CLOSED.split())
FORMS_OF_BE = frozenset(_FORMS_OF_BE.split())


class RuleChunker(Chunker):
    """Noun chunks by closed word lists. No entities."""

    name = "rules"

    def spans(self, texts: Sequence[str]) -> Iterator[Spans]:
        """Chunks of each text."""
        for text in texts:
            yield Spans(noun_chunks(text[:PARSED_CHARACTERS]), [])


def noun_chunks(text: str) -> list[str]:
    """Runs of an optional determiner and one or more adjectives, numbers and nouns, as they stand in ``text``."""
    found: list[list[re.Match[str]]] = [[]]
    before = ""
    for token in _TOKEN.finditer(text):
        word = token[0].lower()
        if _breaks(word, before):
            found.append([])
        elif word in DETERMINERS:
            found.append([token])
        else:
            found[-1].append(token)
        before = word
    return [text[run[0].start() : run[-1].end()] for run in found if _names(run)]


def _breaks(word: str, before: str) -> bool:
    """Whether no chunk goes on over this word: punctuation, closed classes, adverbs, and what somebody *is doing*."""
    if not _WORD.match(word) or word in CLOSED:
        return True
    return (len(word) > 4 and word.endswith("ly")) or (before in FORMS_OF_BE and word.endswith("ing"))


def _names(run: list[re.Match[str]]) -> bool:
    return any(token[0].lower() not in DETERMINERS for token in run)
