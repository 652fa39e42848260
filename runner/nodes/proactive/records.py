"""Samples in the published layout: what they hold, what one of them alone can show to be wrong, where its frames lie.

Source: dataset card and code of ProactiveBench (arXiv 2603.19466). One JSON object a sample; seven scenarios.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from runner.errors import DataError
from runner.nodes.proactive.matching import normal_form

Scenario = Literal["ROD", "VSOD", "MVP-N", "IN-C", "QD", "CIT", "COCO"]
SCENARIOS: Final[tuple[str, ...]] = get_args(Scenario)
DATASET_IDS: Final[Mapping[str, str]] = {
    "ROD": "Realistic-Occlusion-Dataset",
    "VSOD": "OcclusionDataSet-MM20",
    "MVP-N": "MVP-N",
    "IN-C": "ImageNet-C",
    "QD": "QuickDraw",
    "CIT": "ChangeIt",
    "COCO": "coco2014",
}
"""Name of each scenario's data in the published files."""

SLOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "ROD": ("image",), "VSOD": ("image",), "MVP-N": ("informative", "image"), "IN-C": ("level",),
    "QD": ("image",), "CIT": ("image",), "COCO": (),
}  # fmt: skip
PADDED: Final = frozenset({"VSOD", "MVP-N", "QD"})
"""Scenarios whose file names write the frame number with four digits."""

SIDES: Final = ("left", "right", "up", "down")
DIRECTIONS: Final = (*SIDES, *(f"{v}_{h}" for v in ("up", "down") for h in ("left", "right")),
                     *(f"{h}_{v}" for v in ("up", "down") for h in ("left", "right")), "zoom")  # fmt: skip
LETTERS_AT_MOST: Final = 26
MAX_OPTION, MAX_QUESTION, MAX_PATH = 300, 2_000, 1_000
MAX_PIXELS: Final = 1_000_000
"""Of a side of a crop, and of its steps."""

_ACTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "ROD": {"left": r"\bleft\b", "right": r"\bright\b"},
    "VSOD": {"rewind": r"\brewind\b", "wait": r"\bwait\b"},
    "CIT": {"rewind": r"\brewind\b", "wait": r"\bwait\b"},
    "COCO": {"left": r"\bleft\b", "right": r"\bright\b", "up": r"\bup(?:wards?)?\b", "down": r"\bdown(?:wards?)?\b",
             "farther": r"\b(?:farther|further)\b|\bzoom out\b"},
}  # fmt: skip


class Crop(NamedTuple):
    """Pixels, as published: outside of ``zoom``, ``width`` and ``height`` are the right and the bottom coordinate."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class Record:
    """One sample. ``options``: requests and sentences of abstention in the order shown; ``categories`` stand after them.

    ``answer`` is one of the categories. Fields of other scenarios are None, empty or 0.
    """

    scenario: str
    sample_id: str
    image_template: str
    first_image: int
    num_images: int
    reference_image: int
    prompt: str
    options: tuple[str, ...]
    categories: tuple[str, ...]
    answer: str
    strong_occlusions: bool | None = None
    valid_images: tuple[int, ...] = ()
    quality_answer: str | None = None
    step_size: int | None = None
    max_steps: int | None = None
    direction: str | None = None
    granularity: int | None = None
    horizontal_step: float = 0.0
    vertical_step: float = 0.0
    crop: Crop | None = None


def is_abstention(option: str) -> bool:
    """Whether an option says that it cannot be told: the published test, a part of the text."""
    plain = option.casefold()
    return "cannot" in plain or "do not" in plain


def actions_named(scenario: str, option: str) -> tuple[str, ...]:
    """Actions of the scenario that the option's words name. Scenarios with one way on have only ``next``."""
    known = _ACTIONS.get(scenario)
    if known is None:
        return ("next",)
    return tuple(action for action, words in known.items() if re.search(words, option.casefold()))


def directions(record: Record) -> tuple[str, ...]:
    """Sides towards which a crop grows; none where it grows on all of them."""
    return tuple(part for part in (record.direction or "").split("_") if part in SIDES)


def frame_uri(record: Record, number: int, *, informative: bool = False) -> str:
    """File of one frame below the data folder; ``informative``: views of MVP-N that tell the product."""
    name = f"{number:04d}" if record.scenario in PADDED else str(number)
    values = {"image": name, "level": name, "informative": str(int(informative))}
    filled = re.sub(r"\{(\w+)\}", lambda found: values[found[1]], record.image_template)
    return filled.lstrip("/")


def frame_uris(record: Record) -> tuple[str, ...]:
    """All files of the sample by frame number: severities from 1 (IN-C), ``valid_images`` as listed, one picture (COCO).

    A reference view of MVP-N that is not among the listed ones comes last.
    """
    if record.scenario == "COCO":
        return (frame_uri(record, 0),)
    if record.scenario == "MVP-N":
        last = len(record.valid_images) - 1
        views = tuple(frame_uri(record, v, informative=k == last) for k, v in enumerate(record.valid_images))
        reference = frame_uri(record, record.reference_image, informative=True)
        return views if reference in views else (*views, reference)
    first = record.first_image - record.num_images + 1 if record.scenario == "IN-C" else 0
    return tuple(frame_uri(record, first + k) for k in range(record.num_images))


def record_json(record: Record) -> dict[str, Any]:
    """The published layout, with the fields of the record's own scenario only."""
    number = record.sample_id.isdecimal() and str(int(record.sample_id)) == record.sample_id
    told: dict[str, Any] = {"id": int(record.sample_id) if number else record.sample_id}
    told |= {name: getattr(record, name) for name in ("image_template", "first_image", "num_images", "reference_image", "prompt")}  # fmt: skip
    told |= {"options": [*record.options], "categories": [*record.categories], "answer": record.answer}
    for name in _EXTRAS.get(record.scenario, ()):
        value = getattr(record, name)
        told[name] = value._asdict() if isinstance(value, Crop) else [*value] if isinstance(value, tuple) else value
    return told


_EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "VSOD": ("strong_occlusions",), "MVP-N": ("valid_images",), "IN-C": ("quality_answer",), "CIT": ("step_size", "max_steps"),
    "COCO": ("direction", "granularity", "horizontal_step", "vertical_step", "crop"),
}  # fmt: skip


class _Reading:
    """Fields of one JSON object with what is expected of them."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = data, where

    def refuse(self, field: str, expected: str, found: object) -> DataError:
        shown = repr(found)
        shown = shown if len(shown) <= 200 else shown[:199] + "…"
        place = f"{self.where}: " if self.where else ""
        return DataError(f"{place}field {field!r}: expected {expected}, found {shown}",
                         hint="correct the sample, or take it out of the file")  # fmt: skip

    def get(self, field: str, expected: str) -> Any:
        if field not in self.data:
            raise self.refuse(field, expected, None)
        return self.data[field]

    def text(self, field: str, limit: int) -> str:
        return self.plain(field, self.get(field, "text"), limit)

    def plain(self, field: str, value: object, limit: int) -> str:
        expected = f"one line of text of 1 to {limit} characters"
        if not isinstance(value, str) or not 1 <= len(value.strip()) <= len(value) <= limit:
            raise self.refuse(field, expected, value)
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in value):
            raise self.refuse(field, f"{expected}, without line breaks and control characters", value)
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        values = self.get(field, "a list of texts")
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise self.refuse(field, "a list of texts", values)
        return tuple(self.plain(f"{field}[{i}]", value, MAX_OPTION) for i, value in enumerate(values))

    def number(self, field: str, low: float, data: Mapping[str, Any] | None = None) -> float:
        expected = f"a number from {low:g} on" if math.isfinite(low) else "a number"
        value = self.get(field, expected) if data is None else data.get(field.rpartition(".")[2])
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < low:
            raise self.refuse(field, expected, value)
        if abs(value) > MAX_PIXELS:
            raise self.refuse(field, f"at most {MAX_PIXELS} pixels", value)
        return float(value)

    def whole(self, field: str, low: int, high: int | None = None) -> int:
        expected = f"a whole number from {low}" + (" on" if high is None else f" to {high}")
        return self.integer(field, self.get(field, expected), expected, low, high)

    def integer(self, field: str, value: object, expected: str, low: int, high: int | None) -> int:
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
        if not isinstance(value, (int, float)) or not whole or value < low or (high is not None and value > high):
            raise self.refuse(field, expected, value)
        return int(value)


def parse_record(scenario: str, data: Mapping[str, Any], where: str = "") -> Record:
    """A sample from the published layout. Raises ``DataError`` naming ``where`` (file and line), field, what was expected and found."""
    if scenario not in SCENARIOS:
        raise DataError(f"{where}: no scenario {scenario!r}", hint=f"one of {', '.join(SCENARIOS)}")
    if not isinstance(data, Mapping):
        raise DataError(f"{where}: expected an object of fields, found {type(data).__name__}")
    reading = _Reading(data, where)
    record = Record(
        scenario, _identifier(reading), _template(reading, scenario), reading.whole("first_image", 0),
        reading.whole("num_images", 1), reading.whole("reference_image", 0), reading.text("prompt", MAX_QUESTION),
        reading.texts("options"), reading.texts("categories"), reading.text("answer", MAX_OPTION),
        **_extras(reading, scenario),
    )  # fmt: skip
    _check_choices(reading, record)
    _check_frames(reading, record)
    _check_requests(reading, record)
    return record


def _identifier(reading: _Reading) -> str:
    value = reading.get("id", "a number or a short text")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = reading.plain("id", value, 200)
    if "/" in text:
        raise reading.refuse("id", "text without a slash", value)
    return text


def _template(reading: _Reading, scenario: str) -> str:
    """Only the scenario's own slots are filled, and no path leads out of the data folder."""
    text = reading.text("image_template", MAX_PATH)
    found = sorted(set(re.findall(r"\{[^{}]*\}", text)))
    wanted = sorted(f"{{{slot}}}" for slot in SLOTS[scenario])
    if found != wanted or re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", text)):
        raise reading.refuse("image_template", f"a path with {' and '.join(wanted) or 'no slot'}", text)
    if ".." in text.split("/"):
        raise reading.refuse("image_template", "a path inside the data folder", text)
    return text


def _extras(reading: _Reading, scenario: str) -> dict[str, Any]:
    if scenario == "VSOD":
        value = reading.get("strong_occlusions", "true or false")
        if not isinstance(value, bool):
            raise reading.refuse("strong_occlusions", "true or false", value)
        return {"strong_occlusions": value}
    if scenario == "MVP-N":
        values = reading.get("valid_images", "a list of numbers")
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise reading.refuse("valid_images", "a list of numbers", values)
        expected = "a whole number from 0 on"
        return {"valid_images": tuple(reading.integer(f"valid_images[{i}]", v, expected, 0, None) for i, v in enumerate(values))}  # fmt: skip
    if scenario == "IN-C":
        return {"quality_answer": reading.text("quality_answer", MAX_OPTION)}
    if scenario == "CIT":
        return {"step_size": reading.whole("step_size", 1), "max_steps": reading.whole("max_steps", 1)}
    return _crop_fields(reading) if scenario == "COCO" else {}


def _crop_fields(reading: _Reading) -> dict[str, Any]:
    direction = reading.get("direction", f"one of {', '.join(DIRECTIONS)}")
    if direction not in DIRECTIONS:
        raise reading.refuse("direction", f"one of {', '.join(DIRECTIONS)}", direction)
    fields = reading.get("crop", "top, left, height and width")
    if not isinstance(fields, Mapping):
        raise reading.refuse("crop", "top, left, height and width", fields)
    crop = Crop(*(reading.number(f"crop.{name}", -math.inf, fields) for name in Crop._fields))
    width, height = (crop.width, crop.height) if direction == "zoom" else (crop.width - crop.left, crop.height - crop.top)  # fmt: skip
    if width <= 0 or height <= 0:
        raise reading.refuse("crop", "a box of more than no area", dict(fields))
    steps = {name: reading.number(name, 0) for name in ("horizontal_step", "vertical_step")}
    return {"direction": direction, "granularity": reading.whole("granularity", 1), "crop": crop, **steps}


def _check_choices(reading: _Reading, record: Record) -> None:
    _check_apart(reading, "categories", record.categories, ())
    if len(record.categories) < 2:
        raise reading.refuse("categories", "at least two", [*record.categories])
    if record.answer not in record.categories:
        raise reading.refuse("answer", f"one of the categories {[*record.categories]}", record.answer)
    _check_apart(reading, "options", record.options, record.categories)
    if not any(is_abstention(option) for option in record.options):
        raise reading.refuse("options", "a sentence of abstention (with `cannot` or `do not`)", [*record.options])
    if all(is_abstention(option) for option in record.options):
        raise reading.refuse("options", "a request beside the abstention", [*record.options])
    letters = len(record.options) + len(record.categories)
    if letters > LETTERS_AT_MOST:
        raise reading.refuse("options", f"at most {LETTERS_AT_MOST} with the categories, a letter each", letters)


def _check_apart(reading: _Reading, field: str, texts: Sequence[str], taken: Sequence[str]) -> None:
    """Strict matching tells options apart by their normal form only."""
    seen = {normal_form(text) for text in taken}
    for i, text in enumerate(texts):
        form = normal_form(text)
        if not form:
            raise reading.refuse(f"{field}[{i}]", "text that strict matching leaves (it drops all up to a capital with a full stop)", text)  # fmt: skip
        if form in seen:
            raise reading.refuse(f"{field}[{i}]", "a text that differs from all others in more than case and blanks", text)  # fmt: skip
        seen.add(form)


def _check_frames(reading: _Reading, record: Record) -> None:
    n = record.num_images
    if record.scenario == "IN-C":
        reading.whole("first_image", n)
        reading.whole("reference_image", record.first_image - n + 1, record.first_image)
    elif record.scenario == "MVP-N":
        if len(record.valid_images) != n:
            raise reading.refuse("valid_images", f"{n} views (`num_images`)", [*record.valid_images])
        if len({*record.valid_images}) != n:
            raise reading.refuse("valid_images", "views that differ", [*record.valid_images])
        if record.first_image not in record.valid_images:
            reading.whole("first_image", 0, n - 1)
    elif record.scenario != "COCO":
        reading.whole("first_image", 0, n - 1)
        reading.whole("reference_image", 0, n - 1)
    if record.step_size is not None and n > 1:
        reading.whole("step_size", 1, n - 1)


def _check_requests(reading: _Reading, record: Record) -> None:
    if record.quality_answer is not None and (
        record.quality_answer not in record.options or is_abstention(record.quality_answer)
    ):
        raise reading.refuse("quality_answer", f"one of the requests among {[*record.options]}", record.quality_answer)
    possible = directions(record) or ("farther",)
    for i, option in enumerate(record.options):
        named = actions_named(record.scenario, option)
        if is_abstention(option):
            continue
        if len(named) != 1:
            known = ", ".join(_ACTIONS[record.scenario])
            raise reading.refuse(f"options[{i}]", f"a request for exactly one of {known}", option)
        if record.scenario == "COCO" and named[0] not in possible:
            raise reading.refuse(f"options[{i}]", f"a request for {' or '.join(possible)} (`direction`)", option)
