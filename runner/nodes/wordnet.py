"""Which outputs of a classifier mean a target, through WordNet: "dog" means every breed. Pure; plain lines in.

WordNet lists for each noun its senses, the most frequent first, and for each sense what it is a kind of. The classes of
ImageNet are WordNet senses (``n02084071`` is the sense at byte 2084071 of ``data.noun`` of WordNet 3.0). A target means all
outputs at or below one of its senses. Source of the file formats: wndb(5WN), of the word forms: morphy(7WN).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from runner.errors import DataError
from runner.naming import normalised

_WNID = re.compile(r"n(\d{8})\b")
_ARTICLE = re.compile(r"^(a|an|the) ")
_NUMBER = re.compile(r" \d+$")
_ENDINGS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
)  # fmt: skip
# A list of a thousand labels of which so many agree with the usual order of the ImageNet classes is in that order.
_AGREEING = 0.8


@dataclass(frozen=True)
class WordNet:
    """Nouns. A sense is the byte offset of its line in ``data.noun``.

    ``senses``: by lemma (lower case, spaces), the most frequent first; ``words``: names of a sense; ``kinds``: what a sense
    is a kind or an instance of; ``irregular``: lemmas by irregular plural; ``instances``: senses that are one thing of a
    kind (the Eiffel Tower); ``tagged``: by lemma, how many of its senses were met in hand-tagged texts, which are the
    first ones.
    """

    senses: Mapping[str, tuple[int, ...]]
    words: Mapping[int, tuple[str, ...]]
    kinds: Mapping[int, tuple[int, ...]]
    irregular: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    instances: frozenset[int] = frozenset()
    tagged: Mapping[str, int] = field(default_factory=dict)

    def lookup(self, name: str) -> tuple[int, ...]:
        """Senses of a name, the most frequent first; articles, underscores, case and plurals do not matter."""
        plain = _ARTICLE.sub("", normalised(name))
        found = (self.senses[form] for form in self._forms(plain) if form in self.senses)
        return tuple(dict.fromkeys(sense for senses in found for sense in senses))

    def _forms(self, name: str) -> Iterable[str]:
        yield name
        yield from self.irregular.get(name, ())
        for ending, instead in _ENDINGS:
            if name.endswith(ending) and len(name) > len(ending):
                yield name.removesuffix(ending) + instead

    def above(self, sense: int) -> frozenset[int]:
        """The sense itself and everything that it is a kind of."""
        seen, todo = {sense}, [sense]
        while todo:
            todo = [kind for one in todo for kind in self.kinds.get(one, ()) if kind not in seen]
            seen.update(todo)
        return frozenset(seen)


def read_wordnet(folder: Path) -> WordNet:
    """WordNet from a folder with ``data.noun``, ``index.noun`` and ``noun.exc``. Raises ``DataError``."""
    try:
        data, index, irregular = (
            (folder / name).read_text("utf8").splitlines() for name in ("data.noun", "index.noun", "noun.exc")
        )
        return parse_wordnet(data, index, irregular)
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{folder} does not hold WordNet's noun files: {error}") from error


def parse_wordnet(data: Iterable[str], index: Iterable[str], irregular: Iterable[str] = ()) -> WordNet:
    """WordNet from the lines of ``data.noun``, ``index.noun`` and ``noun.exc``; raises ValueError for other lines."""
    words: dict[int, tuple[str, ...]] = {}
    kinds: dict[int, tuple[int, ...]] = {}
    instances: set[int] = set()
    for line in _entries(data):
        sense, words_of, kinds_of, is_instance = _parse_sense(line.partition("|")[0].split())
        words[sense], kinds[sense] = words_of, kinds_of
        instances |= {sense} if is_instance else set()
    lemmas = [_parse_lemma(line.split()) for line in _entries(index)]
    senses = {lemma: offsets for lemma, offsets, _ in lemmas}
    tagged = {lemma: count for lemma, _, count in lemmas}
    return WordNet(senses, words, kinds, parse_exceptions(irregular), frozenset(instances), tagged)


def parse_exceptions(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Base forms by irregular form, from the lines of an ``.exc`` file."""
    exceptions = ([word.replace("_", " ") for word in line.split()] for line in lines)
    return {form: tuple(lemmas) for form, *lemmas in exceptions}


def _entries(lines: Iterable[str]) -> Iterable[str]:
    """Lines without the licence at the top, whose lines begin with two spaces."""
    return (line for line in lines if line and not line.startswith("  "))


def _parse_sense(fields: Sequence[str]) -> tuple[int, tuple[str, ...], tuple[int, ...], bool]:
    """``offset file type n(hex) word id ... p pointer offset type relation ...``; pointers ``@`` and ``@i`` lead upwards,
    and a sense with ``@i`` is an instance."""
    count = int(fields[3], 16)
    names = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
    rest = fields[4 + 2 * count :]
    pointers = [rest[1 + 4 * i : 3 + 4 * i] for i in range(int(rest[0]))]
    above = tuple(int(offset) for symbol, offset in pointers if symbol in ("@", "@i"))
    return int(fields[0]), names, above, any(symbol == "@i" for symbol, _ in pointers)


def _parse_lemma(fields: Sequence[str]) -> tuple[str, tuple[int, ...], int]:
    """``lemma n senses p pointer ... senses tagged offset ...``; the offsets stand by frequency of the sense."""
    senses = int(fields[2])
    return fields[0].replace("_", " "), tuple(int(offset) for offset in fields[-senses:]), int(fields[-senses - 1])


# --- outputs of a classifier -----------------------------------------------------------------------------------------


class ImageNet(NamedTuple):
    """The thousand classes in their usual order: senses, and the names of each."""

    senses: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]


def imagenet() -> ImageNet:
    """The classes of ImageNet-1k (ILSVRC 2012), from timm's list."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    wnids = info.label_names()  # type: ignore[no-untyped-call]
    names = (info.label_name_to_description(wnid).split(",") for wnid in wnids)
    return ImageNet(tuple(int(w[1:]) for w in wnids), tuple(tuple(map(normalised, each)) for each in names))


def label_senses(labels: Sequence[str], wordnet: WordNet, classes: ImageNet) -> list[int | None]:
    """The WordNet sense of each output of a classifier; None where it has none or several that are equally likely.

    A label that begins with a WordNet id means that. Labels in the usual order of the ImageNet classes mean these, which
    tells apart the two that are called "crane". Any other label means the ImageNet class of that name, if there is one, else
    the only sense that WordNet knows for it. Of a label that lists synonyms ("tabby, tabby cat") the first known counts.
    """
    if in_usual_order(labels, classes):
        return list(classes.senses)
    by_name: dict[str, set[int]] = {}
    for sense, names in zip(classes.senses, classes.names, strict=True):
        for name in names:
            by_name.setdefault(name, set()).add(sense)
    return [_label_sense(label, wordnet, by_name) for label in labels]


def in_usual_order(labels: Sequence[str], classes: ImageNet) -> bool:
    """Whether the labels are the thousand ImageNet classes in their usual order, whatever synonym each is called by."""
    if len(labels) != len(classes.senses):
        return False
    shown = ([_NUMBER.sub("", name) for name in _synonyms(label)] for label in labels)
    agreeing = sum(not set(a).isdisjoint(b) for a, b in zip(shown, classes.names, strict=True))
    return agreeing >= _AGREEING * len(labels)


def _synonyms(label: str) -> list[str]:
    return [normalised(part) for part in label.split(",")]


def _label_sense(label: str, wordnet: WordNet, by_name: Mapping[str, set[int]]) -> int | None:
    wnid = _WNID.match(label.strip())
    if wnid:
        return int(wnid[1])
    for name in _synonyms(label):
        found = by_name.get(name) or set(wordnet.lookup(name))
        if len(found) == 1:
            return next(iter(found))
    return None


class Meaning(NamedTuple):
    """Outputs of a classifier that mean a target (positions), the sense by which they do, and other possible readings.

    ``sense`` and ``others``: senses in WordNet's words; ``others`` are less frequent senses of the name that the classifier
    has outputs for too.
    """

    outputs: tuple[int, ...]
    sense: str = ""
    others: tuple[str, ...] = ()


def meaning_of(names: Sequence[str], senses: Sequence[int | None], wordnet: WordNet) -> Meaning:
    """What a target means among outputs with these senses: those at or below its most frequent sense that has any.

    ``names``: the target's names, tried in order, or a WordNet id. No outputs where no sense of any name has some.
    """
    above = [frozenset[int]() if sense is None else wordnet.above(sense) for sense in senses]
    for name in names:
        wnid = _WNID.fullmatch(name)
        wanted = (int(wnid[1]),) if wnid else wordnet.lookup(name)
        outputs = {sense: tuple(i for i, kinds in enumerate(above) if sense in kinds) for sense in wanted}
        found = [sense for sense in wanted if outputs[sense]]
        if found:
            others = (s for s in found[1:] if set(outputs[s]) != set(outputs[found[0]]))
            return Meaning(outputs[found[0]], _named(found[0], wordnet), tuple(_named(s, wordnet) for s in others))
    return Meaning(())


def exclusive(meanings: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Outputs by target such that none stands for two targets.

    Where all outputs of one target are also another's (beagle, dog), they are the narrower one's alone. Other shared outputs
    (a minivan is a car and a truck) count for neither.
    """
    owned = {target: set(outputs) for target, outputs in meanings.items()}
    left = {target: set(outputs) for target, outputs in owned.items()}
    for target, outputs in owned.items():
        for other, theirs in owned.items():
            if other != target and not outputs < theirs:
                left[target] -= theirs
    return {target: tuple(sorted(outputs)) for target, outputs in left.items()}


def _named(sense: int, wordnet: WordNet) -> str:
    names = wordnet.words.get(sense, (f"n{sense:08}",))
    kinds = [wordnet.words[kind][0] for kind in wordnet.kinds.get(sense, ())[:1] if kind in wordnet.words]
    return ", ".join(names) + "".join(f" (a kind of {kind})" for kind in kinds)
