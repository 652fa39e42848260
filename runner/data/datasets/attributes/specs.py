"""How a spec names datasets with attributes: ``{waterbirds: ./data}``, ``{emoji: [...]}``, ``{table: labels.csv, ...}``.

The key says the kind. Light: imported to validate a spec.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from runner.data.datasets.specs import DatasetModel, Fractions, Limit, PackagedSet
from runner.keyed import keyed
from runner.references import InputPath

Column = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,100}$")]
ClassText = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,200}$")]
FaceAttribute = Literal["gender", "race", "age"]
Gender = Literal["woman", "man", "person"]
SkinTone = Literal["none", "light", "medium-light", "medium", "medium-dark", "dark"]

T = TypeVar("T")


def _distinct(values: list[T]) -> list[T]:
    if len(set(values)) < len(values):
        raise ValueError("a value stands twice")
    return values


Distinct = AfterValidator(_distinct)
ALL_TEST = Fractions(train=0.0, val=0.0, test=1.0)


class AttributedModel(DatasetModel):
    """What may be written of any dataset with attributes."""

    per_group: Annotated[
        Limit | None, Field(description="pictures drawn of each class, combination of attribute values, and split")
    ] = None

    @property
    def own_name(self) -> str:
        """The kind's key."""
        return self.key


class WaterbirdsDataset(AttributedModel):
    """Waterbirds: landbirds and waterbirds, attribute ``place`` (land, water); the splits of ``metadata.csv``."""

    key: ClassVar[str] = "waterbirds"
    waterbirds: Annotated[InputPath, Field(description="waterbird_complete95_forest2water2, or the folder above it")]


class CelebaDataset(AttributedModel):
    """CelebA: one of its yes/no attributes is the class; ``Male`` becomes the attribute ``gender``."""

    key: ClassVar[str] = "celeba"
    celeba: Annotated[InputPath, Field(description="folder with list_attr_celeba.txt and the aligned pictures")]
    target: Annotated[Column, Field(description="attribute that is the class")] = "Blond_Hair"
    classes: Annotated[
        list[ClassText] | None,
        Field(min_length=2, max_length=2, description="texts of its absence and of its presence"),
    ] = None
    attributes: Annotated[list[Column], Distinct] = Field(
        ["Male", "Blond_Hair", "Black_Hair", "Brown_Hair", "Gray_Hair"],
        min_length=1,
        description="CelebA's names; values no and yes, those of Male, as gender, Female and Male",
    )
    fractions: Annotated[Fractions, Field(description="shares of the splits, where no partition file is there")] = (
        ALL_TEST
    )


class _Faces(AttributedModel):
    target: Annotated[FaceAttribute, Field(description="attribute that is the class")] = "gender"


class FairfaceDataset(_Faces):
    """FairFace: ``fairface_label_{train,val}.csv`` beside ``train`` and ``val``."""

    key: ClassVar[str] = "fairface"
    fairface: Annotated[InputPath, Field(description="folder with the label files and the pictures")]
    attributes: Annotated[list[FaceAttribute], Distinct] = Field(["gender", "race", "age"], min_length=1)


class UtkfaceDataset(_Faces):
    """UTKFace: labels stand in the names, ``AGE_GENDER_RACE_TIME.jpg``; other names are left out. Sorted by name."""

    key: ClassVar[str] = "utkface"
    utkface: Annotated[InputPath, Field(description="folder with the pictures, or the one above it")]
    attributes: Annotated[list[FaceAttribute], Distinct] = Field(["gender", "race"], min_length=1)
    race_4: Annotated[
        Literal["Others", "Latino Hispanic"], Field(description="race 4: the dataset's own name, or that of SEM")
    ] = "Others"
    fractions: Annotated[Fractions, Field(description="shares of the splits; it comes with none")] = ALL_TEST


class VisuDataset(AttributedModel):
    """ViSU: safe and unsafe pictures with captions. The class repeats ``safety``; ``caption`` is an attribute of free text."""

    key: ClassVar[str] = "visu"
    visu: Annotated[InputPath, Field(description="folder visu with train.json, val.json and test.json, or the one above it")]  # fmt: skip
    pictures: Annotated[
        Literal["both", "safe"], Field(description="unsafe pictures are not distributed: they must be generated first")
    ] = "both"


class EmojiDataset(AttributedModel):
    """Emoji of people as a factorial: the class is the role, attributes are ``gender``, ``skin_tone`` and ``style``."""

    key: ClassVar[str] = "emoji"
    emoji: Annotated[
        list[PackagedSet], Field(min_length=1, max_length=20, description="google-emoji+skin-tones, fluent-3d, ...")
    ]
    genders: Annotated[list[Gender], Distinct] = Field(["woman", "man", "person"], min_length=1)
    skin_tones: Annotated[list[SkinTone], Distinct] = Field(
        ["light", "medium-light", "medium", "medium-dark", "dark"], min_length=1
    )
    roles: Annotated[
        Literal["named", "all"] | list[ClassText],
        Field(description="named: those with a name of their own (judge); all: also what a person does; or a list"),
    ] = "named"
    fractions: Annotated[Fractions, Field(description="shares of the splits")] = ALL_TEST


class TableDataset(AttributedModel):
    """Any table (CSV with a header, or Parquet): a column of files below ``root``, one of classes, others of attributes."""

    key: ClassVar[str] = "table"
    table: Annotated[InputPath, Field(description="file.csv or file.parquet")]
    root: Annotated[InputPath, Field(description="folder that the files stand below")]
    file: Annotated[Column, Field(description="column of files")] = "file"
    target: Annotated[Column, Field(description="column of classes")]
    attributes: Annotated[list[Column], Field(min_length=1, description="columns of attributes"), Distinct]
    split: Annotated[Column | None, Field(description="column of splits: train, val or test")] = None
    licence: Annotated[ClassText | None, Field(description="of the pictures")] = None
    fractions: Annotated[Fractions, Field(description="shares of the splits, where there is no column")] = ALL_TEST

    @property
    def own_name(self) -> str:
        """The file's name without its ending."""
        return self.table.rpartition("/")[2].rpartition(".")[0]

    @model_validator(mode="after")
    def _columns(self) -> TableDataset:
        if self.file in (self.target, self.split, *self.attributes):
            raise ValueError(f"the column {self.file!r} holds the files; name others for class, split and attributes")
        return self


AnyAttributed = (
    WaterbirdsDataset | CelebaDataset | FairfaceDataset | UtkfaceDataset | VisuDataset | EmojiDataset | TableDataset
)
KINDS: dict[str, type[AttributedModel]] = {
    cls.key: cls
    for cls in (
        WaterbirdsDataset, CelebaDataset, FairfaceDataset, UtkfaceDataset, VisuDataset, EmojiDataset, TableDataset,
    )
}  # fmt: skip


AttributedSpec = Annotated[
    Annotated[WaterbirdsDataset, Tag("attributed waterbirds")]
    | Annotated[CelebaDataset, Tag("attributed celeba")]
    | Annotated[FairfaceDataset, Tag("attributed fairface")]
    | Annotated[UtkfaceDataset, Tag("attributed utkface")]
    | Annotated[VisuDataset, Tag("attributed visu")]
    | Annotated[EmojiDataset, Tag("attributed emoji")]
    | Annotated[TableDataset, Tag("attributed table")],
    keyed(
        "attributed", KINDS, what="a dataset with attributes is a mapping with one of the keys ", code="dataset_kind"
    ),
]
"""One dataset; the key decides the kind."""


def _many_tag(value: Any) -> str:
    return "datasets" if isinstance(value, (list, tuple)) else "one dataset"


AttributedSpecs = Annotated[
    Annotated[AttributedSpec, Tag("one dataset")]
    | Annotated[list[AttributedSpec], Field(min_length=1, max_length=100), Tag("datasets")],
    Discriminator(_many_tag),
]
"""One dataset or a list of datasets."""
