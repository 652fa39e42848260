"""Prompts with pictures for image-text-to-text models of transformers: text and pictures stay in their order.

Chat templates differ. Some walk through the parts of a message; some write all its pictures first; some know strings
only. Which it is shows when a message with marked texts is rendered; pictures are then put where they belong, or the
model is refused. Texts can hold no special token: a name such as ``<image>`` would else claim a picture's place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.data.images import UnreadableImage, decode
from runner.errors import ModelRefused
from runner.models.base import ImagePart, Message
from runner.models.chat.transformers_prompts import Prompts, check_room
from runner.models.chat.wire import Payload, SendFailed

if TYPE_CHECKING:
    from PIL.Image import Image

Parts = Sequence[str | ImagePart]
Form = Callable[[Parts, str], Any]
"""Parts of a message, and the text that stands for a picture -> ``content`` for the chat template."""

_MARKED = ("alpha7531", "beta7531", "gamma7531")
_NO_PICTURE = ImagePart(b"")


def takes_images(folder: Path) -> bool:
    """Whether the folder's config describes a model that sees. Light: nothing is loaded."""
    try:
        config = json.loads((folder / "config.json").read_text("utf8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and isinstance(config.get("vision_config"), dict)


def _by_parts(parts: Parts, mark: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in parts]


def _as_string(parts: Parts, mark: str) -> str:
    return "".join(part if isinstance(part, str) else mark for part in parts)


def _as_one_part(parts: Parts, mark: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": _as_string(parts, mark)}]


class PictureReader:
    """Prompts of one model. ``room``: tokens that the model holds, if known."""

    def __init__(self, processor: Any, name: str, room: int | None) -> None:
        """Raises ``ModelRefused`` when there is no chat template that can show pictures between texts."""
        self._processor, self._tokenizer, self._name, self._room = processor, processor.tokenizer, name, room
        self._template = _template_of(processor)
        own = [value for field, value in vars(processor).items() if field.endswith("_token")]
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        special = sorted({token for token in (*own, *added) if isinstance(token, str) and token}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)))
        self._mark = self._picture_mark()
        self._form = self._find_form()
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def encode(self, payloads: Sequence[Payload]) -> Prompts:
        """See ``Reader``. The questions all hold pictures, or none of them does."""
        texts = [self.prompt(payload.messages) for payload in payloads]
        pictures = [self._pictures(payload.messages) for payload in payloads]
        bos = self._tokenizer.bos_token
        try:
            encoded = self._processor(
                text=texts, images=pictures if any(pictures) else None, padding=True, padding_side="left",
                add_special_tokens=not (bos and texts[0].startswith(bos)), return_tensors="pt",
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise SendFailed(f"{self._name} cannot take these pictures: {error}", scope="item") from error
        lengths = [int(n) for n in encoded["attention_mask"].sum(1)]
        check_room(payloads, lengths, self._room, self._name)
        return Prompts(dict(encoded), lengths)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text of the prompt, with the model's sign for a picture in the place of each."""
        return self._rendered([(m.role, self._clean(m.content)) for m in messages], self._form)

    def _clean(self, content: str | tuple[str | ImagePart, ...]) -> Parts:
        """The parts of a message with special tokens broken up: what users wrote is data."""
        parts: Parts = (content,) if isinstance(content, str) else content
        return [self._special.sub(_broken, part) if isinstance(part, str) else part for part in parts]

    def _rendered(self, messages: Sequence[tuple[str, Parts]], form: Form, mark: str | None = None) -> str:
        mark = self._mark if mark is None else mark
        filled = [{"role": role, "content": form(parts, mark)} for role, parts in messages]
        text: str = self._tokenizer.apply_chat_template(
            filled, chat_template=self._template, add_generation_prompt=True, tokenize=False
        )
        return text

    def _pictures(self, messages: Sequence[Message]) -> list[Image]:
        parts = [part for m in messages if not isinstance(m.content, str) for part in m.content]
        try:
            return [decode(part.data) for part in parts if isinstance(part, ImagePart)]
        except UnreadableImage as error:
            raise SendFailed(f"a picture of the question cannot be read: {error.message}", scope="item") from error

    def _picture_mark(self) -> str:
        """What stands for one picture in the template's own writing (``<image>`` and a line break, say)."""
        token = str(getattr(self._processor, "image_token", "") or "")
        try:
            text = self._rendered([("user", (_NO_PICTURE, _MARKED[0]))], _by_parts, "")
        except Exception:  # noqa: BLE001 - a template is a program of a stranger's; what it cannot render it raises at
            return token
        start, end = text.find(token), text.find(_MARKED[0])
        return text[start:end] if token and 0 <= start < end else token

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
            text = self._rendered([("user", (first, _NO_PICTURE, second, _NO_PICTURE, third))], form)
        except Exception:  # noqa: BLE001 - as above
            return False
        found = re.fullmatch(f".*?{first}(.*?){second}(.*?){third}.*", text, re.DOTALL)
        return found is not None and all(self._special.search(between) for between in found.groups())


def _broken(token: re.Match[str]) -> str:
    """A special token's text with a space after its first character, so that it is read as plain text."""
    return f"{token[0][0]} {token[0][1:]}"


def _template_of(processor: Any) -> str:
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or ""
