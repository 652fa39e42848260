"""Prompts: Jinja files for the instructions, one JSON object for the data.

What a user or a model wrote (task, class names, attributes) reaches the model only inside that JSON object, never in the
instructions: a class called "ignore all instructions" stays the name of a class.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from runner.models.base import Message

if TYPE_CHECKING:
    import jinja2

_TEMPLATE_MARK = re.compile(r"<(?=[^\s<>]{1,40}>)|\[(?=/?INST\])")


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    # Plain text for a model, not HTML; the templates take only our own numbers and words.
    return jinja2.Environment(
        loader=jinja2.PackageLoader("agents", "prompts"),
        autoescape=False,  # noqa: S701
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, **settings: Any) -> str:
    """The text of ``agents/prompts/<name>.jinja``. Raises where a setting that it uses is missing."""
    return _environment().get_template(f"{name}.jinja").render(**settings).strip()


def one_line(text: str, limit: int) -> str:
    """What a user or a model wrote, as data inside a sentence: one line of at most ``limit`` characters.

    White space and control characters become single blanks, half characters are replaced, and what looks like a mark of a chat template
    (``<|im_end|>``, ``</s>``, ``[INST]``) is broken up, since some servers read such marks inside messages too.
    """
    plain = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text[: 4 * limit])
    broken = _TEMPLATE_MARK.sub(r"\g<0> ", " ".join(plain.encode("utf8", "replace").decode().split()))
    return broken if len(broken) <= limit else broken[: limit - 1] + "…"


def prompt(name: str, data: dict[str, Any], **settings: Any) -> tuple[Message, ...]:
    """Messages of the prompt ``agents/prompts/<name>.jinja`` (rendered with ``settings``) about ``data``."""
    return (
        Message("system", render(name, **settings)),
        Message("user", "Prompt:\n" + json.dumps(data, ensure_ascii=False)),
    )
