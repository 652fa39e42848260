"""How a spec names a dataset with parts: ``{cub: ./data/CUB_200_2011}``, ``{manifest: ./mine, object: bird}``, ...

The key says the kind. Light: imported to validate a spec.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Tag, model_validator

from runner.data.datasets.specs import NAME, Fractions
from runner.keyed import keyed
from runner.references import InputPath

Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,100}$")]
PartSource = Literal["keypoint_voronoi", "keypoint_disc", "masks"]
LabelMode = Literal["image", "class", "class_112"]
DEALT = Fractions(train=0.7, val=0.1, test=0.2)


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("a name stands twice")
    return values


class PartDatasetModel(BaseModel):
    """What may be written of any dataset with parts."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    key: ClassVar[str]

    called: Annotated[
        Annotated[str, Field(pattern=NAME)] | None, Field(alias="as", description="name of the dataset in the results")
    ] = None
    owners: Annotated[
        Literal["default"] | InputPath,
        Field(description="YAML of attribute: part, [parts] or global; default: the table that comes with the loader"),
    ] = "default"
    exclude: Annotated[
        Literal["default"] | Annotated[list[Line], AfterValidator(_distinct)],
        Field(description="attributes that stay out of averages; default: those that the loader gives a reason for"),
    ] = "default"

    @property
    def title(self) -> str:
        """Name in the results."""
        return self.called or self.key


class CubParts(PartDatasetModel):
    """CUB-200-2011. It has keypoints, no part masks: they are made of keypoints and of the segmentations (a download of its own)."""

    key: ClassVar[str] = "cub"
    cub: Annotated[InputPath, Field(description="folder CUB_200_2011, or the one above it")]
    part_source: Annotated[
        PartSource, Field(description="how part masks come about; masks: read from the folder part_masks")
    ] = "keypoint_voronoi"
    voronoi_radius: Annotated[float, Field(gt=0, le=2, description="cut-off, in square roots of the box's area")] = 0.35
    disc_radius: Annotated[float, Field(gt=0, le=1, description="radius, in square roots of the box's area")] = 0.08
    segmentations: Annotated[
        InputPath | None, Field(description="folder of the bird masks; default: segmentations, in or beside the folder")
    ] = None
    foreground: Annotated[int, Field(ge=0, le=254, description="a pixel is bird where the segmentation is above")] = 0
    part_masks: Annotated[InputPath | None, Field(description="folder PART/CLASS/NAME.png, for part_source: masks")] = (
        None
    )
    label_mode: Annotated[
        LabelMode,
        Field(description="whose labels: each picture's, or its species' (every cue of the species then predicts all)"),
    ] = "image"
    min_certainty: Annotated[
        int, Field(ge=2, le=4, description="2 guessing, 3 probably, 4 definitely; below, a label is not valid")
    ] = 3

    @model_validator(mode="after")
    def _masked(self) -> CubParts:
        if (self.part_source == "masks") != (self.part_masks is not None):
            raise ValueError("part_source: masks and part_masks: FOLDER belong together")
        return self


class CelebaMaskParts(PartDatasetModel):
    """CelebAMask-HQ: 30,000 faces with masks of 18 parts and CelebA's 40 attributes."""

    key: ClassVar[str] = "celebamask_hq"
    celebamask_hq: Annotated[InputPath, Field(description="folder CelebAMask-HQ, with pictures, masks and text files")]
    celeba: Annotated[
        InputPath | None, Field(description="folder with CelebA's list_eval_partition.txt: its split then holds")
    ] = None
    fractions: Annotated[Fractions, Field(description="shares of the splits, where no partition file is there")] = DEALT


class PacoParts(PartDatasetModel):
    """PACO-LVIS: one class of objects; every box becomes a picture of its own."""

    key: ClassVar[str] = "paco_lvis"
    paco_lvis: Annotated[InputPath, Field(description="folder with paco_lvis_v1_train.json, _val and _test")]
    pictures: Annotated[InputPath | None, Field(description="folder with COCO's train2017 and val2017")] = None
    object: Annotated[Line, Field(description="class of objects, such as mug")]
    min_pictures: Annotated[
        int, Field(ge=1, description="annotated pictures of train that an attribute must hold in, and not hold in")
    ] = 10
    min_side: Annotated[int, Field(ge=1, description="boxes with a shorter side are left out")] = 32
    annotated_only: Annotated[bool, Field(description="leave out boxes without any attribute annotation")] = True


class PartImageNetParts(PartDatasetModel):
    """PartImageNet: masks of the parts of one super-category; there are no attributes."""

    key: ClassVar[str] = "partimagenet"
    partimagenet: Annotated[InputPath, Field(description="folder with annotations/{train,val,test}.json and images")]
    object: Annotated[Line, Field(description="super-category, such as Quadruped")]


class ManifestParts(PartDatasetModel):
    """Your own data: tables images, parts and attributes (parquet or csv) and owners.yaml in one folder."""

    key: ClassVar[str] = "manifest"
    manifest: Annotated[InputPath, Field(description="folder with the tables")]
    object: Annotated[Line, Field(description="what the pictures show, such as bird")] = "object"
    mask_resize: Annotated[
        Literal["none", "nearest"], Field(description="nearest: masks may have another size than their picture")
    ] = "none"
    swaps: Annotated[
        list[Annotated[list[Line], Field(min_length=2, max_length=2)]],
        Field(description="pairs of parts that a left-right flip exchanges"),
    ] = []
    licence: Annotated[Line | None, Field(description="of the pictures")] = None


AnyParts = CubParts | CelebaMaskParts | PacoParts | PartImageNetParts | ManifestParts
KINDS: dict[str, type[PartDatasetModel]] = {
    cls.key: cls for cls in (CubParts, CelebaMaskParts, PacoParts, PartImageNetParts, ManifestParts)
}


PartDatasetSpec = Annotated[
    Annotated[CubParts, Tag("parts cub")]
    | Annotated[CelebaMaskParts, Tag("parts celebamask_hq")]
    | Annotated[PacoParts, Tag("parts paco_lvis")]
    | Annotated[PartImageNetParts, Tag("parts partimagenet")]
    | Annotated[ManifestParts, Tag("parts manifest")],
    keyed("parts", KINDS, what="a dataset with parts is a mapping with one of the keys ", code="part_dataset_kind"),
]
"""One dataset with parts; the key decides the kind."""
