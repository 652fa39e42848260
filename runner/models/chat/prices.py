"""What tokens cost, from a file of the user's: money is reported only where a price is known."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, ValidationError

from runner.errors import DataError

_MAX_BYTES = 1_000_000


class Price(BaseModel):
    """Price of one model, in the file's currency, for a million tokens read (``input``) and written (``output``)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    input: NonNegativeFloat
    output: NonNegativeFloat

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost of one reply."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


class Prices(BaseModel):
    """A price file (YAML or JSON): ``{currency: USD, models: {NAME: {input: 0.15, output: 0.6}}}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    currency: str = ""
    models: dict[str, Price]


def load_prices(path: Path) -> Prices:
    """Read a price file. Raises ``DataError`` naming what is wrong in it."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"price file {path} cannot be read: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise DataError(f"price file {path} is larger than {_MAX_BYTES:,} bytes")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.CSafeLoader)):
            raise DataError(f"price file {path}: aliases are not read here")
        return Prices.model_validate(yaml.load(text, Loader=yaml.CSafeLoader))
    except yaml.YAMLError as error:
        raise DataError(f"price file {path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"price file {path}: {place}: {first['msg']}",
            hint="write {currency: USD, models: {NAME: {input: 0.15, output: 0.6}}}, per million tokens",
        ) from error
