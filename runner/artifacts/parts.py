"""Parts of objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from runner.artifacts.classification import Datasets
from runner.steps import Arrays, Artifact, Folder, Rows, Table


@dataclass(frozen=True)
class PartImages(Datasets):
    """One dataset whose pictures carry masks of parts, and attributes that each belong to a part.

    ``about``: ``{"dataset", "object", "parts": [names in order], "attributes": [names in order], "owners": {attribute: part or
    "global" or [parts]}, "excluded": {attribute: why it stays out of averages}, "swaps": [[part, part] that a flip exchanges],
    "part_source", "label_mode", "mask_resize": "none" or "nearest", "notes": [...]}``: with ``none`` a mask must have its picture's size; and ``"exact_masks": true`` where no pixel of a part tells of what lies outside it. ``images``: as in ``Datasets``; everything else goes by its row numbers.
    ``masks``: ``row`` int32, ``part`` int32 (index into ``parts``; -1: the whole object), ``height``, ``width`` int32, ``runs``
    binary (``runner.data.parts.rle``; NULL where there is a keypoint only), ``keypoint_x``, ``keypoint_y`` float32 (pixels, NULL
    without), ``visible`` bool. Parts that a picture does not show have no row, or one with ``visible`` false.
    ``labels``: ``value`` uint8 [n, A] (0 or 1) and ``valid`` uint8 [n, A] (0: not annotated or not certain; value then 0); where
    several pictures show one original (a drawing, a person), also ``group`` int32 [n]: its number; they are resampled together.
    """

    about: dict[str, Any]
    masks: Table
    labels: Arrays
    attributes: Annotated[Table, Rows("part_attribute")]


@dataclass(frozen=True)
class PartFeatures(Artifact):
    """Vectors of parts by layer, never token maps.

    ``model``: ``{"name", "family", "identity", "kind_of_layers", "depth", "layers": [numbers kept], "image_size", "patch_sizes",
    "prefix_tokens", "random_init", "small", "notes"}``; ``about`` as in ``PartImages``; ``settings``: pooling, norm, two-stage mode,
    rules. ``extractors``: ``{"name", "what", "leak_free"}`` in order (``single``, ``two_stage``, controls). ``sources``: the parts in
    order, then ``whole`` and ``background`` where asked. ``vectors``: ``<extractor>/L<layer>.npy``, float16 or float32
    [n, sources, D], NaN where the source is absent. ``present``: ``<extractor>`` uint8 [n, sources]; ``swap_donor`` int64 [n]: the row
    whose picture surrounds the part in the extractor ``swap``, -1 for none. ``rows``: ``sample_id``, ``split``, in the order of all arrays.
    ``labels`` as in ``PartImages``.
    """

    model: dict[str, Any]
    about: dict[str, Any]
    settings: dict[str, Any]
    extractors: list[dict[str, Any]]
    sources: list[str]
    vectors: Folder
    present: Arrays
    labels: Arrays
    rows: Table
    parts: Annotated[Table, Rows("leak_parts")]
    pictures: Annotated[Table, Rows("leak_picture")]


@dataclass(frozen=True)
class MaskedPictures(Artifact):
    """Pictures as they are and with one part hidden. ``about`` as in ``PartImages``. ``pictures``: a folder of PNGs.

    ``views``: ``sample_id``, ``masked_part`` (NULL: as it is), ``draw`` int32 (-1 for pictures as they are), ``uri`` (file in
    ``pictures``). ``truth``: ``sample_id``, ``attribute``, ``value`` (uint8) of valid labels. ``visible``: ``sample_id``, ``part``,
    ``masked_part``, ``draw``, ``group``: the picture was drawn for the concepts of ``part`` while ``masked_part`` is hidden (both are
    visible); ``group`` int32: number of its original (``PartImages.labels``), NULL where pictures stand alone.
    """

    about: dict[str, Any]
    settings: dict[str, Any]
    pictures: Folder
    views: Table
    truth: Table
    visible: Table


@dataclass(frozen=True)
class ConceptAnswers(Artifact):
    """What a concept predictor says of masked pictures. ``predictor``: ``{"name", "identity", "kind"}`` with kind ``classifier``,
    ``zero-shot`` or ``chat``; ``about``, ``settings``, ``visible`` and ``truth`` are those of the pictures."""

    about: dict[str, Any]
    settings: dict[str, Any]
    predictor: dict[str, Any]
    answers: Annotated[Table, Rows("leak_masked_answer")]
    visible: Table
    truth: Table
