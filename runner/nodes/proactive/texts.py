"""Texts of the environment that no sample holds: read from ``texts.yaml``, or from a file of one's own. Our wording."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from runner.errors import UsageError
from runner.nodes.proactive.records import MAX_OPTION, MAX_QUESTION, SCENARIOS, Record, is_abstention

Sentence = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION)]
Request = Annotated[str, Field(min_length=1, max_length=MAX_OPTION)]
ZOOM = "COCO-zoom"
MAX_BYTES = 100_000


class Texts(BaseModel):
    """All of them; maps are by scenario. ``references`` may hold ``{label}``, ``{quality}`` and ``{wait}``, filled from the sample."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefaces: dict[str, Sentence]
    hints: dict[str, Sentence]
    open_hint: Sentence
    announce: Sentence
    only_one: Sentence
    plain_question: Sentence
    abstain: tuple[Request, ...] = Field(min_length=1)
    foreign: dict[str, tuple[Request, ...]]
    references: dict[str, tuple[Request, ...]]

    @field_validator("prefaces", "hints", "foreign", "references")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key not in (*SCENARIOS, ZOOM):
                raise ValueError(f"no scenario {key!r}: {', '.join((*SCENARIOS, ZOOM))}")
        return value

    @field_validator("abstain")
    @classmethod
    def _abstain(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not is_abstention(text):
                raise ValueError(f"{text!r} must contain `cannot` or `do not`: that is how an abstention is told")
        return value

    def hint_of(self, record: Record) -> str:
        """The scenario's hint; of a growing crop by its kind."""
        zoom = record.scenario == "COCO" and record.direction == "zoom"
        return self.hints.get(ZOOM if zoom else record.scenario, "")


HINT = f"keys: {', '.join(Texts.model_fields)}"


@functools.cache
def _ours() -> Texts:
    return Texts.model_validate(_read(resources.files(__package__).joinpath("texts.yaml").read_bytes(), "texts.yaml"))


def load_texts(path: Path | None = None) -> Texts:
    """The packaged texts; those of ``path`` (YAML, the same keys) replace them one by one. Raises ``UsageError``."""
    if path is None:
        return _ours()
    told = read_own(path)
    merged: dict[str, Any] = _ours().model_dump()
    for key, value in told.items():
        merged[key] = merged[key] | value if isinstance(merged.get(key), Mapping) and isinstance(value, Mapping) else value  # fmt: skip
    try:
        return Texts.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {place}: {first['msg']}", hint=HINT) from error


def read_own(path: Path) -> dict[str, Any]:
    """A user's YAML of texts by key, bounded and without aliases. Raises ``UsageError``."""
    try:
        with path.open("rb") as file:
            return _read(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise UsageError(f"{path}: texts cannot be read: {error.strerror}") from error


def _read(data: bytes, name: str) -> dict[str, Any]:
    import yaml

    if len(data) > MAX_BYTES:
        raise UsageError(f"{name}: larger than {MAX_BYTES:,} bytes: not a file of texts")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, Loader=yaml.CSafeLoader)):
            raise UsageError(f"{name}: aliases are not read here")
        told = yaml.load(data, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is not YAML: {error}") from error
    if not isinstance(told, dict) or not all(isinstance(key, str) for key in told):
        raise UsageError(f"{name}: expected texts by key, found {type(told).__name__}", hint=HINT)
    return told
