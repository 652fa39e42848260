"""How a spec names image sources: ``{folder: ./photos}``, ``{webdataset: "shards/*.tar"}``, ... or a list of them.

The key says the kind. pydantic judges; ``open_source`` opens. Light: imported to validate a spec.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)

from runner.data.sources.base import MAX_RECORD_BYTES
from runner.keyed import keyed
from runner.references import InputPath, asset_ref

Name = Annotated[str, Field(pattern=r"^[^/\x00-\x1f]{1,200}$", description="name of the source in the results")]


class _SourceModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    key: ClassVar[str]

    name: Name | None = None
    limit: Annotated[int, Field(ge=1, description="read only the first so many pictures")] | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON can carry it and ``open_source`` takes it back."""
        return self.model_dump(mode="json", exclude_defaults=True)


class FolderSource(_SourceModel):
    """A folder of pictures at any depth; captions from ``NAME.txt`` beside ``NAME.jpg``."""

    key: ClassVar[str] = "folder"
    folder: InputPath
    label_from_folder: Annotated[
        bool, Field(description="the first folder below is the true label, for checking an audit afterwards")
    ] = False


class FolderTreeSource(_SourceModel):
    """Pictures sorted by hand: ``TARGET/ATTRIBUTE/VALUE/*.jpg``, optionally below one more folder."""

    key: ClassVar[str] = "folder_tree"
    folder_tree: InputPath


class WebDatasetSource(_SourceModel):
    """Tar shards whose neighbouring members with one key are one sample."""

    key: ClassVar[str] = "webdataset"
    webdataset: InputPath | list[InputPath]
    image_field: Annotated[str, Field(description="ending of the picture, such as jpg")] | None = None
    caption_field: Annotated[str, Field(description="ending of the caption")] = "txt"
    label_field: Annotated[str, Field(description="ending of the true label, for checking afterwards")] | None = None


class ParquetSource(_SourceModel):
    """Parquet files with encoded pictures in a column of bytes."""

    key: ClassVar[str] = "parquet"
    parquet: InputPath | list[InputPath]
    image_field: Annotated[str, Field(description="column of bytes")] | None = None
    caption_field: Annotated[str, Field(description="column of captions")] | None = None
    label_field: Annotated[str, Field(description="column of true labels, for checking afterwards")] | None = None


class Img2DatasetSource(_SourceModel):
    """Output folder of img2dataset: tar files, folders or Parquet, with the Parquet file of each shard."""

    key: ClassVar[str] = "img2dataset"
    img2dataset: InputPath
    crop_borders: Annotated[
        bool | Literal["auto"],
        Field(description="cut off white bars: where img2dataset put them (auto), wherever they are, or never"),
    ] = "auto"
    verify_sha256: Annotated[
        bool | Literal["auto"],
        Field(
            description="compare with the Parquet file's hashes: where pictures were stored unchanged (auto), or not"
        ),
    ] = "auto"


def _below_base(value: str, info: ValidationInfo) -> str:
    """Absolute, but no path that the planner would key by its content: what a cache holds changes nothing."""
    return str(Path((info.context or {}).get("base", Path.cwd()), Path(value).expanduser()).absolute())


class UrlsSource(_SourceModel):
    """Links to pictures in Parquet, CSV, TSV, JSON lines or text; fetched when they are first needed, then kept."""

    key: ClassVar[str] = "urls"
    urls: InputPath | list[InputPath]
    columns: (
        Annotated[
            list[str], Field(min_length=1, description="names of the columns of CSV or TSV without a header, in order")
        ]
        | None
    ) = None
    url_column: Annotated[str, Field(description="column of links")] | None = None
    caption_column: Annotated[str, Field(description="column of captions")] | None = None
    cache: (
        Annotated[
            str, Field(min_length=1, description="folder that keeps what was fetched"), AfterValidator(_below_base)
        ]
        | None
    ) = None
    timeout: Annotated[float, Field(gt=0, le=600, description="seconds for one link, redirects included")] = 30.0
    max_bytes: Annotated[int, Field(ge=1, le=MAX_RECORD_BYTES, description="largest picture")] = 32 * 2**20
    concurrency: Annotated[int, Field(ge=1, le=64, description="links fetched at a time")] = 16


class PackagedSource(_SourceModel):
    """An image set of the asset registry (`runner assets list`)."""

    key: ClassVar[str] = "packaged"
    packaged: Annotated[
        str, Field(min_length=1), AfterValidator(asset_ref)
    ]  # the planner fetches the set before anything is keyed
    variant: Annotated[str, Field(description="variant of the set")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _split_variant(cls, value: Any) -> Any:
        """``NAME+VARIANT`` is short for the two fields."""
        if isinstance(value, dict) and isinstance(value.get("packaged"), str) and "+" in value["packaged"]:
            name, _, variant = value["packaged"].partition("+")
            return {"variant": variant, **value, "packaged": name}
        return value


KINDS: dict[str, type[_SourceModel]] = {
    cls.key: cls
    for cls in (
        FolderSource,
        FolderTreeSource,
        WebDatasetSource,
        Img2DatasetSource,
        ParquetSource,
        UrlsSource,
        PackagedSource,
    )
}


SourceSpec = Annotated[
    Annotated[FolderSource, Tag("source folder")]
    | Annotated[FolderTreeSource, Tag("source folder_tree")]
    | Annotated[WebDatasetSource, Tag("source webdataset")]
    | Annotated[Img2DatasetSource, Tag("source img2dataset")]
    | Annotated[ParquetSource, Tag("source parquet")]
    | Annotated[UrlsSource, Tag("source urls")]
    | Annotated[PackagedSource, Tag("source packaged")],
    keyed("source", KINDS, what="an image source is a mapping with one of the keys ", code="source_kind"),
]
"""One image source; the key decides the kind."""


def _many_tag(value: Any) -> str:
    return "sources" if isinstance(value, (list, tuple)) else "one source"


Corpus = Annotated[
    Annotated[SourceSpec, Tag("one source")] | Annotated[list[SourceSpec], Field(min_length=1), Tag("sources")],
    Discriminator(_many_tag),
]
"""One source or a list of sources."""
