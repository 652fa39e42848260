"""``PartFeatures`` from arrays, as ``leakage.features`` leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from results.tables import arrow_table
from runner.artifacts import PartFeatures
from runner.data.parts.planted import PARTS, masks, planted
from runner.models.backbones.timm_vit import planted_vit
from runner.nodes.leakage.features import single_stage, two_stage


def part_features(
    folder: Path,
    vectors: dict[str, dict[int, np.ndarray]],
    value: np.ndarray,
    split: list[str],
    *,
    parts: list[str],
    sources: list[str] | None = None,
    owners: dict[str, object] | None = None,
    valid: np.ndarray | None = None,
    donors: np.ndarray | None = None,
    excluded: dict[str, str] | None = None,
    model: str = "tiny",
    dataset: str = "made",
) -> PartFeatures:
    """``vectors``: [n, S, D] by extractor and layer, NaN where absent; attribute k belongs to part k unless ``owners`` say else."""
    folder = folder / model / dataset
    present = {}
    for name, by_layer in vectors.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for layer, array in by_layer.items():
            np.save(folder / name / f"L{layer}.npy", array.astype(np.float32))
            present[name] = np.isfinite(array).all(-1).astype(np.uint8)
    if donors is not None:
        present["swap_donor"] = donors.astype(np.int64)
    names = [f"{part} bit" for part in parts] if owners is None else list(owners)
    layers = sorted(next(iter(vectors.values())))
    about = {"dataset": dataset, "object": "thing", "parts": parts, "attributes": names, "swaps": [], "notes": []}
    about |= {"owners": owners or dict(zip(names, parts, strict=True)), "excluded": excluded or {}}
    facts = {
        "name": model,
        "identity": model,
        "layers": layers,
        "depth": layers[-1],
        "small": True,
        "random_init": True,
    }
    valid = np.ones_like(value) if valid is None else valid
    ids = [f"picture-{i}" for i in range(len(value))]
    return PartFeatures(
        model=facts,
        about=about,
        settings={},
        extractors=[{"name": n, "what": n, "leak_free": n == "two_stage"} for n in vectors],
        sources=sources or parts,
        vectors=folder,
        present=present,
        labels={"value": value.astype(np.uint8), "valid": valid.astype(np.uint8)},
        rows=pa.table({"sample_id": ids, "split": split}),
        parts=arrow_table("leak_parts", []),
        pictures=arrow_table("leak_picture", []),
    )


def planted_features(
    folder: Path, correlation: float, *, pictures: int = 1200, layers: tuple[int, ...] = (0, 1, 4)
) -> PartFeatures:
    """Quadrants with one bit each, through an untrained vision transformer, single- and two-stage."""
    made, backbone = planted(pictures, correlation, 64, 0.7, 0), planted_vit()
    pixels = torch.from_numpy(made.pictures).permute(0, 3, 1, 2).float() / 255
    regions = torch.from_numpy(masks(64))
    found: dict[str, list[torch.Tensor]] = {"single": [], "two_stage": []}
    with torch.inference_mode():
        for some in torch.split(pixels, 100):
            here = regions.expand(len(some), -1, -1, -1)
            found["single"].append(single_stage(backbone, some, here, layers=layers))
            found["two_stage"].append(two_stage(backbone, some, here, "packed", layers=layers))
    vectors = {name: torch.cat(chunks, 1).numpy() for name, chunks in found.items()}
    by_layer = {name: dict(zip(layers, array, strict=True)) for name, array in vectors.items()}
    split = ["train" if train else "test" for train in made.train]
    return part_features(folder, by_layer, made.bits, split, parts=list(PARTS), dataset=f"planted-{correlation}")
