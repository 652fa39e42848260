"""Texts that need no model: those that come with the project, and those that templates give."""

from __future__ import annotations

from collections.abc import Callable

from agents.debias_shipped import (
    attribute_named,
    augmented_pattern,
    diverse_captions,
    framed,
    shipped,
    values_for,
    wording_of,
)
from agents.debias_subject import Kind, NotShipped, PromptText, Sizes, Subject, Templates, numbered
from agents.debias_texts import bare, filled, substituted, thing_of, unended
from runner.data.sampling import sampled
from runner.naming import spoken


def ready_texts(kind: Kind, subject: Subject, sizes: Sizes, templates: Templates, seed: int) -> list[PromptText]:
    """Texts of a kind without a model. Raises ``NotShipped``, saying why there are none."""
    makers: dict[str, Callable[[], list[PromptText]]] = {
        "diverse": lambda: _diverse(sizes, seed),
        "bias": lambda: _bias(subject, sizes),
        "paraphrase": lambda: _paraphrases(subject, sizes),
        "spurious": lambda: _spurious(subject, templates),
        "candidate": lambda: _candidates(subject, templates),
        "augmented": lambda: _augmented(subject),
        "insights": lambda: _insights(subject, templates),
        "scene": lambda: _scenes(subject),
    }
    if kind not in makers:
        raise NotShipped(f"texts of the kind {kind} are given in the spec only")
    return [text._replace(source=_source_of(kind, templates)) for text in makers[kind]()]


def _source_of(kind: str, templates: Templates) -> str:
    return "spec" if getattr(templates, kind, None) is not None else "shipped"


def _diverse(sizes: Sizes, seed: int) -> list[PromptText]:
    """All 328, or those that the seed draws."""
    texts = diverse_captions()
    if sizes.diverse > len(texts):
        raise NotShipped(f"{len(texts)} neutral captions are shipped, not {sizes.diverse}")
    return numbered("diverse", sampled(texts, sizes.diverse, seed, str))


def _bias(subject: Subject, sizes: Sizes) -> list[PromptText]:
    values = values_for(subject.attribute, subject.classes)
    if values is None:
        raise NotShipped(_unknown_values(subject))
    most = min(len(value.bias) for value in values)
    if sizes.per_class > most:
        raise NotShipped(f"{most} bias prompts a value are shipped, not {sizes.per_class}")
    pairs = zip(subject.classes, values, strict=True)
    return [t for name, value in pairs for t in numbered("bias", [*value.bias[: sizes.per_class]], class_name=name)]


def _unknown_values(subject: Subject) -> str:
    known = attribute_named(subject.attribute)
    if known is None:
        names = ", ".join(attribute.names[0] for attribute in shipped().attributes)
        return f"the attribute {subject.attribute!r} is not shipped; {names} are"
    return f"of {known.names[0]} only these values are shipped: {', '.join(value.names[0] for value in known.values)}"


def _paraphrases(subject: Subject, sizes: Sizes) -> list[PromptText]:
    found: list[PromptText] = []
    for query in subject.queries:
        texts = framed(query, sizes.paraphrases)
        if texts is None:
            raise NotShipped(f"{len(shipped().frames)} frames are shipped, too few for {sizes.paraphrases} paraphrases")
        found += numbered("paraphrase", texts, query=query)
    return found


def _spurious_texts(subject: Subject, templates: Templates) -> list[list[str]]:
    """Texts that name a value alone, by class."""
    values = values_for(subject.attribute, subject.classes)
    if templates.spurious is None and values is not None:
        return [list(value.spurious) for value in values]
    used = templates.spurious or (shipped().templates["spurious"],)
    return [[filled(template, {"class": spoken(name)}) for template in used] for name in subject.classes]


def _spurious(subject: Subject, templates: Templates) -> list[PromptText]:
    texts = zip(subject.classes, _spurious_texts(subject, templates), strict=True)
    return [t for name, listed in texts for t in numbered("spurious", listed, class_name=name)]


def _candidates(subject: Subject, templates: Templates) -> list[PromptText]:
    """Query and value together: by the templates of the spec, else the query with the value's phrase behind it."""
    used, wordings = templates.candidate, wording_of(subject.attribute, subject.classes)
    known = values_for(subject.attribute, subject.classes) is not None
    own = ("{query} {class}",) if known else (shipped().templates["candidate"],)
    found: list[PromptText] = []
    for query in subject.queries:
        text = unended(query)
        for name, wording in zip(subject.classes, wordings, strict=True):
            said = spoken(name) if used is not None else wording.phrase
            texts = [filled(template, {"query": text, "class": said}) for template in used or own]
            found += numbered("candidate", texts, query=query, class_name=name)
    return found


def _augmented(subject: Subject) -> list[PromptText]:
    found: list[PromptText] = []
    for query in subject.queries:
        pattern, said = augmented_pattern(query, subject.attribute, subject.classes)
        found += augmentations(query, pattern, subject, said)
    return found


def augmentations(query: str, pattern: str, subject: Subject, said: list[str]) -> list[PromptText]:
    """One text a class: its word in place of ``{bias}``, articles mended."""
    texts = [substituted(pattern, "bias", word) for word in said]
    return [
        PromptText("augmented", text, 0, class_name=name, query=query)
        for name, text in zip(subject.classes, texts, strict=True)
    ]


def _insights(subject: Subject, templates: Templates) -> list[PromptText]:
    """Harmful pairs: the spurious texts of any two values. What helps is not shipped, since it hangs on the queries."""
    texts = _spurious_texts(subject, templates)
    pairs = [(a, b) for i, one in enumerate(texts) for other in texts[i + 1 :] for a, b in zip(one, other, strict=True)]
    return insight_rows("harmful", pairs)


def insight_rows(kind: str, pairs: list[tuple[str, str]], query: str | None = None) -> list[PromptText]:
    """Two rows a pair, with the same idx."""
    return [
        PromptText(kind, text, idx, class_name=side, query=query)
        for idx, pair in enumerate(pairs)
        for side, text in zip("ab", pair, strict=True)
    ]


def _scenes(subject: Subject) -> list[PromptText]:
    known = attribute_named(subject.attribute) if values_for(subject.attribute, subject.classes) else None
    return numbered("scene", list(known.scenes if known else shipped().generic_scenes)) + scene_words(subject)


def scene_words(subject: Subject) -> list[PromptText]:
    """What stands for ``{target}`` (by query) and ``{bias}`` (by class) in scenes."""
    targets = [PromptText("target_word", bare(thing_of(query)), 0, query=query) for query in subject.queries]
    wordings = zip(subject.classes, wording_of(subject.attribute, subject.classes), strict=True)
    return targets + [t for name, w in wordings for t in numbered("bias_word", list(w.words), class_name=name)]
