"""Prompts with pictures for image-text-to-text models of transformers: text and pictures stay in their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.data.images import UnreadableImage, decode
from runner.models.base import ImagePart, Message
from runner.models.chat.templates import ChatTemplate
from runner.models.chat.transformers_prompts import Prompts, check_room
from runner.models.chat.wire import Payload, SendFailed

if TYPE_CHECKING:
    from PIL.Image import Image


def takes_images(folder: Path) -> bool:
    """Whether the folder's config describes a model that sees. Light: nothing is loaded."""
    try:
        config = json.loads((folder / "config.json").read_text("utf8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and isinstance(config.get("vision_config"), dict)


class PictureReader:
    """Prompts of one model. ``room``: tokens that the model holds, if known."""

    def __init__(self, processor: Any, name: str, room: int | None) -> None:
        """Raises ``ModelRefused`` when there is no chat template that can show pictures between texts."""
        self._processor, self._tokenizer, self._name, self._room = processor, processor.tokenizer, name, room
        self._chat = ChatTemplate(processor.tokenizer, name, processor)
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
        return self._chat.render([(m.role, self._chat.clean(m.content)) for m in messages])

    def _pictures(self, messages: Sequence[Message]) -> list[Image]:
        parts = [part for m in messages if not isinstance(m.content, str) for part in m.content]
        try:
            return [decode(part.data) for part in parts if isinstance(part, ImagePart)]
        except UnreadableImage as error:
            raise SendFailed(f"a picture of the question cannot be read: {error.message}", scope="item") from error
