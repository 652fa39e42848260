"""How a spec names image sources: ``{folder: ./photos}``, ``{webdataset: "shards/*.tar"}``, ... or a list of them.

The key says the kind. pydantic judges; ``open_source`` opens. Light: imported to validate a spec.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from runner.references import ASSET_SCHEME, AssetRef, InputPath

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


def _asset_name(value: str) -> AssetRef:
    # An AssetRef, so that the planner fetches the set before anything is keyed.
    return AssetRef(ASSET_SCHEME + value.removeprefix(ASSET_SCHEME))


class PackagedSource(_SourceModel):
    """An image set of the asset registry (`runner assets list`)."""

    key: ClassVar[str] = "packaged"
    packaged: Annotated[str, Field(min_length=1), AfterValidator(_asset_name)]
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
    cls.key: cls for cls in (FolderSource, FolderTreeSource, WebDatasetSource, ParquetSource, PackagedSource)
}


def _kind_tag(value: Any) -> str | None:
    """Tag of the kind that a mapping means, also when its key is misspelt, so that the error names the right one."""
    if isinstance(value, _SourceModel):
        return f"source {value.key}"
    if not isinstance(value, dict):
        return None
    keys = [str(key) for key in value]
    found = [key for key in keys if key in KINDS]
    near = [match for key in keys for match in difflib.get_close_matches(key.replace("-", "_"), KINDS, 1, 0.6)]
    return f"source {(found or near)[0]}" if found or near else None


# Tags differ from the keys: a tag in an error's place must not be taken for the YAML key of the same name.
SourceSpec = Annotated[
    Annotated[FolderSource, Tag("source folder")]
    | Annotated[FolderTreeSource, Tag("source folder_tree")]
    | Annotated[WebDatasetSource, Tag("source webdataset")]
    | Annotated[ParquetSource, Tag("source parquet")]
    | Annotated[PackagedSource, Tag("source packaged")],
    Discriminator(
        _kind_tag,
        custom_error_type="source_kind",
        custom_error_message="an image source is a mapping with one of the keys " + ", ".join(KINDS),
    ),
]
"""One image source; the key decides the kind."""


def _many_tag(value: Any) -> str:
    return "sources" if isinstance(value, (list, tuple)) else "one source"


Corpus = Annotated[
    Annotated[SourceSpec, Tag("one source")] | Annotated[list[SourceSpec], Field(min_length=1), Tag("sources")],
    Discriminator(_many_tag),
]
"""One source or a list of sources."""
