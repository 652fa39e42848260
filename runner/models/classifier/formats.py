"""Every model format the loader knows: which are loaded, and why the others are refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.errors import ModelRefused
from runner.models.classifier.sniff import Finding


@dataclass(frozen=True)
class Format:
    """One format: its ``title`` in messages; ``refusal`` and ``advice`` where it is not loaded.

    ``opt_in``: whether `trust: code` with the file's SHA-256 lets it run in a confined process.
    """

    title: str
    refusal: str = ""
    advice: str = ""
    opt_in: bool = False

    @property
    def loaded(self) -> bool:
        """Whether the loader takes it."""
        return not self.refusal


_CONVERT = "Ask its author for safetensors or ONNX, or take its weights out with `runner convert`."
_EXPORT = "Export it to ONNX, or save its weights as safetensors, where you trust it to run."
_RUNS_CODE = "reading it runs whatever code its author put in"

FORMATS: dict[str, Format] = {
    "huggingface": Format("a Hugging Face image-classification folder"),
    "timm": Format("a timm model folder"),
    "safetensors": Format("a safetensors file"),
    "state_dict": Format("a PyTorch state dict"),
    "onnx": Format("an ONNX model"),
    "pickled_module": Format("a pickled PyTorch object with its own classes", _RUNS_CODE, _CONVERT, opt_in=True),
    "pickle": Format("a Python pickle (joblib, scikit-learn, fastai, Lightning, ...)", _RUNS_CODE, _CONVERT, opt_in=True),
    "torchscript": Format(
        "a TorchScript archive", "its graph is a program that can read any file of yours", _EXPORT, opt_in=True
    ),
    "pt2": Format(
        "a torch.export archive", "reading it falls back to unrestricted unpickling of its sample inputs", _EXPORT, opt_in=True
    ),
    "keras": Format("a Keras archive"),
    "keras_h5": Format("a Keras HDF5 file"),
    "runner_model": Format("a model folder that `runner convert` wrote"),
    "tensorflow": Format("a TensorFlow SavedModel", "its graph is a program that can read and write files", _EXPORT),
    "tflite": Format("a TensorFlow Lite model", "there is no loader for it", "Convert it to ONNX."),
    "tfjs": Format("a TensorFlow.js model", "there is no loader for it", "Convert it to ONNX."),
    "openvino": Format("an OpenVINO model", "there is no loader for it", "Convert it to ONNX."),
    "executorch": Format("an ExecuTorch program", "there is no loader for it", "Export it to ONNX."),
    "gguf": Format("a GGUF file", "it holds a language model, not an image classifier", "Name an image classifier."),
    "numpy": Format("NumPy arrays", "arrays without names of layers are no classifier", "Save them as safetensors."),
    "compressed": Format(
        "a compressed file", "what it holds cannot be judged (joblib pickles look like this)", "Unpack it first."
    ),
    "tar": Format("a tar archive", "what it holds cannot be judged", "Unpack it first."),
    "zip": Format("a zip archive", "it is no model format that is known", "Unpack it first, or name the model in it."),
    "unknown": Format(
        "of no known format",
        "it matches no model format that is known",
        "Expected: a Hugging Face or timm folder, safetensors, a PyTorch state dict, ONNX, or Keras.",
    ),
}  # fmt: skip

LOADED = tuple(name for name, entry in FORMATS.items() if entry.loaded)


def admit(path: Path, found: Finding, declared: str, *, opted_in: bool = False) -> str:
    """The format to load ``path`` as. Raises ``ModelRefused`` for formats that are not loaded, or not the declared."""
    entry = FORMATS[found.format]
    if not entry.loaded and not (opted_in and entry.opt_in):
        raise ModelRefused(
            f"{path}: refused: this is {entry.title} ({found.detail}), and {entry.refusal}.", hint=entry.advice
        )
    if declared not in ("auto", found.format):
        raise ModelRefused(
            f"{path}: the spec declares the format {declared!r}, but this is {entry.title} ({found.detail}).",
            hint=f"Write `format: {found.format}`, or leave it out.",
        )
    return found.format
