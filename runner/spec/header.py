"""The top level of a spec, as a pydantic model: what stands there besides models and steps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_SEED = 2**32 - 1
DEFAULT_RESULTS = "out/results.duckdb"
NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]*$"
SLUG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=64)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Budget(BaseModel):
    """Limits of a run, counted over all its attempts; it stops cleanly when one is reached."""

    model_config = ConfigDict(extra="forbid")

    llm_calls: int | None = Field(default=None, ge=0, description="Calls to language models that are not cached.")
    tokens: int | None = Field(default=None, ge=0, description="Tokens read and written by language models.")
    images: int | None = Field(default=None, ge=0, description="Images decoded for models.")
    minutes: float | None = Field(default=None, gt=0, description="Wall time.")


class FailOn(BaseModel):
    """Bars for unattended use: from so many rows with this verdict on, the command ends with exit code 5."""

    model_config = ConfigDict(extra="forbid")

    disfavoured: int | None = Field(default=None, ge=1, description="Groups on which a classifier is worse.")
    favoured: int | None = Field(default=None, ge=1, description="Groups on which a classifier is better.")
    held_back: int | None = Field(default=None, ge=1, description="Differences that cannot be believed.")
    not_testable: int | None = Field(default=None, ge=1, description="Groups that could not be tested.")
    worse: int | None = Field(default=None, ge=1, description="Groups on which the second of two classifiers is worse.")


class Header(BaseModel):
    """An experiment: models, and steps that use them and each other."""

    model_config = ConfigDict(extra="forbid", title="runner spec")

    name: Annotated[str, StringConstraints(pattern=SLUG_PATTERN, max_length=80)] = Field(
        description="Short name of the experiment: letters, digits, '.', '-' and '_'."
    )
    description: str = Field(default="", description="What the experiment asks, for people.")
    profile: Literal["embedded"] | None = Field(
        default=None, description="'embedded': small packaged models and images; said so in report and results."
    )
    params: dict[Name, Any] = Field(
        default={}, description="Values used as $params.name; `--set name=value` overrides them."
    )
    sweep: dict[Name, Annotated[list[Any], Field(min_length=1)]] = Field(
        default={}, description="Lists of values of parameters (or of seed); every combination is run."
    )
    seed: Seed = Field(default=0, description="Seed of everything random.")
    models: dict[Name, dict[str, Any]] = Field(default={}, description="Models by name; steps use them as $name.")
    steps: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)] = Field(
        description="Steps by name; a step runs after those it refers to as $name."
    )
    results: Annotated[str, StringConstraints(min_length=1)] = Field(
        default=DEFAULT_RESULTS, description="The results file, relative to the spec's folder."
    )
    budget: Budget = Field(default=Budget(), description="Limits of a run.")
    fail_on: FailOn = Field(default=FailOn(), description="Verdicts that make the command end with exit code 5.")
