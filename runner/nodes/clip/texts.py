"""Texts for the student's text tower: captions in several wordings, WordNet's nouns and glosses, people and places."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence

from runner.nodes.wordnet import WordNet

CAPTION_TEMPLATES = ("{}", "a picture of {}", "a photo of {}", "a drawing of {}")
LABEL_TEMPLATES = ("{}", "a photo of a {}", "a photo of the {}", "a blurry photo of a {}")
NOUN_TEMPLATES = ("a photo of {}", "a picture of {}", "a drawing of {}", "there is {} in the picture")
PERSON = 7846
"""The sense of WordNet 3.0 that every kind of person is below."""
TRAITS = (
    "man", "woman", "male", "female", "boy", "girl", "young", "old", "elderly", "black", "white", "asian", "indian",
    "latino", "middle eastern", "dark-skinned", "light-skinned", "brown-haired", "blond", "bearded", "smiling",
)  # fmt: skip
SKIN_TONES = (
    "light skin tone",
    "medium-light skin tone",
    "medium skin tone",
    "medium-dark skin tone",
    "dark skin tone",
)
PLACES = (
    "on water", "on land", "on the sea", "in a lake", "in the ocean", "on a beach", "in a forest", "in a bamboo forest",
    "in a field of grass", "in the mountains", "in the desert", "in the snow", "in the sky", "on a road", "in a city",
    "in a house", "in an office", "in a kitchen", "in a hospital", "at school", "at night", "on a white background",
    "on a black background", "on a blue background", "on a green background", "on a red background", "in the rain",
)  # fmt: skip
MOST_GLOSS = 90
"""Longest gloss that is taken, in characters."""
_SIDES = re.compile(r"\b(left|right|clockwise|counterclockwise|anticlockwise)\b", re.IGNORECASE)
_LETTERS = re.compile(r"[a-z][a-z \-']+")


def may_be_mirrored(caption: str) -> bool:
    """Whether a mirrored picture still is what its caption says."""
    return not _SIDES.search(caption)


def wordings(caption: str, templates: Sequence[str]) -> list[str]:
    """The caption in each template; the caption is data and never read as a template."""
    return [template.replace("{}", caption) for template in templates]


def common_nouns(wordnet: WordNet) -> list[str]:
    """Nouns that were met in hand-tagged texts and name kinds, not single things; in alphabetical order."""
    return sorted(
        lemma
        for lemma, count in wordnet.tagged.items()
        if count and wordnet.senses[lemma][0] not in wordnet.instances and _LETTERS.fullmatch(lemma)
    )


def people(nouns: Iterable[str], wordnet: WordNet) -> list[str]:
    """The nouns whose most frequent sense is a kind of person."""
    return [noun for noun in nouns if PERSON in wordnet.above(wordnet.senses[noun][0])]


def glosses(lines: Iterable[str]) -> dict[int, str]:
    """First definition of each sense, from the lines of ``data.noun``; long ones are left out."""
    found = {}
    for line in lines:
        head, bar, gloss = line.partition(" | ")
        first = gloss.partition(";")[0].strip()
        if bar and not line.startswith("  ") and 0 < len(first) <= MOST_GLOSS:
            found[int(head.split()[0])] = first
    return found


def with_article(words: str) -> str:
    """``a`` or ``an`` before the words, by their first letter."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def noun_texts(wordnet: WordNet, gloss: Mapping[int, str], seed: int) -> list[str]:
    """Every common noun alone, in one template, with its gloss, and in one place; people with a trait and a skin tone."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    nouns = common_nouns(wordnet)
    texts = list(nouns)
    for noun in nouns:
        texts.append(chance.choice(NOUN_TEMPLATES).replace("{}", with_article(noun)))
        texts.append(f"{with_article(noun)} {chance.choice(PLACES)}")
        definition = gloss.get(wordnet.senses[noun][0])
        texts += [f"{noun}, {definition}"] if definition else []
    for person in people(nouns, wordnet):
        texts += [f"a photo of {with_article(trait)} {person}" for trait in chance.sample(TRAITS, 2)]
        texts.append(f"{person}: {chance.choice(SKIN_TONES)}")
        texts.append(f"a {chance.choice(('man', 'woman'))} who is {with_article(person)}")
    texts += [f"a photo of {with_article(trait)} person" for trait in TRAITS] + list(PLACES)
    return list(dict.fromkeys(texts))
