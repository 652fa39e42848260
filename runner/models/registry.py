"""The ``models:`` block: one pydantic class a provider, chosen by the field ``provider``.

A provider class is light (it is imported to validate a spec); its ``load`` imports what it needs::

    @provider("open_clip")
    class OpenClip(ModelConfig):
        '''A CLIP model of open_clip.'''
        kind: ClassVar[type[ModelHandle]] = ImageTextEncoder
        name: str
        def load(self, services: Services) -> ImageTextEncoder: ...

A field annotated ``ModelLink`` refers to another entry of ``models:`` (``encoder: $clip``); one annotated ``StepLink``
refers to an output of a step (``head: $fit.head``), which makes every step that uses the model run after that step.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from runner.steps import ModelHandle, OutputKind

REFERENCE_PATTERN = r"^\$[A-Za-z_][\w.-]*$"


@dataclass(frozen=True)
class LinkMark:
    """What a link field may lead to: a model kind, or an output of a step."""

    model: type[ModelHandle] | None = None
    output: OutputKind | None = None


def model_link(kind: type[ModelHandle]) -> Any:
    """Annotation of a field that refers to another model of this kind. At ``load`` time see ``Services.linked``."""
    return Annotated[str, Field(pattern=REFERENCE_PATTERN), LinkMark(model=kind)]


def step_link(output: OutputKind) -> Any:
    """Annotation of a field that refers to one output (``$step.field``) of this kind."""
    return Annotated[str, Field(pattern=REFERENCE_PATTERN), LinkMark(output=output)]


@dataclass(frozen=True)
class Services:
    """What loading a model may use.

    ``linked``: values of the config's link fields (a loaded model, or an output of a step). ``resolve``: turns a
    ``ResolvedPath`` or ``AssetRef`` into a local path. ``cache``: the workspace's cache folder (reply cache lives there).
    """

    device: str = "cpu"
    cache: Path = field(default_factory=Path.cwd)
    linked: Mapping[str, Any] = field(default_factory=dict)
    resolve: Callable[[str], Path] = Path


class ModelConfig(BaseModel):
    """Base of provider classes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    kind: ClassVar[type[ModelHandle]]
    provider: str

    def load(self, services: Services) -> ModelHandle:
        """Load the model; slow, may raise ``ModelRefused``, ``AssetError``, ``EndpointError``."""
        raise TypeError(f"provider {self.provider!r} does not say how to load")

    @property
    def light(self) -> bool:
        """Whether ``load`` reads no weights and fetches nothing: what the model says of itself may then be asked at any time."""
        return False

    def identity(self) -> dict[str, Any]:
        """What enters content keys. Fields that cannot change a result (ports, timeouts, batch sizes) are left out."""
        return self.model_dump(mode="python")


MODEL_MODULES = (
    "runner.models.backbones.providers",
    "runner.models.chat.providers",
    "runner.models.classifier.providers",
    "runner.models.contrastive.providers",
    "runner.models.encoders.providers",
    "runner.models.faces.providers",
    "runner.models.lvlm.providers",
)
ENTRY_POINT_GROUP = "runner.models"

_providers: dict[str, type[ModelConfig]] = {}
_loaded = False
C = TypeVar("C", bound=type[ModelConfig])


def provider(name: str) -> Callable[[C], C]:
    """Register a config class under ``provider: name``."""

    def register(cls: C) -> C:
        known = _providers.get(name)
        if known is not None and known.__module__ != cls.__module__:
            raise ValueError(f"provider {name!r} is registered twice: {known.__module__}, {cls.__module__}")
        _providers[name] = cls
        return cls

    return register


def load_providers() -> Mapping[str, type[ModelConfig]]:
    """All provider classes by name, importing the declaring modules on first use."""
    global _loaded
    if not _loaded:
        for module in MODEL_MODULES:
            importlib.import_module(module)
        for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
            entry.load()
        _loaded = True
    return types.MappingProxyType(dict(sorted(_providers.items())))
