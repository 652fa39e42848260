"""What a chat model does with pictures, found out by asking before work starts.

The first question holds as many small pictures as the work will send; that it is answered is all that counts. The
second shows two pictures between six words. A server that moves pictures to the front of a message turns them into
the neighbours of the first word, and the answer shows it.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from runner.errors import EndpointError, ModelRefused
from runner.models.base import ChatModel, ChatRequest, ImagePart, Message
from runner.models.chat.outcomes import refuses_any_image

if TYPE_CHECKING:
    from runner.context import StepContext

SIDE = 56  # pixels: what the smallest picture of common models takes
RED, BLUE = (255, 0, 0), (0, 0, 255)
WORDS = ("anchor", "heron", "maple", "otter", "birch", "lotus")
TRUTH = {"red": "heron", "blue": "birch"}
INTERLEAVE_HINT = (
    "the server seems to move pictures to the front of a message, away from their texts; where it is vLLM, start it with "
    "--interleave-mm-strings, or with a chat template that shows text and pictures in the order they are given"
)
_PURPOSE = "probe"
_MAX_TOKENS = 16
_TOO_LONG = re.compile(r"context|too long|too many tokens|max_model_len|token limit", re.IGNORECASE)
_LIMIT = re.compile(r"at most \d+ image|too many images", re.IGNORECASE)
_TOO_MANY = re.compile(
    r"at most|too many|exceed|limit|maximum|multiple images|only one image|single image", re.IGNORECASE
)


def text_only(name: str, said: str = "") -> ModelRefused:
    """The refusal of a model that takes no picture at all."""
    reason = f": {said}" if said else ""
    return ModelRefused(
        f"{name} reads text only{reason}", hint="name a model that takes pictures (a vision-language model)"
    )


def picture(colour: tuple[int, int, int]) -> ImagePart:
    """A small picture of one RGB colour, as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png")


def colour_of(number: int) -> tuple[int, int, int]:
    """An RGB colour of its own for each number from 0 to 65,535."""
    # 97 has no factor in common with 256, so the first channel alone differs within 256 numbers in a row.
    return 97 * number % 256, (29 * number + number // 256) % 256, 200


def counting_question(count: int) -> ChatRequest:
    """A message with ``count`` distinct pictures, each followed by a text."""
    content: list[str | ImagePart] = []
    for number in range(count):
        content += [picture(colour_of(number)), f"This was picture {number + 1}.\n"]
    message = Message("user", (*content, "Were there any pictures? Answer yes or no."))
    return ChatRequest((message,), _PURPOSE, f"{count} pictures", max_tokens=_MAX_TOKENS, allow_cut=True)


def order_question() -> ChatRequest:
    """Two pictures between six words, and which word comes after which picture."""
    word: dict[str, Any] = {"enum": sorted(WORDS)}
    schema = {
        "type": "object", "properties": {"red": word, "blue": word}, "required": ["red", "blue"],
        "additionalProperties": False,
    }  # fmt: skip
    first, *middle = WORDS
    question = (
        "Above are words and two plain pictures in one sequence. Which word comes directly after the red picture, and "
        'which directly after the blue one? Answer as JSON: {"red": WORD, "blue": WORD}.'
    )
    between, after = "".join(f"{w}\n" for w in middle[:3]), "".join(f"{w}\n" for w in middle[3:])
    content = (f"{first}\n", picture(RED), between, picture(BLUE), after + question)
    return ChatRequest((Message("user", content),), _PURPOSE, "order", schema, "order", max_tokens=64, max_repairs=1)


async def accepts(model: ChatModel, count: int, ctx: StepContext) -> None:
    """Ask with ``count`` pictures. Raises ``ModelRefused`` when they are refused, ``EndpointError`` (scope ``run``) when
    there is no telling."""
    try:
        await model.complete(counting_question(count), ctx)
    except EndpointError as error:
        if error.scope == "run":
            raise
        raise judged(error, model.name, count) from error


async def keeps_order(model: ChatModel, ctx: StepContext) -> bool | None:
    """Whether pictures keep their place between texts; None when the answer does not tell."""
    try:
        answer = (await model.complete(order_question(), ctx)).data
    except EndpointError as error:
        if error.scope == "run":
            raise
        return None
    return judged_order(answer)


def judged_order(answer: dict[str, str]) -> bool | None:
    """True for the right words; False for those of pictures that stand before all words; else None."""
    if answer == TRUTH:
        return True
    moved = answer["blue"] == WORDS[0] or (answer["red"], answer["blue"]) == WORDS[:2]
    return False if moved else None


def judged(error: EndpointError, name: str, count: int) -> ModelRefused | EndpointError:
    """What a failed question with ``count`` pictures says about the model ``name``."""
    said = error.message
    if refuses_any_image(said):
        return text_only(name, said)
    # A model in this process has no status; a server's 408, 409, 425 and 429 pass.
    refused = error.status is not None and 400 <= error.status < 500 and error.status not in (408, 409, 425, 429)
    what = f"{name} does not take a message with {count} pictures: {said}"
    if _TOO_LONG.search(said):
        return ModelRefused(what, hint="use fewer or smaller pictures, or a longer context (vLLM: --max-model-len)")
    if refused or _LIMIT.search(said):
        return ModelRefused(what, hint=_more_pictures(count) if _TOO_MANY.search(said) else _either(count))
    return EndpointError(
        f"it cannot be found out whether {name} takes pictures: {said}", scope="run", status=error.status,
        hint=error.hint or "is the server up? The same command goes on from here",
    )  # fmt: skip


def _more_pictures(count: int) -> str:
    return f"use fewer pictures, or start vLLM with --limit-mm-per-prompt '{{\"image\": {count}}}' (provider vllm: images_per_prompt)"


def _either(count: int) -> str:
    return f"does the model take pictures at all, and as many? {_more_pictures(count)}"
