"""How a spec names a data set with known biases: ``{celeba: ./celeba}`` or ``{imagenet_x: factors.jsonl, images: ./val}``.

The key says the kind. Light: imported to validate a spec.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from runner.references import InputPath

Limit = Annotated[int, Field(ge=1, description="read only the first so many pictures")]


class _Dataset(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    key: ClassVar[str]

    limit: Limit | None = None


class CelebaFolder(_Dataset):
    """CelebA as it is distributed: ``list_attr_celeba.txt`` or ``.csv``, the partition beside it, aligned pictures below."""

    key: ClassVar[str] = "celeba"
    celeba: InputPath
    split: Annotated[Literal["train", "val", "test", "all"], Field(description="the paper uses val")] = "val"


class ImagenetXFolder(_Dataset):
    """ImageNet-X: the file of factors (JSON lines, ``multi`` or ``top``) and the ImageNet pictures, flat or in wnid folders."""

    key: ClassVar[str] = "imagenet_x"
    imagenet_x: InputPath
    images: InputPath


KINDS: dict[str, type[_Dataset]] = {cls.key: cls for cls in (CelebaFolder, ImagenetXFolder)}


def _kind(value: Any) -> str | None:
    keys = [value.key] if isinstance(value, _Dataset) else list(value) if isinstance(value, dict) else []
    return next((f"dataset {key}" for key in keys if key in KINDS), None)


# Tags differ from the keys, as those of image sources do.
DatasetSpec = Annotated[
    Annotated[CelebaFolder, Tag("dataset celeba")] | Annotated[ImagenetXFolder, Tag("dataset imagenet_x")],
    Discriminator(
        _kind,
        custom_error_type="dataset_kind",
        custom_error_message="a labelled data set is a mapping with one of the keys " + ", ".join(KINDS),
    ),
]
"""One data set; the key decides the kind."""
