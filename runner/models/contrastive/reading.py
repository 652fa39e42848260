"""What a chat message asks for, read from its structure alone: pictures, labels beside them, lists of classes. Pure.

The wording of the question is not understood. What is understood:

- the last picture is the one to be named;
- a picture directly followed by a text whose first line matches the label pattern (``label: X``, ``current labels: X, Y``)
  is an example with these labels; such a line after the last picture gives labels that it has so far;
- lines that begin with ``- ``, two or more in a row in one text, are the classes to choose from; not where they are
  sentences, and not where there are examples of which none bears a name of the list: then they are guidelines. Lines
  lettered ``A. ``, ``B. `` and on in order are choices likewise, sentences too: who letters them means them to be chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from runner.models.base import ImagePart, Message

LABEL_PATTERN = r"(?:current\s+)?labels?\s*:\s*(.*)"
"""Of a whole line, whatever its case; the group holds the labels, commas between them."""

MAX_LABEL = 200
"""Characters of a label or class that are read."""
_MAX_WORDS = 12  # longer bullets are sentences: guidelines, no names of classes


@dataclass(frozen=True)
class Example:
    """A picture with its labels; ``line`` is what they were read from, since one name may hold commas."""

    picture: ImagePart
    labels: tuple[str, ...]
    line: str = ""


@dataclass(frozen=True)
class Question:
    """``target``: the picture to be named; ``own``: labels it has so far; ``classes``: what to choose from, or nothing."""

    target: ImagePart
    examples: tuple[Example, ...] = ()
    own: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def read_question(messages: Sequence[Message], label_pattern: str = LABEL_PATTERN) -> Question | None:
    """The question in what users said; None where there is no picture."""
    pattern = re.compile(label_pattern, re.IGNORECASE)
    parts = list(_parts(messages))
    pictures = [place for place, part in enumerate(parts) if isinstance(part, ImagePart)]
    if not pictures:
        return None
    examples = {place: _example(parts, place, pattern) for place in pictures}
    *before, last = pictures
    # A text that labels an example is data: no list of classes is looked for in it.
    data = {place + 1 for place in before if examples[place].labels}
    texts = [part for place, part in enumerate(parts) if isinstance(part, str) and place not in data]
    classes = next((found for text in reversed(texts) if (found := listed(text))), ())
    labelled = tuple(examples[place] for place in before if examples[place].labels)
    return Question(examples[last].picture, labelled, examples[last].labels, classes if _fit(classes, labelled) else ())


def _fit(classes: Sequence[str], labelled: Sequence[Example]) -> bool:
    """Whether a list may be that of the classes: where there are examples, one of them bears a name that is in it."""
    known = {name.casefold() for name in classes}
    return not labelled or any(
        not known.isdisjoint(name.casefold() for name in (example.line, *example.labels)) for example in labelled
    )


def _parts(messages: Iterable[Message]) -> Iterator[str | ImagePart]:
    for message in messages:
        if message.role == "user":
            yield from (message.content,) if isinstance(message.content, str) else message.content


def _example(parts: Sequence[str | ImagePart], place: int, pattern: re.Pattern[str]) -> Example:
    """A picture with the labels in the first line of the text after it, if that is a line of labels."""
    picture, text = parts[place], parts[place + 1] if place + 1 < len(parts) else None
    assert isinstance(picture, ImagePart)
    if not isinstance(text, str):
        return Example(picture, ())
    found = pattern.fullmatch(text.strip().partition("\n")[0].strip()[: 50 * MAX_LABEL])
    line = found[1] or "" if found else ""
    return Example(picture, names(line.split(",")), "".join(names([line])))


def names(texts: Iterable[str]) -> tuple[str, ...]:
    """Distinct names, one line each, bounded, in order; equal whatever their case."""
    found: dict[str, str] = {}
    for text in texts:
        flat = " ".join(text.replace('"', " ").split())[:MAX_LABEL].strip()
        if flat:
            found.setdefault(flat.casefold(), flat)
    return tuple(found.values())


def listed(text: str) -> tuple[str, ...]:
    """Lettered lines, else the longest run of lines that begin with ``- ``, without the sign; nothing where these are sentences."""
    return lettered(text) or dashed(text)


def lettered(text: str) -> tuple[str, ...]:
    """The last run of two or more lines ``A. ...``, ``B. ...`` in the alphabet's order, without the letters."""
    found: list[str] = []
    run: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("A. "):
            run = []
        if len(run) < len(ascii_uppercase) and line.startswith(f"{ascii_uppercase[len(run)]}. "):
            run.append(line[3:])
            found = run if len(run) > 1 else found
        elif line:
            run = []
    return names(found)


def dashed(text: str) -> tuple[str, ...]:
    """The longest run of lines that begin with ``- ``, without the dash; nothing where these are sentences."""
    runs: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.lstrip().startswith("- "):
            runs[-1].append(line.strip()[2:])
        elif line.strip():
            runs.append([])
    longest = max(runs, key=len)
    is_list = len(longest) > 1 and all(len(line.split()) <= _MAX_WORDS for line in longest)
    return names(longest) if is_list else ()
