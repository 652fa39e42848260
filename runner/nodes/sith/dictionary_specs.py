"""How a spec names the concepts of a dictionary. Light: imported to validate a spec."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from runner.nodes.text_specs import CaptionTexts, WordNetTexts
from runner.references import InputPath


class ConceptFile(BaseModel):
    """A UTF-8 text file with one concept a line; lines are taken as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: InputPath


class ConceptList(BaseModel):
    """Concepts written in the spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    list: Annotated[tuple[str, ...], Field(min_length=1)]


class ConceptNetTerms(BaseModel):
    """Terms of one language in ConceptNet's table of assertions (.csv or .csv.gz), in the order in which they occur."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    conceptnet: InputPath
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = "en"
    min_assertions: Annotated[int, Field(ge=1, description="leave out terms with fewer")] = 1


_KEYS = ("file", "list", "conceptnet", "wordnet", "captions")
_CLASSES: dict[Any, str] = {
    ConceptFile: "file",
    ConceptList: "list",
    ConceptNetTerms: "conceptnet",
    WordNetTexts: "wordnet",
    CaptionTexts: "captions",
}


def _kind(value: Any) -> str | None:
    if type(value) in _CLASSES:
        return _CLASSES[type(value)]
    if not isinstance(value, dict):
        return None
    keys = [str(key) for key in value]
    if sum(key in _KEYS for key in keys) > 1:
        return None
    near = (match for key in keys for match in difflib.get_close_matches(key, _KEYS, 1, 0.6))
    return next((key for key in keys if key in _KEYS), None) or next(near, None)


Concepts = Annotated[
    Annotated[ConceptFile, Tag("file")]
    | Annotated[ConceptList, Tag("list")]
    | Annotated[ConceptNetTerms, Tag("conceptnet")]
    | Annotated[WordNetTexts, Tag("wordnet")]
    | Annotated[CaptionTexts, Tag("captions")],
    Discriminator(
        _kind,
        custom_error_type="concepts_kind",
        custom_error_message=f"concepts are a mapping with one of the keys {', '.join(_KEYS)}; give one of them",
    ),
]
"""One source of concepts; the key decides the kind."""
