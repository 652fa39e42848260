"""Names of a classifier's outputs: read, checked, never guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import ModelRefused

_IDS = re.compile(r"(LABEL|class|label|cls)[_ ]?\d+|n\d{8}", re.IGNORECASE)
HINT = "Give `labels:` (one name for each output, in output order) as people would say them."


def read_labels(path: Path) -> tuple[str, ...]:
    """Names from a text file, one a line, in output order; empty lines at the end are dropped."""
    try:
        lines = path.read_text("utf8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelRefused(f"{path}: labels cannot be read: {error}") from error
    return check_labels([line.strip() for line in lines], str(path))


def labels_from_id2label(mapping: Any, where: str) -> tuple[str, ...]:
    """Names of a Hugging Face ``id2label``: keys are the numbers 0 to n-1, as strings in JSON."""
    if not isinstance(mapping, Mapping) or not mapping:
        raise ModelRefused(f"{where}: there is no id2label, so the outputs have no names", hint=HINT)
    try:
        by_index = {int(key): value for key, value in mapping.items()}
    except ValueError as error:
        raise ModelRefused(f"{where}: id2label has a key that is no number: {error}", hint=HINT) from error
    if sorted(by_index) != list(range(len(mapping))):
        raise ModelRefused(f"{where}: the keys of id2label are not 0 to {len(mapping) - 1}", hint=HINT)
    labels = [by_index[index] for index in range(len(by_index))]
    if len(labels) > 1 and all(str(label).strip().isdigit() for label in labels):
        raise ModelRefused(
            f"{where}: the outputs are named {labels[0]}, {labels[1]}, ...: these are numbers", hint=HINT
        )
    return check_labels(labels, where)


def check_labels(labels: Sequence[Any], where: str) -> tuple[str, ...]:
    """The labels, if each is a name. Raises ``ModelRefused`` for empty ones and ids (``LABEL_0``, ``n02123045``)."""
    if not labels:
        raise ModelRefused(f"{where}: there are no labels", hint=HINT)
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise ModelRefused(f"{where}: output {index} has no name", hint=HINT)
        if _IDS.fullmatch(label.strip()):
            raise ModelRefused(f"{where}: output {index} is called {label!r}, which is an id and not a name", hint=HINT)
    return tuple(labels)


def need_labels(labels: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The given labels. Raises ``ModelRefused`` where none were given though the format stores none."""
    if labels is None:
        raise ModelRefused(f"{where}: this format does not hold the names of the outputs", hint=HINT)
    return check_labels(labels, "labels")
