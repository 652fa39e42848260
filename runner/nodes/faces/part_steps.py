"""Step ``faces.part_images``: generated faces with the parser's masks. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from runner.artifacts import PartImages
from runner.context import StepContext
from runner.data.datasets.specs import SPLITS, Fractions
from runner.data.parts.made_specs import DEALT
from runner.nodes.faces.steps import PARSER, Threads
from runner.references import InputPath
from runner.steps import Folder, step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runner.data.parts.building import MaskRow
    from runner.nodes.faces.part_masks import Labels

NAME = "generated-faces"
LICENCE = "drawn by a generator trained on FFHQ (non-commercial use); masks by a network trained on CelebAMask-HQ (non-commercial research)"
JPEG = (
    "attributes are measured in each part's own pixels and split at the median of the training pictures, unless a threshold "
    "is given (definitions of this project); masks are a network's, and edges of JPEG blocks carry a little of their surroundings"
)


@step("faces.part_images", version="1")
def part_images(
    ctx: StepContext,
    *,
    pictures: Annotated[Folder, Field(description="portraits, such as $people.pictures")],
    parser: InputPath = PARSER,
    split: Annotated[Fractions, Field(description="shares of the splits")] = DEALT,
    attributes: Annotated[
        list[str] | None, Field(min_length=1, description="such as 'hair: dark'; none = all that are measured")
    ] = None,
    thresholds: Annotated[
        dict[str, float], Field(description="where an attribute is split, by its name; default: the median in train")
    ] = {},  # noqa: B006
    seed: Annotated[int | None, Field(ge=0, description="none = the run's seed")] = None,
    thumbnails: Annotated[int, Field(ge=0, le=10_000, description="first pictures of each split shown")] = 24,
    threads: Threads = None,
) -> PartImages:
    """Faces with masks of hair, skin, brows, eyes, nose, mouth, ears, neck, clothes, glasses and hat, and what was measured in them.

    Attributes of different parts go together as they do in faces (skin and neck): natural correlation, which the two-stage
    reference separates from leakage.
    """
    from runner.assets import resolve
    from runner.nodes.faces.generator import NOTE
    from runner.nodes.faces.part_masks import ATTRIBUTES

    names = _known(attributes if attributes is not None else list(ATTRIBUTES), list(ATTRIBUTES))
    _known(list(thresholds), names)
    files = sorted(path for path in Path(pictures).iterdir() if path.is_file())
    splits = _splits([path.name for path in files], split, ctx.seed if seed is None else seed)
    ctx.warn(NOTE)
    return _made(ctx, files, splits, names, thresholds, resolve(parser), thumbnails, threads)


def _known(wanted: list[str], known: list[str]) -> list[str]:
    from runner.data.datasets.content import some
    from runner.errors import DataError

    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise DataError(f"nothing measures {some(unknown)}", hint=f"Attributes are {some(known, most=40)}.")
    return wanted


def _splits(names: list[str], fractions: Fractions, seed: int) -> dict[str, str]:
    from runner.data.parts.made_design import generator, spread

    shares = {split: share for split in SPLITS if (share := getattr(fractions, split)) > 0}
    dealt = spread([names], shares, generator(seed, "faces"))
    return {name: split for split, held in dealt.items() for name in held}


def _made(
    ctx: StepContext, files: list[Path], splits: dict[str, str], names: list[str], thresholds: dict[str, float],
    parser: Path, thumbnails: int, threads: int | None,
) -> PartImages:  # fmt: skip
    import hashlib

    import numpy as np

    from runner.context import item_key
    from runner.data.parts.building import mask_table
    from runner.data.parts.made_home import home
    from runner.nodes.faces.part_masks import FACE_PARTS, split_at

    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    found: list[NDArray[np.float64]] = []
    key = item_key("faces.part_images", [(path.name, digest) for path, digest in zip(files, digests, strict=True)])
    with home(ctx, "face-parts", key[:24]) as (draft, final):
        rows = _parsed(ctx, files, draft, names, parser, threads, found)
        masks = mask_table(rows, list(FACE_PARTS), [path.name for path in files])
    measures = np.stack(found) if found else np.zeros((0, len(names)))
    train = np.array([splits[path.name] == "train" for path in files], bool)
    labels = split_at(measures, names, train, thresholds)
    return _images(files, splits, names, labels, masks, final, thumbnails)


def _images(
    files: list[Path],
    splits: dict[str, str],
    names: list[str],
    labels: Labels,
    masks: Any,
    final: Path,
    thumbnails: int,
) -> PartImages:
    from runner.data.parts.building import part_images as built
    from runner.nodes.faces.generator import NOTE
    from runner.nodes.faces.part_masks import ATTRIBUTES, DEFINES_PRESENCE, FACE_PARTS

    listed = ", ".join(f"{name} {value:.4g}" for name, value in labels.thresholds.items())
    return built(
        name=NAME,
        object="face",
        parts=list(FACE_PARTS),
        attributes=names,
        owners={name: ATTRIBUTES[name].owner for name in names},
        pictures=[
            {"sample_id": path.name, "split": splits[path.name], "source_id": NAME, "uri": path.name} for path in files
        ],
        corpus=[{"folder": str(final), "name": NAME}],
        masks=masks,
        value=labels.value,
        valid=labels.valid,
        excluded={name: DEFINES_PRESENCE for name in names if ATTRIBUTES[name].presence},
        part_source="face parser",
        notes=[JPEG, f"thresholds: {listed}", NOTE],
        licence=LICENCE,
        thumbnails=thumbnails,
    )


def _parsed(
    ctx: StepContext, files: list[Path], folder: Path, names: list[str], parser: Path, threads: int | None,
    found: list[NDArray[np.float64]],
) -> Iterator[MaskRow]:  # fmt: skip
    """Masks of each picture; copies the picture and appends what was measured on the way."""
    import numpy as np

    from runner.data.images import decode
    from runner.data.parts.building import MaskRow
    from runner.data.parts.reading import OBJECT
    from runner.nodes.faces.part_labels import Parser
    from runner.nodes.faces.part_masks import measured, object_mask, part_masks, resized

    network = Parser(parser, threads)
    for row, path in enumerate(ctx.track(files, unit="images")):
        data = path.read_bytes()
        (folder / path.name).write_bytes(data)
        pixels = np.asarray(decode(data))
        labels = resized(network.labels(ctx, data), *pixels.shape[:2])
        found.append(measured(labels, pixels, names))
        yield MaskRow(row, OBJECT, object_mask(labels))
        for part, mask in part_masks(labels).items():
            yield MaskRow(row, part, mask)
