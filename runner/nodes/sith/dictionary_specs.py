"""How a spec names the concepts of a dictionary. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Tag

from runner.keyed import keyed
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


_KINDS: dict[str, type[Any]] = {
    "file": ConceptFile,
    "list": ConceptList,
    "conceptnet": ConceptNetTerms,
    "wordnet": WordNetTexts,
    "captions": CaptionTexts,
}


Concepts = Annotated[
    Annotated[ConceptFile, Tag("concepts file")]
    | Annotated[ConceptList, Tag("concepts list")]
    | Annotated[ConceptNetTerms, Tag("concepts conceptnet")]
    | Annotated[WordNetTexts, Tag("concepts wordnet")]
    | Annotated[CaptionTexts, Tag("concepts captions")],
    keyed("concepts", _KINDS, what="concepts are a mapping with one of the keys ", code="concepts_kind", one=True),
]
"""One source of concepts; the key decides the kind."""
