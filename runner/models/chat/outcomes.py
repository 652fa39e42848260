"""What an answer of a chat endpoint means: a reply, or one of three kinds of failure.

- ``retry``: the same request may succeed later (429, 5xx, a lost connection, a page or half a JSON instead of a reply);
- ``item``: this request will not succeed (context too long, content filter, refused parameter);
- ``run``: no request will (key, permission, unknown model, spent quota).

Pure functions of status, headers and body: the same rules serve HTTP servers and servers inside this process.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from typing import Any

from runner.models.chat.wire import RawReply, SendFailed

_QUOTA = ("insufficient_quota", "billing_hard_limit", "billing_not_active", "quota_exceeded")
_RETRIED = frozenset({408, 409, 425, 429})
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
    """The reply inside the body of a 200. Raises ``SendFailed`` for everything that is not one."""
    data = _json_object(body) if isinstance(body, bytes) else body
    _raise_error_in(data)
    choice, message = _first_choice(data)
    finish = choice.get("finish_reason")
    if finish == "content_filter" or message.get("refusal"):
        refusal = _short(str(message.get("refusal") or "content filter"))
        raise SendFailed(f"the model refused: {refusal}", scope="item", status=200)
    text = message.get("content")
    text = text.encode("utf8", "replace").decode() if isinstance(text, str) else ""
    if not text.strip() and finish != "length":
        raise _retry("an empty reply")
    if not isinstance(finish, str) or not finish:
        raise _retry("a reply without finish_reason")
    prompt, completion = _usage(data)
    return RawReply(text, finish, str(data.get("model") or ""), prompt, completion)


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


def _usage(data: Mapping[str, Any]) -> tuple[int | None, int | None]:
    usage = data.get("usage")
    if not isinstance(usage, Mapping):
        return None, None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return _count(prompt), _count(completion)


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


def _retry(what: str) -> SendFailed:
    return SendFailed(f"the endpoint answered 200 with {what}", scope="retry", status=200)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
