"""How a spec names benchmarks and conversations. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag, model_validator

from runner.data.benchmarks.known import Aggregate, Metric
from runner.keyed import keyed
from runner.references import InputPath

Kind = Literal[
    "gqa", "vqav2", "okvqa", "vizwiz", "textvqa", "docvqa", "infographicvqa", "chartqa", "ai2d", "scienceqa", "mmmu", "mathvista",
    "mme_perception", "mme_cognition", "pope", "ocrbench", "mmstar", "cv_bench_count", "vmcbench", "manifest",
]  # fmt: skip
Title = Annotated[str, Field(pattern=r"^[^/\x00-\x1f]{1,100}$")]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,500}$")]


class Benchmark(BaseModel):
    """One benchmark on local files: its own archive unpacked, Parquet as on the hub, or a manifest of JSON lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Annotated[Kind, Field(description="which benchmark; manifest: your own questions as JSON lines")]
    path: Annotated[InputPath, Field(description="folder of its files, a Parquet file or pattern, or the manifest")]
    pictures: Annotated[
        InputPath | None, Field(description="folder of the pictures; default: where its archive has them")
    ] = None
    layout: Annotated[
        Literal["auto", "original", "parquet"], Field(description="auto: Parquet where there are such files")
    ] = "auto"
    split: Annotated[Text | None, Field(description="default: the one usually reported whose answers are public")] = (
        None
    )
    limit: Annotated[int | None, Field(ge=1, description="items drawn; default: the step's limit")] = None
    pictures_only: Annotated[bool, Field(description="leave out questions without a picture (ScienceQA)")] = False
    metric: Annotated[Metric | None, Field(description="another scorer than the benchmark's; a manifest needs one")] = (
        None
    )
    aggregate: Annotated[
        Aggregate | None, Field(description="how items become the score; default: the benchmark's")
    ] = None
    licence: Annotated[Text | None, Field(description="default: what is known of the benchmark's")] = None

    @model_validator(mode="after")
    def _scored(self) -> Benchmark:
        if self.kind == "manifest" and self.metric is None:
            raise ValueError("a manifest needs `metric:`, such as exact_match")
        return self


class ConversationModel(BaseModel):
    """What may be written of any source of conversations."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: ClassVar[str]

    pictures: Annotated[InputPath | None, Field(description="folder that paths of pictures start from")] = None
    limit: Annotated[int | None, Field(ge=1, description="records drawn of each domain; default: the step's limit")] = (
        None
    )
    eval: Annotated[
        int, Field(ge=0, description="records of each domain held out as the split eval, beside the limit")
    ] = 0
    licence: Annotated[Text | None, Field(description="of texts and pictures")] = None


class LlavaConversations(ConversationModel):
    """A JSON list (or JSON lines) in LLaVA's form, such as `llava_v1_5_mix665k.json`."""

    key: ClassVar[str] = "llava"
    llava: Annotated[InputPath, Field(description="the JSON file")]
    domain: Annotated[
        Text | None, Field(description="one domain for all; default: by the first folder of the picture's path")
    ] = None


class ShareGptConversations(ConversationModel):
    """A folder with `dataset_info.json`, as LLaMA-Factory has it; each of its data sets is a domain."""

    key: ClassVar[str] = "sharegpt"
    sharegpt: Annotated[InputPath, Field(description="folder with dataset_info.json")]
    datasets: Annotated[
        dict[Text, Text] | list[Text] | None,
        Field(description="entries taken, or domain: entry; default: all but those called _eval, each a domain"),
    ] = None
    held_out: Annotated[
        dict[Text, Text], Field(description="domain: entry whose records are the split eval, such as NAME_eval")
    ] = {}


class InternVlConversations(ConversationModel):
    """InternVL's meta JSON: data sets with their own roots and annotations; each is a domain."""

    key: ClassVar[str] = "internvl"
    internvl: Annotated[InputPath, Field(description="the meta JSON file")]
    datasets: Annotated[list[Text] | None, Field(description="data sets taken; default: all")] = None


AnyConversations = LlavaConversations | ShareGptConversations | InternVlConversations
KINDS: dict[str, type[ConversationModel]] = {
    cls.key: cls for cls in (LlavaConversations, ShareGptConversations, InternVlConversations)
}

ConversationSpec = Annotated[
    Annotated[LlavaConversations, Tag("conversations llava")]
    | Annotated[ShareGptConversations, Tag("conversations sharegpt")]
    | Annotated[InternVlConversations, Tag("conversations internvl")],
    keyed("conversations", KINDS, what="conversations are a mapping with one of the keys ", code="conversations_kind"),
]
"""Conversations; the key decides the kind."""
