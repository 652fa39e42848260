"""Cut-outs and photographs, as a spec says which are wanted. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from runner.data.datasets.specs import PackagedSet
from runner.data.sources import PackagedSource
from runner.data.sources.specs import SourceSpec

FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,59}$")]
"""A class or a background: it becomes a folder."""
Word = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,60}$")]
Glob = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,200}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CutOuts(_Model):
    """Cut-outs of a class: pictures with transparency whose caption has one of the words."""

    sets: Annotated[
        list[PackagedSet], Field(min_length=1, max_length=20, description="packaged sets, such as fluent-3d")
    ]
    captions: Annotated[
        list[Word], Field(min_length=1, max_length=500, description="words or phrases; whole words, any case, plural too")
    ]  # fmt: skip
    except_captions: Annotated[list[Word], Field(max_length=500, description="words that rule a picture out")] = []
    except_uris: Annotated[list[Glob], Field(max_length=200, description="patterns of names that are ruled out")] = []


class Photographs(_Model):
    """Photographs of a background: those of a source with one of the labels, or with a caption that has one of the words."""

    # Told apart by type, so that a misspelt name is answered with the nearest one.
    source: Annotated[
        Annotated[PackagedSet, Tag("packaged set")] | Annotated[SourceSpec, Tag("any source")],
        Discriminator(lambda value: "packaged set" if isinstance(value, str) else "any source"),
    ]
    labels: Annotated[list[Word], Field(min_length=1, max_length=500, description="true labels of the source")]


def packaged(name: str) -> PackagedSource:
    """An image set of the asset registry by name."""
    return PackagedSource.model_validate({"packaged": name})


SETS = [packaged(name) for name in ("google-emoji", "fluent-3d", "tuxpaint-stamps", "openclipart")]
PHOTOGRAPHS = packaged("cifar10-train-sample")
