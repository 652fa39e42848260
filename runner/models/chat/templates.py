"""Chat templates of transformers: conversations as the text that a model was tuned on, with pictures between texts.

Chat templates differ. Some walk through the parts of a message; some write all its pictures first; some know strings
only. Which it is shows when a message with marked texts is rendered; pictures are then put where they belong, or the
model is refused. Texts can hold no special token: a name such as ``<image>`` would else claim a picture's place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from runner.errors import ModelRefused
from runner.models.base import ImagePart

Parts = Sequence[str | ImagePart]
Form = Callable[[Parts, str], Any]
"""Parts of a message, and the text that stands for a picture -> ``content`` for the chat template."""

_MARKED = ("alpha7531", "beta7531", "gamma7531")
PICTURE = ImagePart(b"")
"""Stands for any picture: a template sees no pixels."""


def _by_parts(parts: Parts, mark: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in parts]


def _as_string(parts: Parts, mark: str) -> str:
    return "".join(part if isinstance(part, str) else mark for part in parts)


def _as_one_part(parts: Parts, mark: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": _as_string(parts, mark)}]


class ChatTemplate:
    """The template of one model. ``processor``: of a model that sees; ``tokenizer`` alone: of one that reads text."""

    def __init__(self, tokenizer: Any, name: str, processor: Any = None) -> None:
        """Raises ``ModelRefused`` where there is none, or it cannot show pictures between texts."""
        self._tokenizer, self._name = tokenizer, name
        self._template = _template_of(processor, tokenizer)
        if not self._template:
            raise ModelRefused(f"{name} has no chat template", hint="take the instruction-tuned version of the model")
        own = [value for field, value in vars(processor).items() if field.endswith("_token")] if processor else []
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        special = sorted({token for token in (*own, *added) if isinstance(token, str) and token}, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._token = str(getattr(processor, "image_token", "") or "")
        self._mark = self._picture_mark()
        self._form = self._find_form() if processor is not None else _as_string

    def clean(self, content: str | Parts) -> Parts:
        """The parts of a message with special tokens broken up: what users wrote is data."""
        parts: Parts = (content,) if isinstance(content, str) else content
        return [self.special.sub(_broken, part) if isinstance(part, str) else part for part in parts]

    def render(self, messages: Sequence[tuple[str, Parts]], *, reply_next: bool = True) -> str:
        """Messages (role, cleaned parts) as text, with the model's sign for a picture in the place of each.

        ``reply_next``: end with what opens a reply of the model.
        """
        return self._rendered(messages, self._form, self._mark, reply_next)

    def _rendered(self, messages: Sequence[tuple[str, Parts]], form: Form, mark: str, reply_next: bool = True) -> str:
        filled = [{"role": role, "content": form(parts, mark)} for role, parts in messages]
        text: str = self._tokenizer.apply_chat_template(
            filled, chat_template=self._template, add_generation_prompt=reply_next, tokenize=False
        )
        return text

    def _picture_mark(self) -> str:
        """What stands for one picture in the template's own writing (``<image>`` and a line break, say)."""
        try:
            text = self._rendered([("user", (PICTURE, _MARKED[0]))], _by_parts, "")
        except Exception:  # noqa: BLE001 - a template is a program of a stranger's; what it cannot render it raises at
            return self._token
        start, end = text.find(self._token), text.find(_MARKED[0])
        return text[start:end] if self._token and 0 <= start < end else self._token

    def _find_form(self) -> Form:
        for form in (_by_parts, _as_one_part, _as_string):
            if self._keeps_order(form):
                return form
        raise ModelRefused(
            f"{self._name}: its chat template cannot show pictures between texts",
            hint="take a folder whose chat template writes the parts of a message in their order",
        )

    def _keeps_order(self, form: Form) -> bool:
        first, second, third = _MARKED
        try:
            text = self._rendered([("user", (first, PICTURE, second, PICTURE, third))], form, self._mark)
        except Exception:  # noqa: BLE001 - as above
            return False
        found = re.fullmatch(f".*?{first}(.*?){second}(.*?){third}.*", text, re.DOTALL)
        return found is not None and all(self.special.search(between) for between in found.groups())


def _broken(token: re.Match[str]) -> str:
    """A special token's text with a space after its first character, so that it is read as plain text."""
    return f"{token[0][0]} {token[0][1:]}"


def _template_of(processor: Any, tokenizer: Any) -> str:
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or ""
