"""Which captions are fit to be searched with. Pure rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.naming import mentions, normalised, words

MIN_WORDS, MAX_WORDS, MAX_CHARACTERS = 3, 30, 160


def why_unfit(text: str, target_names: Sequence[str]) -> str | None:
    """Why a caption cannot be used, or None: it must be one short text that names the target as whole words."""
    if not any(mentions(text, name) for name in target_names):
        return f"does not name {target_names[0]!r}"
    count = len(words(text))
    if len(text) > MAX_CHARACTERS or count > MAX_WORDS:
        return f"longer than {MAX_WORDS} words"
    spaceless = any(not name.isascii() for name in target_names)
    if count < MIN_WORDS and not spaceless:
        return f"too short: write a phrase of at least {MIN_WORDS} words"
    if "{" in text or "}" in text or "<" in text:
        return "holds a placeholder"
    return None


def judge_captions(
    texts: Mapping[str, str],
    values: Mapping[str, str],
    target_names: Mapping[str, Sequence[str]],
    taken: Mapping[str, str],
) -> dict[str, str]:
    """Reasons by key for the captions of one attribute that must go.

    ``values``: what each key's caption should show; ``target_names``: what counts as naming its target; ``taken``:
    normalised captions that were kept before, with their value. Of two equal captions for different values none tells the values apart, so all but the first go; of two for the
    same value the second is a repeat.
    """
    reasons: dict[str, str] = {}
    seen = dict(taken)
    for key, text in texts.items():
        name = normalised(text)
        if reason := why_unfit(text, target_names[key]):
            reasons[key] = reason
        elif name in seen:
            same = seen[name] == values[key]
            reasons[key] = "repeats another caption" if same else f"is also the caption of {seen[name]!r}"
        else:
            seen[name] = values[key]
    return reasons


def tidy(text: str) -> str:
    """One line, spaces collapsed, outer quotes and the final full stop gone."""
    return " ".join(text.split()).strip("\"'“”` ").removesuffix(".").strip()
