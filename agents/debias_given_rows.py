"""Rows of texts that a spec gives, after checks: names, counts, repeats, placeholders. ``Unfit`` names the first mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.debias_given import Insights, Scenes
from agents.debias_ready import augmentations, insight_rows, scene_words
from agents.debias_shipped import wording_of
from agents.debias_subject import Kind, PromptText, Subject, Unfit, numbered
from agents.debias_texts import name_of, repeated, slots_missing, why_no_pair
from agents.prompting import one_line


def given_rows(kind: Kind, texts: Any, subject: Subject) -> list[PromptText]:
    """Rows of what ``given`` holds for a kind. Raises ``Unfit``."""
    makers: dict[str, Callable[[Any, Subject], list[PromptText]]] = {
        "diverse": _diverse, "bias": _bias, "paraphrase": _paraphrases, "spurious": _spurious, "candidate": _candidates,
        "augmented": _augmented, "insights": _insights, "scene": _scenes, "content": _content,
    }  # fmt: skip
    return makers[kind](texts, subject)


def shown(text: str) -> str:
    """A stranger's text for an error."""
    return repr(one_line(text, 80))


def require_names(kind: str, found: Mapping[str, Any], wanted: Sequence[str], what: str) -> None:
    """The names must be the wanted ones. Raises ``Unfit`` naming what is missing and what is unknown."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    if missing or unknown:
        parts = [
            f"{word} {', '.join(map(shown, names[:3]))}"
            for word, names in (("no texts for", missing), ("unknown:", unknown))
            if names
        ]
        raise Unfit(f"{kind}: {'; '.join(parts)}; give texts for each of the {what}, spelt as there")


def require_unique(kind: str, texts: Sequence[str]) -> None:
    """Raises ``Unfit`` naming a text that stands there twice."""
    if (twice := repeated(texts)) is not None:
        raise Unfit(f"{kind}: the text {shown(twice)} stands there twice, where each must be another")


def _diverse(texts: list[str], subject: Subject) -> list[PromptText]:
    require_unique("diverse", texts)
    return numbered("diverse", texts)


def _by_class(kind: str, texts: Mapping[str, list[str]], subject: Subject) -> list[PromptText]:
    require_names(kind, texts, subject.classes, "classes")
    require_unique(kind, [text for listed in texts.values() for text in listed])
    return [row for name in subject.classes for row in numbered(kind, texts[name], class_name=name)]


def _bias(texts: Mapping[str, list[str]], subject: Subject) -> list[PromptText]:
    counts = {name: len(listed) for name, listed in texts.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{shown(name)} {n}" for name, n in list(counts.items())[:7])
        raise Unfit(f"bias: the values have different numbers of texts ({listed}); give each the same number")
    return _by_class("bias", texts, subject)


def _spurious(texts: Mapping[str, list[str]], subject: Subject) -> list[PromptText]:
    return _by_class("spurious", texts, subject)


def _paraphrases(texts: Mapping[str, list[str]], subject: Subject) -> list[PromptText]:
    require_names("paraphrase", texts, subject.queries, "queries")
    found: list[PromptText] = []
    for query in subject.queries:
        others = [text for text in texts[query] if name_of(text) != name_of(query)]
        if len(others) < len(texts[query]) - 1:
            require_unique(f"paraphrase of {shown(query)}", texts[query])
        require_unique(f"paraphrase of {shown(query)}", others)
        found += numbered("paraphrase", [query, *others], query=query)
    return found


def _candidates(texts: Mapping[str, Mapping[str, list[str]]], subject: Subject) -> list[PromptText]:
    require_names("candidate", texts, subject.queries, "queries")
    found: list[PromptText] = []
    for query in subject.queries:
        require_names(f"candidate of {shown(query)}", texts[query], subject.classes, "classes")
        require_unique(f"candidate of {shown(query)}", [t for listed in texts[query].values() for t in listed])
        found += [r for c in subject.classes for r in numbered("candidate", texts[query][c], query=query, class_name=c)]
    return found


def _augmented(texts: Mapping[str, str], subject: Subject) -> list[PromptText]:
    require_names("augmented", texts, subject.queries, "queries")
    found: list[PromptText] = []
    for query in subject.queries:
        if reason := slots_missing(texts[query], ["bias"]):
            raise Unfit(f"augmented: the text {shown(texts[query])} {reason}")
        found += augmented_rows(query, texts[query], subject)
    return found


def augmented_rows(query: str, pattern: str, subject: Subject) -> list[PromptText]:
    """One row a class; before a noun stands the value's word, elsewhere its phrase."""
    before_noun = pattern.partition("{bias}")[2][:2].strip().isalnum()
    wordings = wording_of(subject.attribute, subject.classes)
    return augmentations(query, pattern, subject, [w.word if before_noun and w.word else w.phrase for w in wordings])


def _insights(texts: Insights, subject: Subject) -> list[PromptText]:
    found: list[PromptText] = []
    for kind, pairs in (("harmful", texts.harmful), ("helpful", texts.helpful)):
        for number, (first, second) in enumerate(pairs, 1):
            if reason := why_no_pair(first, second):
                raise Unfit(f"insights: {kind} pair {number}: {reason}")
        found += insight_rows(kind, [(first, second) for first, second in pairs])
    return found


def _scenes(texts: Scenes, subject: Subject) -> list[PromptText]:
    for text in texts.scenes:
        if reason := slots_missing(text, ["target", "bias"]):
            raise Unfit(f"scene: the text {shown(text)} {reason}")
    require_unique("scene", texts.scenes)
    words = scene_words(subject)
    if texts.targets:
        require_names("scene targets", texts.targets, subject.queries, "queries")
        words = [w for w in words if w.kind != "target_word"]
        words += [r for q in subject.queries for r in numbered("target_word", texts.targets[q], query=q)]
    if texts.values:
        require_names("scene values", texts.values, subject.classes, "classes")
        words = [w for w in words if w.kind != "bias_word"]
        words += [r for c in subject.classes for r in numbered("bias_word", texts.values[c], class_name=c)]
    return numbered("scene", texts.scenes) + words


def _content(texts: Mapping[str, str], subject: Subject) -> list[PromptText]:
    require_names("content", texts, subject.queries, "queries")
    return [PromptText("content", texts[query], 0, query=query) for query in subject.queries]
