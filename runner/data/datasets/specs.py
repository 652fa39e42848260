"""How a spec names datasets: ``{name: dtd, root: ./data/dtd}``, ``{image_folder: ./photos}``, ... or a list of them.

The key says the kind. pydantic judges; ``runner.data.datasets.loading`` reads. Light: imported to validate a spec.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from runner.data.datasets.known import KnownName
from runner.data.sources.specs import PackagedSource, SourceSpec
from runner.keyed import keyed
from runner.references import InputPath

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SplitCounts(_Model):
    """A number for each split; a split that is not named has no limit, 0 leaves one out."""

    train: Annotated[int, Field(ge=0)] | None = None
    val: Annotated[int, Field(ge=0)] | None = None
    test: Annotated[int, Field(ge=0)] | None = None


def _count_tag(value: Any) -> str:
    return "by split" if isinstance(value, (dict, SplitCounts)) else "every split"


Limit = Annotated[
    Annotated[int, Field(ge=1), Tag("every split")] | Annotated[SplitCounts, Tag("by split")],
    Discriminator(_count_tag),
]
"""One number for every split, or one for each."""


def count_of(limit: int | SplitCounts | None, split: Split) -> int | None:
    """What a limit says of one split; None = all."""
    value: int | None = getattr(limit, split) if isinstance(limit, SplitCounts) else limit
    return value


class Fractions(_Model):
    """Shares of the splits, where the pictures come in none; they add up to 1."""

    train: float = Field(0.0, ge=0, le=1)
    val: float = Field(0.0, ge=0, le=1)
    test: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> Fractions:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the fractions add up to {total:g}, not to 1")
        return self


CUSTOMARY = Fractions(train=0.5, val=0.2, test=0.3)
"""CoOp's shares."""


def _one_slot(value: str) -> str:
    rest = value.replace("{}", "", 1)
    if rest == value or "{" in rest or "}" in rest:
        raise ValueError("a template is a prompt with one {} where the class stands")
    return value


NAME = r"^[^\W_][\w .+-]{0,99}$"


class DatasetModel(_Model, ABC):
    """What may be written of any dataset."""

    key: ClassVar[str]

    called: Annotated[
        Annotated[str, Field(pattern=NAME)] | None, Field(alias="as", description="name of the dataset in the results")
    ] = None
    group: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,60}$", description="group whose mean it enters")] | None = (
        None
    )
    domain_noun: (
        Annotated[str, Field(pattern=r"^[^\x00-\x1f{}]{1,60}$", description="what fine-grained questions call it")]
        | None
    ) = None
    template: (
        Annotated[
            str,
            Field(pattern=r"^[^\x00-\x1f]{2,300}$", description="CLIP prompt with one {} for the class"),
            AfterValidator(_one_slot),
        ]
        | None
    ) = None
    limit: Annotated[
        Limit | None, Field(description="pictures drawn of each split; here it counts, not the step's")
    ] = None
    per_class: Annotated[Limit | None, Field(description="pictures drawn of each class and split")] = None

    @property
    def title(self) -> str:
        """Name in the results: what `as:` says, else the kind's own."""
        return self.called or self.own_name

    @property
    @abstractmethod
    def own_name(self) -> str:
        """Name without `as:`; empty where there is none."""

    @model_validator(mode="after")
    def _named(self) -> DatasetModel:
        if self.called is None and not re.match(NAME, self.own_name):
            raise ValueError("give the dataset a name with `as:`")
        return self


class KnownDataset(DatasetModel):
    """One of the ten public datasets, from a local copy; ``root`` holds the unpacked pictures and the split files."""

    key: ClassVar[str] = "name"
    name: Annotated[KnownName, Field(description="which public dataset")]
    root: Annotated[InputPath, Field(description="folder with the unpacked pictures and the split files")]

    @property
    def own_name(self) -> str:
        """Its key."""
        return self.name


class ImageFolderDataset(DatasetModel):
    """Pictures whose first folder is the class; below ``train``, ``val`` and ``test`` where these folders are there."""

    key: ClassVar[str] = "image_folder"
    image_folder: InputPath
    fractions: Annotated[Fractions, Field(description="shares of the splits, where no folders say them")] = CUSTOMARY

    @property
    def own_name(self) -> str:
        """The folder's name."""
        return self.image_folder.rstrip("/").rpartition("/")[2]


def _packaged(value: Any) -> Any:
    return PackagedSource.model_validate({"packaged": value}) if isinstance(value, str) else value


PackagedSet = Annotated[
    PackagedSource, BeforeValidator(_packaged), WithJsonSchema({"type": "string", "minLength": 1, "title": "image set"})
]
"""Name of an image set of the asset registry (`runner assets list`), or ``NAME+VARIANT``."""


class _BySplit(_Model):
    @model_validator(mode="after")
    def _some(self) -> _BySplit:
        if not self.by_split():
            raise ValueError("expected at least one of train, val and test")
        return self

    def by_split(self) -> dict[Split | None, Any]:
        """What is named, by split."""
        return {split: getattr(self, split) for split in SPLITS if getattr(self, split) is not None}


class SplitSets(_BySplit):
    """An image set for each split."""

    train: PackagedSet | None = None
    val: PackagedSet | None = None
    test: PackagedSet | None = None


class SplitSources(_BySplit):
    """An image source for each split."""

    train: SourceSpec | None = None
    val: SourceSpec | None = None
    test: SourceSpec | None = None


def _split_tag(value: Any) -> str:
    is_split = isinstance(value, _BySplit) or (isinstance(value, dict) and not {*SPLITS}.isdisjoint(value))
    return "by split" if is_split else "one"


class SourcesDataset(DatasetModel):
    """What datasets of image sources have in common."""

    target: Annotated[
        Literal["label", "caption"],
        Field(description="what the class is: the true label, or the caption up to a comma, bracket or full stop"),
    ] = "label"
    fractions: Annotated[Fractions, Field(description="shares of the splits of one source")] = CUSTOMARY
    disjoint: Annotated[
        Literal["target"] | None,
        Field(description="target: classes are dealt out to the splits, so that no class stands in two of them"),
    ] = None

    def parts(self) -> dict[Split | None, Any]:
        """Source specs by split; None stands for one source that is yet to be split."""
        value = getattr(self, self.key)
        return value.by_split() if isinstance(value, _BySplit) else {None: value}

    @property
    def own_name(self) -> str:
        """The name of its only source."""
        first, *others = self.parts().values()
        if others:
            return ""
        if first.name is None and isinstance(first, PackagedSource):
            return first.packaged.partition(":")[2] + (f"+{first.variant}" if first.variant else "")
        return first.name or ""

    @model_validator(mode="after")
    def _no_leak(self) -> SourcesDataset:
        parts = [part.model_dump_json() for part in self.parts().values()]
        if len({*parts}) < len(parts) and self.disjoint is None:
            raise ValueError(
                "one set stands for two splits; write `disjoint: target`, or name it once and give fractions"
            )
        return self


class PackagedDataset(SourcesDataset):
    """An image set of the asset registry, or one for each split: ``{train: cifar10-train-sample, test: cifar10-test}``."""

    key: ClassVar[str] = "packaged"
    packaged: Annotated[
        Annotated[PackagedSet, Tag("one")] | Annotated[SplitSets, Tag("by split")], Discriminator(_split_tag)
    ]


class SourceDataset(SourcesDataset):
    """Any image source that knows labels or captions, or one for each split."""

    key: ClassVar[str] = "source"
    source: Annotated[
        Annotated[SourceSpec, Tag("one")] | Annotated[SplitSources, Tag("by split")], Discriminator(_split_tag)
    ]


KINDS: dict[str, type[DatasetModel]] = {
    cls.key: cls for cls in (KnownDataset, ImageFolderDataset, PackagedDataset, SourceDataset)
}


DatasetSpec = Annotated[
    Annotated[KnownDataset, Tag("dataset name")]
    | Annotated[ImageFolderDataset, Tag("dataset image_folder")]
    | Annotated[PackagedDataset, Tag("dataset packaged")]
    | Annotated[SourceDataset, Tag("dataset source")],
    keyed(
        "dataset",
        KINDS,
        what="a dataset is a mapping with one of the keys ",
        code="dataset_kind",
        implied={"root": "name"},
    ),
]
"""One dataset; the key decides the kind."""


def _many_tag(value: Any) -> str:
    return "datasets" if isinstance(value, (list, tuple)) else "one dataset"


DatasetSpecs = Annotated[
    Annotated[DatasetSpec, Tag("one dataset")]
    | Annotated[list[DatasetSpec], Field(min_length=1, max_length=100), Tag("datasets")],
    Discriminator(_many_tag),
]
"""One dataset or a list of datasets."""
