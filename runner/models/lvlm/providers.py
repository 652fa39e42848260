"""Providers `lvlm`, `lvlm_classifier`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from runner.models.base import Classifier, VisionLanguageModel
from runner.models.registry import ModelConfig, Services, model_link, provider, step_link
from runner.references import AssetRef, InputPath
from runner.steps import ModelHandle

HubName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?$")]
Device = Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")]


@provider("lvlm")
class LvlmConfig(ModelConfig):
    """A vision-language model of transformers (or a text-only one) whose weights are open: to prune, merge, train, evaluate."""

    kind: ClassVar[type[ModelHandle]] = VisionLanguageModel
    provider: Literal["lvlm"] = "lvlm"
    path: InputPath | None = Field(default=None, description="model folder with safetensors weights, or asset:NAME")
    name: HubName | None = Field(default=None, description="on the hub: OWNER/NAME, with @REVISION")
    written: step_link("folder") | None = Field(  # type: ignore[valid-type]
        default=None, description="output `checkpoint` of a step that writes one: $cut.checkpoint"
    )
    adapter: InputPath | None = Field(default=None, description="folder of peft, merged in float32 when loaded")
    adapter_written: step_link("folder") | None = Field(  # type: ignore[valid-type]
        default=None, description="output `adapter` of a step that trains one: $train.adapter"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="bfloat16", description="of the loaded weights")
    device: Device | None = Field(default=None, description="cpu, cuda, mps; none = the run's")
    decoder: str = Field(
        default="auto",
        pattern=r"^[A-Za-z_]\w*(\.\w+)*$",
        max_length=200,
        description="dotted path of the module that holds `layers`, where it is not found by itself",
    )

    @model_validator(mode="after")
    def _one_source(self) -> LvlmConfig:
        if sum(source is not None for source in (self.path, self.name, self.written)) != 1:
            raise ValueError("give path (a local folder), name (on the hub) or written (a step's output)")
        if self.adapter is not None and self.adapter_written is not None:
            raise ValueError("give adapter (a local folder) or adapter_written (a step's output), not both")
        return self

    @property
    def light(self) -> bool:
        """Only a name on the hub has to be fetched."""
        return self.name is None

    def identity(self) -> dict[str, Any]:
        """Everything but the device."""
        return self.model_dump(mode="python", exclude={"device"})

    def load(self, services: Services) -> VisionLanguageModel:
        """Look at the folder; weights are read by the steps. Raises ``ModelRefused`` or ``AssetError``."""
        from runner.models.lvlm.hub import fetch
        from runner.models.lvlm.loading import Lvlm

        if self.written is not None:
            folder, name = services.linked["written"], str(self.written).lstrip("$")
        elif self.name is not None:
            folder, name = fetch(self.name), self.name
        else:
            folder = services.resolve(str(self.path))
            name = str(self.path).removeprefix("asset:") if isinstance(self.path, AssetRef) else folder.name
        adapter = None if self.adapter is None else services.resolve(self.adapter)
        adapter = adapter if self.adapter_written is None else services.linked["adapter_written"]
        return Lvlm(
            folder, adapter=adapter, dtype=self.dtype, device=self.device or services.device, decoder=self.decoder,
            name=name, small=isinstance(self.path, AssetRef),
        )  # fmt: skip


@provider("lvlm_classifier")
class LvlmClassifierConfig(ModelConfig):
    """A vision-language model as a classifier: each label's likelihood as the reply to one question about the picture."""

    kind: ClassVar[type[ModelHandle]] = Classifier
    provider: Literal["lvlm_classifier"] = "lvlm_classifier"
    model: model_link(VisionLanguageModel) = Field(description="a vision-language model of this spec: $name")  # type: ignore[valid-type]
    question: str = Field(min_length=1, max_length=2000, description="what is asked about every picture")
    labels: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        min_length=2, description="replies among which it chooses, one for each output"
    )
    normalise: Literal["tokens", "none"] = Field(
        default="tokens", description="tokens: log-likelihood a token, so that long labels stand a chance"
    )

    @property
    def light(self) -> bool:
        """As light as its model."""
        return True

    def load(self, services: Services) -> Classifier:
        """Weights are read at the first picture. Raises ``ModelRefused``."""
        from runner.models.lvlm.classifier import LvlmClassifier

        return LvlmClassifier(services.linked["model"], self.question, self.labels, normalise=self.normalise)
