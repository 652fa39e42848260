"""Behaviours of servers that are sent pictures, for the server of ``fault_server``: they decode what they are shown."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from PIL import Image

from tests.chat.fault_server import Handler, completion, fault, honest_reply, ok

Seen = str | tuple[int, int, int]


def look(body: dict[str, Any]) -> list[Seen]:
    """What the last message shows, in order: texts, and the RGB value of each picture's middle."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else _middle(part["image_url"]["url"]) for part in content]


def _middle(url: str) -> tuple[int, int, int]:
    head, _, data = url.partition(",")
    assert head.startswith("data:image/")
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    red, green, blue = picture.getpixel((picture.width // 2, picture.height // 2))  # type: ignore[misc]
    return red, green, blue


def pictures(body: dict[str, Any]) -> list[tuple[int, int, int]]:
    """The pictures of the last message."""
    return [seen for seen in look(body) if not isinstance(seen, str)]


def in_order(body: dict[str, Any]) -> str:
    """Where JSON is wanted: the word after the red and after the blue picture, as a model with eyes reads them."""
    return _words_after(look(body)) if "response_format" in body else honest_reply(body)


def moved_to_front(body: dict[str, Any]) -> str:
    """The same with all pictures before all texts."""
    seen = look(body)
    texts = "".join(part for part in seen if isinstance(part, str))
    return _words_after([*pictures(body), texts]) if "response_format" in body else honest_reply(body)


def no_idea(body: dict[str, Any]) -> str:
    """The wrong word for both, and for no reason."""
    return json.dumps({"red": "lotus", "blue": "maple"}) if "response_format" in body else honest_reply(body)


def _words_after(seen: list[Seen]) -> str:
    texts = [i for i, part in enumerate(seen) if isinstance(part, str)]
    after = {seen[i]: str(seen[min(t for t in texts if t > i)]).split()[0] for i in range(len(seen)) if i not in texts}
    return json.dumps({"red": after[255, 0, 0], "blue": after[0, 0, 255]})


@fault
def one_picture(h: Handler, body: dict[str, Any]) -> None:
    if len(pictures(body)) > 1:
        return h.error(400, "At most 1 image(s) may be provided in one prompt.", "BadRequestError")
    return ok(h, body)


def _blind(name: str, status: int, message: str) -> None:
    def respond(h: Handler, body: dict[str, Any]) -> None:
        if pictures(body):
            return h.error(status, message)
        return ok(h, body)

    respond.__name__ = name
    fault(respond)


# As real servers say it.
_blind("blind_400", 400, "tiny is not a multimodal model")
_blind("blind_zero", 400, "At most 0 image(s) may be provided in one prompt.")
_blind("blind_type", 400, "Invalid content type. image_url is only supported by certain models.")
_blind("blind_422", 422, "messages[0]: unknown variant `image_url`, expected `text` at line 1 column 57")
_blind("blind_404", 404, "No endpoints found that support image input")
_blind("blind_500", 500, "image input is not supported - hint: you may need to provide the mmproj")
BLIND = ("blind_400", "blind_zero", "blind_type", "blind_422", "blind_404", "blind_500")
_blind("short_context", 400, "This model's maximum context length is 512 tokens. However, you requested 4000.")
_blind("odd_400", 400, "Input should be 'text'")


@fault
def no_logprobs(h: Handler, body: dict[str, Any]) -> None:
    if "logprobs" in body:
        return h.error(403, "You are not allowed to request logprobs from this model")
    return ok(h, body)


def with_details(body: dict[str, Any], text: str, values: list[Any], cached: Any) -> dict[str, Any]:
    """A completion whose tokens have the log-probabilities ``values`` and whose prompt was cached so far."""
    data = completion(body, text)
    tokens = [{"token": "x", "logprob": value, "bytes": None, "top_logprobs": []} for value in values]
    data["choices"][0]["logprobs"] = {"content": tokens} if body.get("logprobs") else None
    data["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
    return data


@fault
def detailed(h: Handler, body: dict[str, Any]) -> None:
    h.send_json(200, with_details(body, h.server.answer(body), [-0.25, -0.5, -1.0], 5))
