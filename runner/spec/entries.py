"""One model or step of the document, and what judging it needs to know besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from runner.spec.source import Path, Source, Span
from runner.spec.yaml12 import Node


@dataclass(frozen=True)
class Surroundings:
    """What judging needs to know besides the entry: the text, the spec's folder, the environment, the names in use."""

    source: Source
    base: FilePath
    env: Mapping[str, str]
    names: frozenset[str]

    @property
    def context(self) -> dict[str, Any]:
        """The validation context that path fields and providers see."""
        return {"base": self.base, "env": self.env}


@dataclass(frozen=True)
class Entry:
    """One model or step of the document."""

    section: str
    name: str
    node: Node
    span: Span

    @property
    def path(self) -> Path:
        """Where the entry stands."""
        return (self.section, self.name)

    @property
    def key(self) -> tuple[str, str]:
        """Section and name, to remember things by."""
        return (self.section, self.name)
