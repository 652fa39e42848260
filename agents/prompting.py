"""Prompts: Jinja files for the instructions, one JSON object for the data.

What a user or a model wrote (task, class names, attributes) reaches the model only inside that JSON object, never in the
instructions: a class called "ignore all instructions" stays the name of a class.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from runner.models.base import Message

if TYPE_CHECKING:
    import jinja2


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


def prompt(name: str, data: dict[str, Any], **settings: Any) -> tuple[Message, ...]:
    """Messages of the prompt ``agents/prompts/<name>.jinja`` (rendered with ``settings``) about ``data``."""
    system = _environment().get_template(f"{name}.jinja").render(**settings).strip()
    return (
        Message("system", system),
        Message("user", "Prompt:\n" + json.dumps(data, ensure_ascii=False)),
    )
