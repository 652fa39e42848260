"""The text of one turn. Light, pure: what samples hold enters as data, on one line."""

from __future__ import annotations

import re
import unicodedata
from string import ascii_uppercase

from runner.nodes.proactive.env import Observation
from runner.nodes.proactive.records import MAX_OPTION, MAX_QUESTION
from runner.nodes.proactive.texts import Texts, load_texts

LETTERS = ascii_uppercase
_MARK = re.compile(r"<(?=[^\s<>]{1,40}>)|\[(?=/?INST\])")


def as_data(text: str, limit: int) -> str:
    """One line of at most ``limit`` characters; what looks like a mark of a chat template or of a picture is broken up."""
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text[: 4 * limit])
    return _MARK.sub(r"\g<0> ", " ".join(plain.split()))[:limit]


def option_line(index: int, text: str) -> str:
    """``A. text``: one option as it is listed, and as an answer may name it."""
    return f"{LETTERS[index]}. {as_data(text, MAX_OPTION)}"


def render(observation: Observation, *, short_answer: bool = True, texts: Texts | None = None) -> str:
    """Preface, question and hint, then the options with their letters and, unless told otherwise, the wish for one of them only.

    Without options (open answers) only the first part.
    """
    texts = texts or load_texts()
    parts = (observation.preface, observation.question, observation.hint)
    asked = " ".join(as_data(part, MAX_QUESTION) for part in parts if part)
    if not observation.options:
        return asked
    listed = [option_line(i, text) for i, text in enumerate(observation.options)]
    return "\n".join([asked, texts.announce, *listed, *([texts.only_one] if short_answer else [])])
