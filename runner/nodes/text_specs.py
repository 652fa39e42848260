"""How a spec names a list of texts: ``{wordnet: physical}``, ``{captions: ...}``, ``{file: ...}``, ``{words: [...]}``,
``{templates: [...], of: ...}``. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from runner.data.sources.specs import Corpus
from runner.keyed import keyed
from runner.references import AssetRef, InputPath

WORDNET = AssetRef("asset:wordnet")


def one_place(template: str) -> str:
    """The template; raises ValueError where ``{}`` does not stand in it once."""
    if template.count("{}") != 1:
        raise ValueError("write {} once, where the text goes, such as 'a photo of a {}'")
    return template


Template = Annotated[
    str, Field(max_length=300, description="what is embedded; {} is the text"), AfterValidator(one_place)
]


class _Texts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    key: ClassVar[str]


class WordNetTexts(_Texts):
    """Nouns of WordNet, proper nouns left out."""

    key: ClassVar[str] = "wordnet"
    wordnet: Annotated[
        Literal["nouns", "physical", "imagenet"],
        Field(description="nouns: all; physical: what can be seen; imagenet: names of the 1000 ImageNet classes"),
    ]
    max_words: Annotated[int, Field(ge=1, le=9, description="words of the longest name")] = 2
    min_tagged: Annotated[
        int,
        Field(ge=0, description="senses met in hand-tagged texts: 1 leaves some 2,800 physical nouns, 0 some 33,000"),
    ] = 1
    folder: InputPath = WORDNET


class CaptionTexts(_Texts):
    """Captions of pictures in any image source."""

    key: ClassVar[str] = "captions"
    captions: Corpus


class FileTexts(_Texts):
    """A file: ``.json`` a list of strings, ``.parquet`` a column, any other one text a line."""

    key: ClassVar[str] = "file"
    file: InputPath
    column: Annotated[str, Field(min_length=1, description="column of a Parquet file")] = "caption"


class WordTexts(_Texts):
    """Texts written in the spec."""

    key: ClassVar[str] = "words"
    words: list[str] = Field(min_length=1)


_WHAT = "texts are a mapping with one of the keys "
_PLAIN: dict[str, type[_Texts]] = {cls.key: cls for cls in (WordNetTexts, CaptionTexts, FileTexts, WordTexts)}


PlainTexts = Annotated[
    Annotated[WordNetTexts, Tag("texts wordnet")]
    | Annotated[CaptionTexts, Tag("texts captions")]
    | Annotated[FileTexts, Tag("texts file")]
    | Annotated[WordTexts, Tag("texts words")],
    keyed("texts", _PLAIN, what=_WHAT, code="texts_kind"),
]
"""A source of texts that holds them as they are."""


class TemplateTexts(_Texts):
    """Each template with each text of another source in the place of ``{}``."""

    key: ClassVar[str] = "templates"
    templates: list[Template] = Field(min_length=1)
    of: PlainTexts


KINDS: dict[str, type[_Texts]] = {**_PLAIN, TemplateTexts.key: TemplateTexts}


TextSource = Annotated[
    Annotated[WordNetTexts, Tag("texts wordnet")]
    | Annotated[CaptionTexts, Tag("texts captions")]
    | Annotated[FileTexts, Tag("texts file")]
    | Annotated[WordTexts, Tag("texts words")]
    | Annotated[TemplateTexts, Tag("texts templates")],
    keyed("texts", KINDS, what=_WHAT, code="texts_kind"),
]
"""One source of texts; the key decides the kind."""


def _many_tag(value: Any) -> str:
    return "several texts" if isinstance(value, (list, tuple)) else "one kind of texts"


Texts = Annotated[
    Annotated[TextSource, Tag("one kind of texts")]
    | Annotated[list[TextSource], Field(min_length=1), Tag("several texts")],
    Discriminator(_many_tag),
]
"""One source of texts or a list of them."""
