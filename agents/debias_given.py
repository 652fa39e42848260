"""Texts that a spec gives: in the spec itself, in a JSON file of the same form, or by the words ``shipped`` and ``llm``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from runner.errors import DataError
from runner.references import InputPath

MAX_BYTES = 8 << 20
Word = Literal["shipped", "llm"]
T = TypeVar("T")


class TextFile(BaseModel):
    """A JSON file that holds what could stand here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: InputPath


def _tag(value: Any) -> str:
    if isinstance(value, str):
        return "word"
    if isinstance(value, TextFile) or (
        isinstance(value, Mapping) and set(value) == {"file"} and isinstance(value["file"], str)
    ):
        return "file"
    return "texts"


From = Annotated[
    Annotated[Word, Tag("word")] | Annotated[TextFile, Tag("file")] | Annotated[T, Tag("texts")],
    Discriminator(_tag),
]


def _speaks(text: str) -> str:
    if not text.strip():
        raise ValueError("a text is blank")
    return text


Text = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_speaks)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=20_000)]
ByName = Annotated[dict[Text, Texts], Field(min_length=1)]
TextByName = Annotated[dict[Text, Text], Field(min_length=1)]
Candidates = Annotated[dict[Text, ByName], Field(min_length=1)]
Pair = Annotated[list[Text], Field(min_length=2, max_length=2)]


class Insights(BaseModel):
    """RoboShot's pairs of texts, for all queries together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    harmful: list[Pair] = []
    helpful: list[Pair] = []

    @model_validator(mode="after")
    def _some(self) -> Insights:
        if not self.harmful and not self.helpful:
            raise ValueError("give harmful or helpful pairs")
        return self


class Scenes(BaseModel):
    """PRISM's sentences with ``{target}`` and ``{bias}``, and the words for both; without words: derived ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenes: Texts
    targets: dict[Text, Texts] = {}
    values: dict[Text, Texts] = {}


def _as_scenes(value: Any) -> Any:
    return {"scenes": value} if isinstance(value, list) else value


SceneTexts = Annotated[Scenes, BeforeValidator(_as_scenes)]
SHAPES: dict[str, Any] = {
    "diverse": Texts, "bias": ByName, "paraphrase": ByName, "spurious": ByName, "candidate": Candidates,
    "augmented": TextByName, "insights": Insights, "scene": SceneTexts, "content": TextByName,
}  # fmt: skip


class GivenTexts(BaseModel):
    """Where the texts of a kind come from: written here, ``{file: texts.json}``, ``shipped`` or ``llm``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    diverse: Annotated[From[Texts] | None, Field(description="neutral captions")] = None
    bias: Annotated[From[ByName] | None, Field(description="captions by value of the attribute")] = None
    paraphrase: Annotated[From[ByName] | None, Field(description="other wordings by query")] = None
    spurious: Annotated[From[ByName] | None, Field(description="texts that name a value alone, by value")] = None
    candidate: Annotated[
        From[Candidates] | None, Field(description="texts with query and value, by query, then value")
    ] = None
    augmented: Annotated[From[TextByName] | None, Field(description="by query: the query with {bias} put in")] = None
    insights: Annotated[From[Insights] | None, Field(description="harmful and helpful pairs of texts")] = None
    scene: Annotated[From[SceneTexts] | None, Field(description="sentences with {target} and {bias}")] = None
    content: Annotated[From[TextByName] | None, Field(description="by query: the text whose content counts")] = None


def texts_in(kind: str, entry: Any) -> Any:
    """The texts of an entry, read from its file where it names one. Raises ``DataError``."""
    return read_texts(kind, Path(str(entry.file))) if isinstance(entry, TextFile) else entry


def read_texts(kind: str, path: Path) -> Any:
    """Texts of a kind from a JSON file of the form that the spec takes. Raises ``DataError`` naming the place."""
    hint = f"the file holds what could stand under given: {{{kind}: ...}} in the spec, as JSON"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES >> 20} MB", hint="give fewer texts")
        return TypeAdapter(SHAPES[kind]).validate_python(json.loads(path.read_text("utf8")))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place + ': ' if place else ''}{first['msg']}", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}", hint=hint) from error
