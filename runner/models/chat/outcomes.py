"""What an answer of a chat endpoint means: a reply, or one of three kinds of failure.

- ``retry``: the same request may succeed later (429, 5xx, a lost connection, a page or half a JSON instead of a reply);
- ``item``: this request will not succeed (context too long, content filter, refused parameter);
- ``run``: no request will (key, permission, unknown model, spent quota).

Pure functions of status, headers and body: the same rules serve HTTP servers and servers inside this process.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from runner.models.chat.wire import RawReply, SendFailed, says_nothing

_QUOTA = ("insufficient_quota", "billing_hard_limit", "billing_not_active", "quota_exceeded")
# How servers say that a model has no eyes. A limit of one or more pictures is another matter.
_NO_IMAGES = re.compile(
    r"not a multimodal model|not support (image|vision|multimodal|picture)|image inputs? (is|are) not supported"
    r"|at most 0 image|support image input|required for image input|image_url\W.{0,60}(only|not) support"
    r"|(unknown|unsupported|unexpected)\b.{0,80}\bimage_url|reads text only",
    re.IGNORECASE,
)
_RETRIED = frozenset({408, 409, 425, 429})
_MINUS_INFINITY = -9999.0  # what servers write for a probability of 0, since JSON has no infinity
_ZERO = 1e-3  # a log-probability of 0 with rounding
_SHOWN = 300  # characters of a server's text quoted in an error


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait according to ``Retry-After`` (seconds or an HTTP date; ``now`` is Unix time), None if unsaid."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def failure_of_status(status: int, headers: Mapping[str, str], body: bytes, now: float) -> SendFailed:
    """The failure that an HTTP status other than 200 means."""
    error = error_object(body)
    said = _said(error, body)
    if status in (401, 402, 403):
        return _run(status, said, "check the key: `api_key_env` names the environment variable that holds it")
    if refuses_any_image(said):
        return SendFailed(_sentence(status, said), scope="item", status=status)
    if status == 404:
        return _run(status, said, "check `model` and `base_url` (most servers want it to end in /v1)")
    if 300 <= status < 400:
        return _run(status, said or "redirected", "write the final address as `base_url`")
    if status == 429 and _is_quota(error):
        return _run(status, said, "the account's quota is spent")
    if status in _RETRIED or status >= 500:
        wait = retry_after_seconds(headers, now)
        limited = status == 429
        return SendFailed(_sentence(status, said), scope="retry", status=status, retry_after=wait, limited=limited)
    return SendFailed(_sentence(status, said), scope="item", status=status)


def reply_of_body(body: bytes | Mapping[str, Any]) -> RawReply:
    """The reply inside the body of a 200. Raises ``SendFailed`` for everything that is not one, a blank one included."""
    data = _json_object(body) if isinstance(body, bytes) else body
    _raise_error_in(data)
    choice, message = _first_choice(data)
    finish = choice.get("finish_reason")
    if finish == "content_filter" or message.get("refusal"):
        refusal = _short(str(message.get("refusal") or "content filter"))
        raise SendFailed(f"the model refused: {refusal}", scope="item", status=200)
    text = message.get("content")
    text = text.encode("utf8", "replace").decode() if isinstance(text, str) else ""
    if not isinstance(finish, str) or not finish:
        raise _retry("a reply without finish_reason" if text.strip() else "an empty reply")
    prompt, completion, cached = _usage(data)
    likelihood = _log_likelihood(choice, completion)
    reply = RawReply(text, finish, str(data.get("model") or ""), prompt, completion, cached, likelihood)
    if says_nothing(text, finish):
        raise _retry("an empty reply", blank=reply)
    return reply


def error_object(body: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """The ``error`` object of a body as the usual servers write it; empty when there is none."""
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    if not isinstance(body, Mapping):
        return {}
    error = body.get("error", body if body.get("object") == "error" else None)
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, Mapping) else {}


def mentions(failure: SendFailed, *words: str) -> bool:
    """Whether the server's text names one of ``words``."""
    text = failure.message.lower()
    return any(word in text for word in words)


def refuses_any_image(text: str) -> bool:
    """Whether an error's text says that the model takes no pictures at all."""
    return _NO_IMAGES.search(text) is not None


def _raise_error_in(data: Mapping[str, Any]) -> None:
    error = error_object(data)
    if not error:
        return
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    raise failure_of_status(status, {}, json.dumps({"error": dict(error)}, default=str).encode(), 0.0)


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise _retry(f"no JSON but {_short(body.decode('utf8', 'replace'))!r}") from None
    if not isinstance(data, Mapping):
        raise _retry(f"no JSON object but {_short(str(data))!r}")
    return data


def _first_choice(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise _retry("no choices")
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        raise _retry("a choice without a message")
    return choices[0], message


def _usage(data: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Tokens of the prompt, of the reply, and those of the prompt that came from a prefix cache."""
    usage = data.get("usage")
    if not isinstance(usage, Mapping):
        return None, None, None
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), cached


def _log_likelihood(choice: Mapping[str, Any], tokens: int | None) -> float | None:
    """Sum of the tokens' log-probabilities; None unless every token has a finite one.

    Some servers list the end token and some do not, so one of ``tokens`` may be missing.
    """
    given = choice.get("logprobs")
    listed = given.get("content") if isinstance(given, Mapping) else None
    if not isinstance(listed, list) or not listed or (tokens is not None and len(listed) < tokens - 1):
        return None
    values = [_log_probability(entry) for entry in listed]
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def _log_probability(entry: Any) -> float | None:
    value = entry.get("logprob") if isinstance(entry, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if _MINUS_INFINITY < value <= _ZERO else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else None


def _is_quota(error: Mapping[str, Any]) -> bool:
    return any(word in str(error.get(field)) for word in _QUOTA for field in ("code", "type"))


def _said(error: Mapping[str, Any], body: bytes) -> str:
    detail = error.get("message") or body.decode("utf8", "replace")
    names = [str(error[field]) for field in ("code", "type", "param") if error.get(field)]
    return _short(str(detail)) + (f" ({', '.join(names)})" if names else "")


def _sentence(status: int, said: str) -> str:
    return f"the endpoint answered {status}: {said}" if said else f"the endpoint answered {status}"


def _run(status: int, said: str, hint: str) -> SendFailed:
    return SendFailed(_sentence(status, said), scope="run", status=status, hint=hint)


def _retry(what: str, blank: RawReply | None = None) -> SendFailed:
    return SendFailed(f"the endpoint answered 200 with {what}", scope="retry", status=200, blank=blank)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
