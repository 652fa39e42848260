"""How a spec names a data set with known biases: ``{celeba: ./celeba}`` or ``{imagenet_x: factors.jsonl, images: ./val}``.

The key says the kind. Light: imported to validate a spec.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from runner.keyed import keyed
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


DatasetSpec = Annotated[
    Annotated[CelebaFolder, Tag("dataset celeba")] | Annotated[ImagenetXFolder, Tag("dataset imagenet_x")],
    keyed("dataset", KINDS, what="a labelled data set is a mapping with one of the keys ", code="dataset_kind"),
]
"""One data set; the key decides the kind."""
