"""What a spec may say of judging open answers. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Judging(BaseModel):
    """How a model judges."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reading: Annotated[
        Literal["last_line", "reference", "constrained"],
        Field(
            description="last_line: bits on the last line, asked again where it cannot be read; reference: as the published code reads "
            "replies, what cannot be read counts as no idea; constrained: the reply is held to a JSON Schema"
        ),
    ] = "last_line"
    temperature: Annotated[float, Field(ge=0, le=2, description="of the judge")] = 0.0
    max_tokens: Annotated[int, Field(ge=16, le=32_768, description="of a judgement, thoughts included")] = 4096
    retries: Annotated[int, Field(ge=0, le=5, description="further questions where a reply cannot be read")] = 1
