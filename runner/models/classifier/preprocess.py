"""From a picture to a classifier's input: one declarative description, one numpy and Pillow implementation.

Descriptions are read from the model's own files (``preprocessor_config.json``, timm's ``pretrained_cfg``) or written
in the spec (``PreprocessSpec``). Files are read as data; no processor class of theirs is ever run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from runner.errors import ModelRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    FloatArray = NDArray[np.float32]

Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""In the order of Pillow's numeric codes, which processor files store."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop, scale, normalise. Sizes are (height, width) in pixels.

    ``shortest``: scale so that the shorter side has this length; ``exact``: or stretch to this size; ``crop``: then cut
    this from the centre (black where the picture is smaller). Pixels in 0..255 become ``pixel * scale + offset``, then
    ``(x - mean) / std`` per channel in the order of ``channels``.
    """

    shortest: int | None = None
    exact: Size | None = None
    crop: Size | None = None
    interpolation: Interpolation = "bicubic"
    scale: float = 1 / 255
    offset: float = 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["chw", "hwc"] = "chw"

    def __post_init__(self) -> None:
        if self.crop is None and self.exact is None:
            raise ModelRefused(
                "preprocessing leaves pictures of different sizes, so they cannot stand in one batch",
                hint="Give `preprocess: {size: ...}`.",
            )
        if not all(s > 0 for s in self.std) or {len(self.mean), len(self.std)} - {1, 1 if self.gray else 3}:
            raise ModelRefused(
                f"preprocessing: mean {self.mean} and std {self.std} do not fit {self.channels} pictures"
            )

    @property
    def gray(self) -> bool:
        """Whether the input has one channel."""
        return self.channels == "gray"

    @property
    def size(self) -> Size:
        """Height and width of the result."""
        size = self.crop or self.exact
        assert size is not None
        return size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the result."""
        depth = 1 if self.gray else 3
        return (depth, *self.size) if self.layout == "chw" else (*self.size, depth)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for identities and messages."""
        return asdict(self)

    def __call__(self, image: Image) -> FloatArray:
        """Preprocess one picture to float32 of ``shape``; modes other than RGB are converted."""
        import numpy as np

        image = image.convert("L" if self.gray else "RGB")
        pixels: Any = np.asarray(_crop(self._resize(image), self.crop), np.float32)
        pixels = pixels[..., None] if self.gray else pixels
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        pixels = pixels * np.float32(self.scale) + np.float32(self.offset)
        pixels = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if self.layout == "chw" else pixels)

    def _resize(self, image: Image) -> Image:
        width, height = image.size
        if self.exact is not None:
            target = (self.exact[1], self.exact[0])
        elif self.shortest is not None:
            short, long = min(width, height), max(width, height)
            longer = max(1, self.shortest * long // short)
            target = (self.shortest, longer) if width <= height else (longer, self.shortest)
        else:
            return image
        return image if target == image.size else image.resize(target, INTERPOLATIONS.index(self.interpolation))


def _crop(image: Image, size: Size | None) -> Image:
    """Cut (height, width) from the centre, the way torchvision rounds; Pillow fills with black outside."""
    if size is None or (size[1], size[0]) == image.size:
        return image
    left = _middle(image.width, size[1])
    top = _middle(image.height, size[0])
    return image.crop((left, top, left + size[1], top + size[0]))


def _middle(have: int, want: int) -> int:
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


class PreprocessSpec(BaseModel):
    """Preprocessing written in a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int | Size = Field(description="input size in pixels: one side, or [height, width]")
    crop: float | Literal["none"] = Field(
        default=1.0, description="share of the scaled picture that the centre crop keeps; none = stretch to size"
    )
    mean: float | list[float] = Field(default=0.0, description="per channel, after `range`")
    std: float | list[float] = Field(default=1.0, description="per channel, after `range`")
    range: tuple[float, float] = Field(
        default=(0.0, 1.0), description="what black and white become before mean and std"
    )
    interpolation: Interpolation = "bicubic"
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["chw", "hwc"] = "chw"

    @field_validator("crop")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError("crop is a share between 0 and 1, such as 0.875")
        return value

    @field_validator("size")
    @classmethod
    def _positive(cls, value: int | Size) -> int | Size:
        if not all(1 <= side <= 4096 for side in _pair(value)):
            raise ValueError("size is given in pixels, 1 to 4096")
        return value

    def build(self) -> Preprocess:
        """The preprocessing that this describes. Raises ``ModelRefused`` where it cannot be carried out."""
        low, high = self.range
        return Preprocess(
            **_fit(_pair(self.size), None if self.crop == "none" else float(self.crop)),
            interpolation=self.interpolation,
            scale=(high - low) / 255,
            offset=low,
            mean=_channels(self.mean),
            std=_channels(self.std),
            channels=self.channels,
            layout=self.layout,
        )


def _pair(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else size


def _channels(value: float | list[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, int | float) else tuple(float(v) for v in value)


def _fit(size: Size, share: float | None) -> dict[str, Any]:
    """How to reach ``size``: centre crop of a scaled picture, or stretched (``share`` None)."""
    if share is None:
        return {"exact": size}
    scaled = [math.floor(side / share) for side in size]
    if size[0] == size[1]:
        return {"shortest": scaled[0], "crop": size}
    return {"shortest": max(scaled), "crop": size}


def from_timm(config: dict[str, Any]) -> Preprocess:
    """Evaluation preprocessing of a timm ``pretrained_cfg`` (``input_size``, ``crop_pct``, ``mean``, ...)."""
    try:
        depth, height, width = (int(v) for v in config["input_size"])
        mode = config.get("crop_mode") or "center"
        if mode not in ("center", "squash"):
            raise ValueError(f"crop_mode {mode!r} is not known")
        fit = _fit((height, width), float(config.get("crop_pct") or 0.875))
        if mode == "squash":
            fit = {"exact": (fit["shortest"],) * 2, "crop": (height, width)}
        return Preprocess(
            **fit,
            interpolation=_interpolation(config.get("interpolation") or "bilinear"),
            mean=_channels(config["mean"]),
            std=_channels(config["std"]),
            channels="gray" if depth == 1 else "rgb",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable("pretrained_cfg", error) from error


def from_huggingface(config: dict[str, Any]) -> Preprocess:
    """Preprocessing of a ``preprocessor_config.json``; unknown switches and missing numbers are refused."""
    try:
        _refuse_unknown_switches(config)
        mean: tuple[float, ...] = (0.0,)
        std: tuple[float, ...] = (1.0,)
        if config.get("do_normalize", True):
            mean, std = _channels(config["image_mean"]), _channels(config["image_std"])
        if config.get("include_top"):  # EfficientNet's processor divides by the deviation twice
            std = tuple(s * s for s in std)
        return Preprocess(
            **_huggingface_fit(config),
            interpolation=_interpolation(config["resample"]) if config.get("do_resize", True) else "bilinear",
            scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            mean=mean,
            std=std,
            channels="bgr" if config.get("do_flip_channel_order") else "rgb",
        )
    except (LookupError, TypeError, ValueError) as error:
        raise _unreadable("preprocessor_config.json", error) from error


_KNOWN_SWITCHES = {
    "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order",
    "include_top", "do_reduce_labels",
}  # fmt: skip


def _refuse_unknown_switches(config: dict[str, Any]) -> None:
    switches = {k for k, v in config.items() if v is True and (k.startswith("do_") or k == "rescale_offset")}
    unknown = sorted(switches - _KNOWN_SWITCHES)
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not known here")


def _huggingface_fit(config: dict[str, Any]) -> dict[str, Any]:
    size = config.get("size", {})
    size = {"shortest_edge": size} if isinstance(size, int) and config.get("do_center_crop") else size
    shortest, exact = _edge(size, "shortest_edge"), _exact(size)
    crop_share = config.get("crop_pct")
    if crop_share and shortest and config.get("do_resize", True):  # ConvNeXt: crop small inputs, stretch large ones
        square = (shortest, shortest)
        return {"exact": square} if shortest >= 384 else {"shortest": int(shortest / crop_share), "crop": square}
    fit: dict[str, Any] = {}
    if config.get("do_resize", True):
        fit = {"shortest": shortest} if shortest else {"exact": exact}
    if config.get("do_center_crop"):
        fit["crop"] = _exact(config["crop_size"])
    return fit


def _edge(size: Any, name: str) -> int | None:
    return int(size[name]) if isinstance(size, dict) and name in size else None


def _exact(size: Any) -> Size | None:
    if isinstance(size, int):
        return (size, size)
    return (int(size["height"]), int(size["width"])) if isinstance(size, dict) and "height" in size else None


def _interpolation(value: Any) -> Interpolation:
    if isinstance(value, str):
        for name in INTERPOLATIONS:
            if name == value.lower():
                return name
        raise ValueError(f"interpolation {value!r} is not known")
    return INTERPOLATIONS[int(value)]


def _unreadable(name: str, error: Exception) -> ModelRefused:
    return ModelRefused(
        f"{name}: preprocessing cannot be read ({type(error).__name__}: {error})",
        hint="Write it in the spec: preprocess: {size: 224, crop: 0.875, mean: [...], std: [...]}.",
    )
