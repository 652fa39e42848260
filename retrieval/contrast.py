"""Contrast captions: the same caption with another value, and the same value with another target.

A picture is relevant only where its caption describes it better than these do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

Caption = Mapping[str, Any]
"""One row of the table ``c2b_caption``."""


def display_names(task: Mapping[str, Any], targets: Sequence[str]) -> dict[str, str]:
    """How captions call each target: its caption name, else its own name in words."""
    given: dict[str, str] = {}
    for output in task.get("outputs", []):
        given |= output.get("caption_names") or {}
    return {target: given.get(target) or target.replace("_", " ") for target in targets}


def swap_target(text: str, names: Sequence[str], other: str) -> str | None:
    """``text`` with the first of ``names`` that occurs in it (whole words) replaced by ``other``; None if none does.

    A plural ending stays; "a" or "an" before the name follows the new name's first letter. Articles inside names are
    left aside.
    """
    bare = _bare(other)
    for name in map(_bare, names):
        words = r"\s+".join(re.escape(word) for word in name.split())
        pattern = re.compile(rf"(?<!\w)(?P<article>an?\s+)?{words}(?P<plural>s|es)?(?!\w)", re.IGNORECASE)
        if words and pattern.search(text):
            return pattern.sub(lambda match: _article(match["article"], bare) + bare + (match["plural"] or ""), text)
    return None


def _bare(name: str) -> str:
    return re.sub(r"(?i)^\s*(an?|the)\s+", "", name)


def _article(found: str | None, name: str) -> str:
    if not found:
        return ""
    article = "an " if name[:1].lower() in tuple("aeiou") else "a "
    return article.capitalize() if found[0].isupper() else article


def contrast_texts(captions: Sequence[Caption], names: Mapping[str, str]) -> list[list[str]]:
    """For each caption the texts it must beat, without itself and without repeats.

    Other values: the caption with the same number among those of each other value of its attribute. Other targets: the
    caption itself with the target's name exchanged. ``names``: what ``display_names`` gives.
    """
    by_value = _by_attribute_and_value(captions)
    found = []
    for caption in captions:
        own = str(caption["text"])
        texts = [*_other_values(caption, by_value), *_other_targets(caption, names)]
        found.append([text for text in dict.fromkeys(texts) if text.casefold() != own.casefold()])
    return found


def _by_attribute_and_value(captions: Sequence[Caption]) -> dict[tuple[Any, ...], dict[str, list[Caption]]]:
    grouped: dict[tuple[Any, ...], dict[str, list[Caption]]] = defaultdict(lambda: defaultdict(list))
    for caption in captions:
        if not caption["is_neutral"]:
            grouped[_attribute(caption)][caption["value"]].append(caption)
    for values in grouped.values():
        for listed in values.values():
            listed.sort(key=lambda caption: str(caption["caption_id"]))
    return grouped


def _attribute(caption: Caption) -> tuple[Any, ...]:
    return caption["resample"], caption["target"], caption["attribute"]


def _other_values(caption: Caption, by_value: Mapping[tuple[Any, ...], Mapping[str, list[Caption]]]) -> list[str]:
    if caption["is_neutral"]:
        return []
    values = by_value[_attribute(caption)]
    number = [c["caption_id"] for c in values[caption["value"]]].index(caption["caption_id"])
    return [listed[number % len(listed)]["text"] for value, listed in values.items() if value != caption["value"]]


def _other_targets(caption: Caption, names: Mapping[str, str]) -> list[str]:
    target = str(caption["target"])
    own = [names.get(target, target), target.replace("_", " "), target]
    swapped = [swap_target(caption["text"], own, name) for other, name in names.items() if other != target]
    return [text for text in swapped if text is not None]
