"""From the text of a reply to data that obeys the schema, or to one sentence that says why not.

Lenient about wrapping (code fences, prose, reasoning in front), strict about content (no NaN, no duplicate keys, no
infinite numbers, no echo of the schema, a bounded size); the schema always has the last word.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

MAX_CHARACTERS = 1_000_000
_MAX_STARTS = 200  # places inside prose where a JSON value is looked for
_SHOWN = 400

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n?(.*?)```", re.DOTALL)


class InvalidReply(ValueError):
    """The reply cannot be used; the message can be shown to the model."""


def parse_reply(text: str, schema: dict[str, Any], *, whole: bool = False) -> Any:
    """The JSON value in ``text`` that obeys ``schema``. Raises ``InvalidReply`` with the best explanation.

    ``whole``: the text must be that value and nothing else (for replies that may have been cut off).
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidReply(f"the reply has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    problem: InvalidReply | None = None
    for candidate in [text.strip()] if whole else _candidates(_THOUGHT.sub("", text)):
        try:
            return validate(loads(candidate), schema)
        except InvalidReply as error:
            if problem is None or isinstance(problem, NotJson):
                problem = error
    raise problem or NotJson("the reply holds no JSON")


def check_schema(schema: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless ``schema`` is a JSON Schema."""
    problem = _schema_problem(json.dumps(schema, sort_keys=True))
    if problem:
        raise ValueError(problem)


@functools.lru_cache(maxsize=256)
def _schema_problem(text: str) -> str:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(json.loads(text))
    except SchemaError as error:
        return f"not a JSON Schema, at {error.json_path}: {error.message[:_SHOWN]}"
    return ""


class NotJson(InvalidReply):
    """The text is not JSON at all."""


def loads(text: str) -> Any:
    """Strict JSON: refuses NaN, infinities, duplicate keys, lone surrogates and bottomless nesting."""
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        json.dumps(data, ensure_ascii=False).encode("utf8")
    except InvalidReply:
        raise
    except json.JSONDecodeError as error:
        raise NotJson(f"not valid JSON: {error}") from None
    except UnicodeEncodeError:
        raise InvalidReply("a string holds half a character (a lone surrogate)") from None
    except (ValueError, RecursionError) as error:
        raise InvalidReply(f"not usable JSON: {type(error).__name__}") from None
    return data


def validate(data: Any, schema: dict[str, Any]) -> Any:
    """``data`` itself when it obeys ``schema``, else ``InvalidReply`` naming the place."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry

    if _is_echo(data, schema):
        raise InvalidReply("the JSON Schema itself came back instead of data that obeys it")
    error = best_match(Draft202012Validator(schema, registry=Registry()).iter_errors(data))
    if error is not None:
        message = error.message if len(error.message) <= _SHOWN else error.message[:_SHOWN] + "..."
        raise InvalidReply(f"at {error.json_path}: {message}")
    return data


def _candidates(text: str) -> Iterator[str]:
    """Texts that may be the answer, most likely first."""
    yield text.strip()
    yield from (match.group(1).strip() for match in _FENCE.finditer(text))
    yield from _values_in_prose(text)


def _values_in_prose(text: str) -> Iterator[str]:
    decoder = json.JSONDecoder()  # only to find where values end; ``loads`` judges them
    end = 0
    for match in itertools.islice(re.finditer(r"[{\[]", text), _MAX_STARTS):
        if match.start() < end:
            continue
        try:
            _, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield text[match.start() : end]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise InvalidReply(f"the key {key[:80]!r} is there twice")
        data[key] = value
    return data


def _no_constant(name: str) -> Any:
    raise InvalidReply(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidReply(f"the number {text[:40]} is too large")
    return number


def _is_echo(data: Any, schema: dict[str, Any]) -> bool:
    if not isinstance(data, dict) or not data:
        return False
    wanted = schema.get("properties", {})
    foreign = {"type", "properties"} <= data.keys() and not {"type", "properties"} & set(wanted)
    return data == schema or foreign or ("$schema" in data and "$schema" not in wanted)
