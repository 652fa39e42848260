"""The ten public datasets of the open-world protocol, as data. Light.

What stands below a dataset's ``root``:

- its pictures, in the folder that the archive unpacks to (``dtd/images``) or the last part of it (``images``);
- the split into train, val and test, either as CoOp publishes it (``split_zhou_NAME.json``:
  ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``) or as tables:
  ``split_coop.csv`` (``split,filename``), ``metadata.csv`` (``idx,folder_name,class_name``) and, where the picture's
  path does not tell its class, ``labels.csv`` (``filename,class_idx``). The tables win where both are there.
  Paths start at the folder of the pictures.
- Flowers-102 and DTD may also come with their makers' split (``official``), where none of the above is there.
- FGVC-Aircraft brings its own: ``variants.txt`` and ``images_variant_{train,val,test}.txt`` beside ``images``.

Groups, counts and rules: the open-world protocol (Conti et al., ICCV 2025); prompts: those customary with CLIP adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

KnownName = Literal[
    "caltech101", "sun397", "dtd", "eurosat", "ucf101", "flowers102", "food101", "oxford_pets", "stanford_cars",
    "fgvc_aircraft",
]  # fmt: skip

ClassKey = Literal["folder", "scene", "stem", "label_table", "variant"]
"""What says the class of a picture: its folder, SUN397's one or two folders, its name without the last ``_N``, a table,
or the lists of FGVC-Aircraft."""

SPLIT_TABLE, CLASS_TABLE, LABEL_TABLE = "split_coop.csv", "metadata.csv", "labels.csv"
COOP = "the dataset notes of CoOp (KaiyangZhou/CoOp, DATASETS.md)"


@dataclass(frozen=True)
class Known:
    """One public dataset.

    ``pictures``: folder of the pictures below the root ("" = the root itself), ``parts``: folders that must stand there;
    ``moved``: other names of first folders in split files. ``renames``, ``spaces`` (``_`` to space) and ``lower`` make
    the target text of a class name, in this order. ``left_out``: folders that the protocol does not use.
    """

    group: str
    pictures: str
    class_key: ClassKey
    template: str
    licence: str
    obtained_from: str
    split_file: str | None = None
    domain_noun: str | None = None
    spaces: bool = False
    lower: bool = False
    parts: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


PROTOTYPICAL, NON_PROTOTYPICAL = "prototypical", "non-prototypical"
FINE, VERY_FINE = "fine-grained", "very fine-grained"
RESEARCH = "research and non-commercial use"
NO_LICENCE = "none stated; the pictures belong to their photographers"

KNOWN: Mapping[str, Known] = {
    "caltech101": Known(
        group=PROTOTYPICAL,
        pictures="101_ObjectCategories",
        class_key="folder",
        template="a photo of a {}.",
        licence="CC-BY-4.0",
        obtained_from="CaltechDATA, record Caltech 101 (101_ObjectCategories.tar.gz)",
        split_file="split_zhou_Caltech101.json",
        spaces=True,
        renames={"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike", "airplanes": "airplane"},
        left_out=("BACKGROUND_Google", "Faces_easy"),
    ),
    "sun397": Known(
        group=PROTOTYPICAL,
        pictures="SUN397",
        class_key="scene",
        template="a photo of a {}.",
        licence=RESEARCH,
        obtained_from="the SUN database of Princeton and MIT (SUN397.tar.gz)",
        split_file="split_zhou_SUN397.json",
        spaces=True,
    ),
    "dtd": Known(
        group=NON_PROTOTYPICAL,
        pictures="dtd/images",
        class_key="folder",
        template="{} texture.",
        licence=RESEARCH,
        obtained_from="the Describable Textures page of the VGG group in Oxford (dtd-r1.0.1.tar.gz)",
        split_file="split_zhou_DescribableTextures.json",
        domain_noun="texture",
    ),
    "eurosat": Known(
        group=NON_PROTOTYPICAL,
        pictures="2750",
        class_key="folder",
        template="a centered satellite photo of {}.",
        licence="MIT",
        obtained_from="the EuroSAT repository (phelber/EuroSAT, EuroSAT.zip, RGB)",
        split_file="split_zhou_EuroSAT.json",
        lower=True,
        renames={
            "AnnualCrop": "Annual Crop Land",
            "HerbaceousVegetation": "Herbaceous Vegetation Land",
            "Highway": "Highway or Road",
            "Industrial": "Industrial Buildings",
            "Pasture": "Pasture Land",
            "PermanentCrop": "Permanent Crop Land",
            "Residential": "Residential Buildings",
            "SeaLake": "Sea or Lake",
        },
    ),
    "ucf101": Known(
        group=NON_PROTOTYPICAL,
        pictures="UCF-101-midframes",
        class_key="folder",
        template="a photo of a person doing {}.",
        licence=RESEARCH,
        obtained_from=f"the middle frames that {COOP} lead to (UCF-101-midframes.zip); clips: CRCV, UCF",
        split_file="split_zhou_UCF101.json",
        spaces=True,
        lower=True,
    ),
    "flowers102": Known(
        group=FINE,
        pictures="jpg",
        class_key="label_table",
        template="a photo of a {}, a type of flower.",
        licence=NO_LICENCE,
        obtained_from="the 102 Flowers page of the VGG group in Oxford (102flowers.tgz)",
        split_file="split_zhou_OxfordFlowers.json",
        domain_noun="flower",
    ),
    "food101": Known(
        group=FINE,
        pictures="food-101/images",
        class_key="folder",
        template="a photo of {}, a type of food.",
        licence=NO_LICENCE,
        obtained_from="the Food-101 page of the Computer Vision Lab, ETH Zurich (food-101.tar.gz)",
        split_file="split_zhou_Food101.json",
        domain_noun="food",
        spaces=True,
    ),
    "oxford_pets": Known(
        group=FINE,
        pictures="images",
        class_key="stem",
        template="a photo of a {}, a type of pet.",
        licence="CC-BY-SA-4.0",
        obtained_from="the Oxford-IIIT Pet page of the VGG group in Oxford (images.tar.gz)",
        split_file="split_zhou_OxfordPets.json",
        domain_noun="pet",
        spaces=True,
        lower=True,
    ),
    "stanford_cars": Known(
        group=VERY_FINE,
        pictures="",
        class_key="label_table",
        template="a photo of a {}.",
        licence=RESEARCH,
        obtained_from="a copy that you have (cars_train.tgz, cars_test.tgz): the first host is gone",
        split_file="split_zhou_StanfordCars.json",
        domain_noun="car",
        parts=("cars_train", "cars_test"),
        moved={"train": "cars_train", "test": "cars_test"},
    ),
    "fgvc_aircraft": Known(
        group=VERY_FINE,
        pictures="fgvc-aircraft-2013b/data",
        class_key="variant",
        template="a photo of a {}, a type of aircraft.",
        licence=RESEARCH,
        obtained_from="the FGVC-Aircraft page of the VGG group in Oxford (fgvc-aircraft-2013b.tar.gz)",
        domain_noun="aircraft",
        parts=("images",),
    ),
}
