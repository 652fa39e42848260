"""Provider of classifiers of aligned faces: ``face_gender``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from runner.models.base import Classifier
from runner.models.registry import ModelConfig, Services, provider
from runner.references import InputPath
from runner.steps import ModelHandle


@provider("face_gender")
class FaceGender(ModelConfig):
    """Says female or male of a portrait whose face is aligned (FFHQ's way); a fixed window, no detector."""

    kind: ClassVar[type[ModelHandle]] = Classifier
    provider: Literal["face_gender"] = "face_gender"
    network: Literal["dlib_gender", "faceres", "gear"] = Field(description="which network the file holds")
    path: InputPath = Field(description="asset:face-gender-dlib, asset:faceres, asset:face-gear, or a local copy")
    threads: int | None = Field(default=None, ge=1, le=256, description="of onnxruntime; none = all cores")

    def identity(self) -> dict[str, Any]:
        """Everything but the threads."""
        return self.model_dump(mode="python", exclude={"threads"})

    def load(self, services: Services) -> Classifier:
        """Load and check. Raises ``ModelRefused`` or ``AssetError``."""
        from runner.models.classifier.checks import check_classifier
        from runner.models.faces.classifiers import NETWORKS

        classifier: Classifier = NETWORKS[self.network](services.resolve(self.path), threads=self.threads)
        check_classifier(classifier)
        return classifier
