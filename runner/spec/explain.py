"""pydantic's errors in plain sentences: what was expected, what was found."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from runner.spec.fill import MARK
from runner.spec.names import listed, nearest

WHOLE, NUMBER, TEXT, LIST, MAPPING = "a whole number", "a number", "text", "a list", "a mapping (key: value)"

_KINDS = {
    "int_type": WHOLE, "int_parsing": WHOLE, "int_parsing_size": WHOLE, "int_from_float": WHOLE,
    "float_type": NUMBER, "float_parsing": NUMBER, "finite_number": "a finite number",
    "decimal_type": NUMBER, "decimal_parsing": NUMBER, "fraction_type": NUMBER, "fraction_parsing": NUMBER,
    "bool_type": "true or false", "bool_parsing": "true or false",
    "string_type": TEXT, "string_unicode": TEXT, "bytes_type": TEXT, "string_not_ascii": "text of ASCII characters",
    "list_type": LIST, "tuple_type": LIST, "set_type": LIST, "frozen_set_type": LIST, "deque_type": LIST,
    "iterable_type": LIST, "iteration_error": LIST, "named_tuple_type": LIST,
    "dict_type": MAPPING, "model_type": MAPPING, "model_attributes_type": MAPPING, "mapping_type": MAPPING,
    "dataclass_type": MAPPING, "dataclass_exact_type": MAPPING, "frozen_dict_type": MAPPING,
    "ordered_dict_type": MAPPING, "counter_type": MAPPING,
    "none_required": "nothing (null)",
    "date_type": "a date such as 2025-01-31", "date_parsing": "a date such as 2025-01-31",
    "date_from_datetime_parsing": "a date such as 2025-01-31",
    "datetime_type": "a time such as 2025-01-31T12:00:00", "datetime_parsing": "a time such as 2025-01-31T12:00:00",
    "datetime_from_date_parsing": "a time such as 2025-01-31T12:00:00",
    "time_type": "a time of day such as 12:00", "time_parsing": "a time of day such as 12:00",
    "time_delta_type": "a duration such as PT5M", "time_delta_parsing": "a duration such as PT5M",
    "url_type": "a URL", "url_parsing": "a URL", "url_syntax_violation": "a URL",
    "uuid_type": "a UUID", "uuid_parsing": "a UUID",
}  # fmt: skip

_BOUNDS = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "url_scheme": "a URL that begins with {expected_schemes}",
    "bytes_too_long": "text of at most {max_length} bytes",
    "bytes_too_short": "text of at least {min_length} bytes",
    "decimal_max_digits": "a number of at most {max_digits} digits",
    "decimal_max_places": "a number of at most {decimal_places} decimal places",
    "decimal_whole_digits": "a number of at most {whole_digits} digits before the point",
    "timezone_aware": "a time with its timezone",
    "timezone_naive": "a time without a timezone",
    "needs_reference": "{expected}",
}


class Explained(NamedTuple):
    """One error in words: what was ``expected``, or a whole ``sentence`` where that says more."""

    code: str
    expected: str | None = None
    sentence: str | None = None
    suggestion: str | None = None
    allowed: str | None = None

    def message(self, found: Any) -> str:
        """The sentence for the value that was found."""
        return self.sentence or f"expected {self.expected}, found {describe(found)}"


def explain(error: Any) -> Explained:
    """Words for one entry of ``ValidationError.errors()`` (unknown and missing fields are the caller's)."""
    kind, context, found = error["type"], error.get("ctx") or {}, error.get("input")
    if kind in _KINDS:
        return Explained("wrong-type", _KINDS[kind])
    if kind in ("literal_error", "enum"):
        return _choice(str(context["expected"]), found)
    if kind == "union_tag_invalid":
        return _choice(str(context["expected_tags"]), context["tag"])
    if kind in _BOUNDS:
        return Explained("wrong-value", _BOUNDS[kind].format_map({name: _round(v) for name, v in context.items()}))
    if kind in ("too_short", "too_long", "string_too_short"):
        return _length(kind, context, found)
    if kind == "missing_path":
        return Explained("missing-path", sentence=f"no such file or folder: {quoted(found)}")
    if kind in ("value_error", "assertion_error"):
        said = _plain(str(context.get("error", error["msg"])))
        return Explained(
            "wrong-value", sentence=said if isinstance(found, (dict, list)) else f"{said} ({describe(found)})"
        )
    return _other(kind, str(error["msg"]))


def _choice(expected: str, found: Any) -> Explained:
    names = re.findall(r"'((?:[^'\\]|\\.)*)'", expected)
    near = nearest(found, names) if isinstance(found, str) else None
    if len(names) == 1:
        return Explained("wrong-value", f'"{names[0]}"', suggestion=near)
    if not names:
        return Explained("wrong-value", expected)
    return Explained("wrong-value", "one of the allowed values", suggestion=near, allowed=listed(names))


def _length(kind: str, context: dict[str, Any], found: Any) -> Explained:
    if kind == "string_too_short":
        least = context["min_length"]
        return Explained(
            "wrong-value", "text that is not empty" if least == 1 else f"text of at least {least} characters"
        )
    unit = "entry" if isinstance(found, dict) else "item"
    number, side = (context["min_length"], "least") if kind == "too_short" else (context["max_length"], "most")
    units = unit if number == 1 else {"entry": "entries", "item": "items"}[unit]
    return Explained("wrong-value", sentence=f"expected at {side} {number} {units}, found {len(found)}")


def _round(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _other(kind: str, message: str) -> Explained:
    """A kind without words of its own: a step's own error as it is, pydantic's with the jargon taken out."""
    said = re.sub(r"^(?:\w+ )?[Ii]nput should be (?:in )?(?:a valid |an? )?", "", message)
    if said != message:
        return Explained("wrong-value", f"a valid {said}" if "valid" in message else said)
    return Explained("wrong-value", sentence=_plain(message))


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:] if message[1:2].islower() else message


def quoted(text: Any, limit: int = 60) -> str:
    """A text in quotation marks, on one line, shortened."""
    line = " ".join(str(text).split())
    return f'"{line[: limit - 3]}..."' if len(line) > limit else f'"{line}"'


def describe(value: Any) -> str:
    """What a value is, for "found ..."."""
    if isinstance(value, str):
        if value.startswith(MARK):
            return f"the reference {value[1:]}"
        return f"text {quoted(value)}" if value else "empty text"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping"
