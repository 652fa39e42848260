"""A small vocabulary for tests of the compiler: artifacts, steps and providers of every shape a signature can have."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from runner.context import StepContext
from runner.models.base import ChatModel, Classifier, ImageTextEncoder
from runner.models.registry import ModelConfig, model_link, step_link
from runner.references import InputPath
from runner.steps import Artifact, Folder, Rows, Table, define


@dataclass(frozen=True)
class Ideas(Artifact):
    targets: list[str]
    count: int
    attributes: Annotated[Table, Rows("c2b_attribute")]


@dataclass(frozen=True)
class Lines(Artifact):
    captions: Annotated[Table, Rows("c2b_caption")]


@dataclass(frozen=True)
class Pictures(Artifact):
    index: Folder
    captions: Annotated[Table, Rows("c2b_caption")]


@dataclass(frozen=True)
class FewPictures(Pictures):
    """A special kind of pictures: may stand where pictures may."""


class FolderCorpus(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["folder"]
    folder: InputPath
    limit: int | None = None


class ShardCorpus(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["shards"]
    shards: list[str]
    size: tuple[int, int] = (1, 1)


Corpus = Annotated[FolderCorpus | ShardCorpus, Field(discriminator="kind")]


class Filter(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: int
    blur: float = 0.5


async def propose(ctx: StepContext, *, llm: ChatModel, task: str, classes: list[str], n: int = 3) -> Ideas:
    """Propose ideas."""
    raise AssertionError("never run")


async def caption(
    ctx: StepContext, *, ideas: Ideas, llm: ChatModel | None = None, style: Literal["plain", "rich"] = "plain"
) -> Lines:
    """Write lines."""
    raise AssertionError("never run")


def search(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    queries: Lines | list[str],
    corpus: Corpus | None = None,
    filters: Filter | Literal["none"] | list[int] | None = None,
    k: Annotated[int, Field(ge=1, le=1000, description="Images per line.")] = 10,
    rate: float = 0.5,
    strict: bool = True,
) -> Pictures:
    """Find pictures."""
    raise AssertionError("never run")


def few(ctx: StepContext, *, images: Pictures, keep: Annotated[int, Field(ge=1)] = 1) -> FewPictures:
    """Keep few pictures."""
    raise AssertionError("never run")


def judge(
    ctx: StepContext,
    *,
    classifier: Classifier,
    images: Pictures | None = None,
    table: Annotated[Table, Rows("c2b_caption")] | None = None,
    targets: list[str] | None = None,
    settings: dict[str, Any] | None = None,
) -> Lines:
    """Judge pictures."""
    raise AssertionError("never run")


def compare(
    ctx: StepContext,
    *,
    parts: list[Lines],
    named: dict[str, Lines] | None = None,
    folder: Folder | None = None,
    path: InputPath | None = None,
) -> Lines:
    """Compare several."""
    raise AssertionError("never run")


STEPS = {
    d.name: d
    for d in (
        define("t.propose", propose, version="1"),
        define("t.caption", caption, version="1"),
        define("t.search", search, version="1"),
        define("t.few", few, version="1"),
        define("t.judge", judge, version="1"),
        define("t.compare", compare, version="1"),
    )
}


class Chat(ModelConfig):
    """A chat model."""

    kind: ClassVar[type[ChatModel]] = ChatModel
    model: str
    base_url: str = "http://localhost"
    temperature: Annotated[float, Field(ge=0)] = 0.0
    api_key_env: str | None = None


class Clip(ModelConfig):
    """An encoder."""

    kind: ClassVar[type[ImageTextEncoder]] = ImageTextEncoder
    name: str

    @field_validator("name")
    @classmethod
    def _is_no_file(cls, value: str) -> str:
        if value == "blob":
            raise ValueError("weights are named, not given as a blob")
        return value


class ZeroShot(ModelConfig):
    """A classifier made of an encoder."""

    kind: ClassVar[type[Classifier]] = Classifier
    encoder: model_link(ImageTextEncoder)  # type: ignore[valid-type]
    labels: tuple[str, ...] = ("cat", "dog")


class Fitted(ModelConfig):
    """A classifier that a step fitted."""

    kind: ClassVar[type[Classifier]] = Classifier
    head: step_link("folder")  # type: ignore[valid-type]
    base: model_link(ImageTextEncoder) | None = None  # type: ignore[valid-type]


PROVIDERS = {"chat": Chat, "clip": Clip, "zero_shot": ZeroShot, "fitted": Fitted}
