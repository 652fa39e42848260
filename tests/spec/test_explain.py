"""Every kind of error that pydantic can raise has a plain sentence."""

import datetime
import re
import uuid
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import AnyUrl, Field, TypeAdapter, ValidationError
from pydantic_core import _pydantic_core

from runner.spec.explain import describe, explain, quoted


class Color(Enum):
    RED = "red"
    BLUE = "blue"


JARGON = re.compile(r"[Ii]nput|pydantic|JSON|dict|None|valid (string|integer|list|tuple|array)|Python")


def said(annotation: Any, value: str) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(annotation).validate_json(value, strict=True)
    error = caught.value.errors(include_url=False)[0]
    return explain(error).message(error["input"])


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (int, '"a"', 'expected a whole number, found text "a"'),
        (int, "1.5", "expected a whole number, found the number 1.5"),
        (float, "true", "expected a number, found true"),
        (str, "null", "expected text, found nothing"),
        (list[int], "{}", "expected a list, found a mapping"),
        (dict[str, int], "[]", "expected a mapping (key: value), found a list"),
        (Literal["a", "b"], '"c"', 'expected one of the allowed values, found text "c"'),
        (Literal["a"], '"c"', 'expected "a", found text "c"'),
        (Literal[1, 2], "3", "expected 1 or 2, found the number 3"),
        (Color, '"green"', 'expected one of the allowed values, found text "green"'),
        (Annotated[int, Field(gt=0)], "0", "expected a number above 0, found the number 0"),
        (Annotated[float, Field(le=1.0)], "1.5", "expected a number of at most 1, found the number 1.5"),
        (Annotated[int, Field(multiple_of=8)], "9", "expected a multiple of 8, found the number 9"),
        (Annotated[float, Field(allow_inf_nan=False)], "NaN", "expected a finite number, found the number nan"),
        (Annotated[str, Field(min_length=1)], '""', "expected text that is not empty, found empty text"),
        (Annotated[str, Field(max_length=1)], '"ab"', 'expected text of at most 1 characters, found text "ab"'),
        (Annotated[list[int], Field(min_length=2)], "[1]", "expected at least 2 items, found 1"),
        (Annotated[dict[str, int], Field(max_length=1)], '{"a": 1, "b": 2}', "expected at most 1 entry, found 2"),
        (tuple[int, int], "[1, 2, 3]", "expected at most 2 items, found 3"),
        (datetime.date, '"x"', 'expected a date such as 2025-01-31, found text "x"'),
        (AnyUrl, '"x"', 'expected a URL, found text "x"'),
        (uuid.UUID, '"x"', 'expected a UUID, found text "x"'),
        (Decimal, '"x"', 'expected a number, found text "x"'),
    ],
)  # fmt: skip
def test_sentences(annotation: Any, value: str, sentence: str) -> None:
    assert said(annotation, value) == sentence


@pytest.mark.parametrize("kind", _pydantic_core.list_all_errors(), ids=lambda kind: kind["type"])
def test_no_kind_speaks_of_pydantic(kind: dict[str, Any]) -> None:
    """Those that a JSON document can cause, which leaves out calls, attributes and Python objects."""
    if re.search(
        r"argument|attribute|python|frozen_|json|recursion|instance|subclass|callable|default_factory|sentinel|ellipsis|missing|extra|complex",
        kind["type"],
    ):
        return
    context = dict.fromkeys(re.findall(r"{(\w+)}", kind["message_template_python"]), "'x', 'y'")
    message = kind["message_template_python"].format_map(context)
    explained = explain({"type": kind["type"], "loc": (), "msg": message, "input": [], "ctx": context})
    assert not JARGON.search(explained.message([])), explained


def test_texts_are_shortened_and_kept_on_one_line() -> None:
    assert quoted("a\nb" + "c" * 100) == '"a b' + "c" * 54 + '..."'
    assert describe("\0$a.b") == "the reference $a.b"
