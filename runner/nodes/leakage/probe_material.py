"""Part vectors of one model and dataset as probes need them: rows of the splits, labels, owners, presence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from runner.artifacts import PartFeatures
from runner.errors import DataError

SINGLE, TWO_STAGE, SWAP = "single", "two_stage", "swap"
GLOBAL = "global"
_HELD_OUT = 10


@dataclass(frozen=True)
class Material:
    """One ``PartFeatures``. n pictures, S sources (the P parts first), A attributes; row numbers are int64.

    ``owned`` bool [P, A]: whether a part is an owner of an attribute; ``owner`` int64 [A]: the part whose averages it enters, -1 for
    attributes of no part or several, and excluded ones. ``allowed`` bool [n, A]: the label counts and a part it describes is there.
    ``present`` bool [n, S] by extractor: in it, and in both ``single`` and ``two_stage`` where there are both, so that these
    are probed on the same pictures. ``donors`` int64 [n] or None. ``groups`` int64 [n]: pictures of one number show one original and
    are no independent sample; None: pictures stand alone.
    """

    model: dict[str, Any]
    dataset: str
    parts: list[str]
    sources: list[str]
    attributes: list[str]
    owner_names: list[str]
    extractors: list[str]
    layers: list[int]
    sample_ids: list[str]
    train: Tensor
    val: Tensor
    test: Tensor
    value: Tensor
    valid: Tensor
    allowed: Tensor
    owned: Tensor
    owner: Tensor
    present: dict[str, Tensor]
    donors: Tensor | None
    groups: Tensor | None
    folder: Path

    @property
    def place(self) -> str:
        """How messages name it."""
        return f"{self.model['name']}, {self.dataset}"

    @property
    def n_groups(self) -> int | None:
        """Originals among the test pictures."""
        return None if self.groups is None else len(torch.unique(self.groups[self.test]))

    def vectors(self, extractor: str, layer: int) -> np.ndarray[Any, Any]:
        """[n, S, D], memory-mapped. Raises ``DataError`` where the file is missing or has another shape."""
        path = self.folder / extractor / f"L{layer}.npy"
        try:
            found: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.place}: the vectors {extractor}/L{layer}.npy cannot be read: {error}") from error
        if found.ndim != 3 or found.shape[:2] != (len(self.sample_ids), len(self.sources)):
            wanted = (len(self.sample_ids), len(self.sources), "width")
            raise DataError(f"{self.place}: {extractor}/L{layer}.npy has shape {found.shape}, {wanted} was expected")
        return found

    def rows(self, vectors: np.ndarray[Any, Any], rows: Tensor, source: int, what: str) -> Tensor:
        """Vectors of some rows, float64 [r, D]. Raises ``DataError`` naming the picture whose vector is not finite."""
        found = torch.from_numpy(np.asarray(vectors[rows.cpu().numpy(), source], np.float64)).to(rows.device)
        broken = (~found.isfinite().all(1)).nonzero().flatten()
        if len(broken):
            picture = self.sample_ids[int(rows[broken[0]])]
            raise DataError(
                f"{self.place}: the vector of {self.sources[source]} of {picture} is not finite in {what}",
                hint="it is marked as present; make the features again",
            )
        return found


def material(
    features: PartFeatures, rows: Literal["pairwise", "common"], held_out: bool, seed: int, device: str
) -> Material:
    """Read everything but the vectors. ``held_out``: without a val split, a seeded tenth of train becomes one: a tenth of
    its groups where there are groups.

    Raises ``DataError`` for owners that are no part, for labels of another size, and for an empty train or test split.
    """
    about = features.about
    parts, attributes = list(about["parts"]), list(about["attributes"])
    owned = torch.from_numpy(_owned(about, parts, attributes))
    sample_ids, splits = (
        [str(s) for s in features.rows["sample_id"].to_pylist()],
        np.asarray(features.rows["split"].to_pylist()),
    )
    value, valid = (torch.from_numpy(_labels(features, n, len(sample_ids))) for n in ("value", "valid"))
    names = [e["name"] for e in features.extractors]
    shared, present = _presence(features, names, len(sample_ids))
    groups = _groups(features, len(sample_ids))
    train, val, test = _splits(splits, f"{features.model['name']}, {about['dataset']}")
    if held_out and not len(val):
        train, val = _held_out(train, seed, groups)
    donors = features.present.get("swap_donor")
    rows_of = [t.to(device) for t in (train, val, test)]
    return Material(
        model=features.model,
        dataset=about["dataset"],
        parts=parts,
        sources=list(features.sources),
        attributes=attributes,
        owner_names=[_owner_name(about["owners"][a]) for a in attributes],
        extractors=names,
        layers=list(features.model["layers"]),
        sample_ids=sample_ids,
        train=rows_of[0],
        val=rows_of[1],
        test=rows_of[2],
        value=value.to(device),
        valid=valid.to(device),
        allowed=(valid & _owner_seen(shared, owned, rows)).to(device),
        owned=owned.to(device),
        owner=_owner(owned, attributes, about.get("excluded", {})).to(device),
        present={name: one.to(device) for name, one in present.items()},
        donors=None if donors is None else torch.from_numpy(np.asarray(donors, np.int64)).to(device),
        groups=None if groups is None else groups.to(device),
        folder=features.vectors,
    )


def _owner_name(owner: str | Sequence[str]) -> str:
    return owner if isinstance(owner, str) else "+".join(owner)


def _owned(about: dict[str, Any], parts: list[str], attributes: list[str]) -> np.ndarray[Any, Any]:
    owned = np.zeros((len(parts), len(attributes)), bool)
    for place, attribute in enumerate(attributes):
        owner = about["owners"].get(attribute)
        names = [owner] if isinstance(owner, str) else list(owner or [])
        unknown = [n for n in names if n not in parts and n != GLOBAL]
        if unknown or not names:
            raise DataError(f"{about['dataset']}: the attribute {attribute!r} is owned by {unknown or 'nothing'}")
        owned[[parts.index(n) for n in names if n != GLOBAL], place] = True
    return owned


def _owner(owned: Tensor, attributes: list[str], excluded: dict[str, str]) -> Tensor:
    single = owned.sum(0) == 1
    single &= torch.tensor([a not in excluded for a in attributes], dtype=torch.bool)
    return torch.where(single, owned.int().argmax(0) if len(owned) else 0, -1)


def _labels(features: PartFeatures, name: str, pictures: int) -> np.ndarray[Any, Any]:
    found = np.asarray(features.labels[name])
    wanted = (pictures, len(features.about["attributes"]))
    if found.shape != wanted:
        raise DataError(f"{features.about['dataset']}: labels {name} have shape {found.shape}, {wanted} was expected")
    return np.asarray(found != 0)


def _groups(features: PartFeatures, pictures: int) -> Tensor | None:
    found = features.labels.get("group")
    if found is None:
        return None
    if np.shape(found) != (pictures,):
        raise DataError(f"{features.about['dataset']}: groups have shape {np.shape(found)}, {(pictures,)} was expected")
    return torch.from_numpy(np.asarray(found, np.int64))


def _presence(features: PartFeatures, names: list[str], pictures: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Presence [n, S] that single and two_stage share, and that of each extractor within it."""
    wanted = (pictures, len(features.sources))
    found = {}
    for name in names:
        one = np.asarray(features.present[name]) != 0
        if one.shape != wanted:
            raise DataError(f"{features.about['dataset']}: presence of {name} has shape {one.shape}, not {wanted}")
        found[name] = torch.from_numpy(one)
    leading = [found[name] for name in (SINGLE, TWO_STAGE) if name in found] or [found[names[0]]]
    shared = torch.stack(leading).all(0)
    return shared, {name: one & shared for name, one in found.items()}


def _owner_seen(shared: Tensor, owned: Tensor, rows: Literal["pairwise", "common"]) -> Tensor:
    """Bool [n, A]: a part that the attribute describes is there (all parts for ``common``); always for global attributes."""
    there = shared[:, : len(owned)]
    if rows == "common":
        return there.all(1, keepdim=True).expand(-1, owned.shape[1])
    return (there.float() @ owned.float() > 0) | ~owned.any(0)


def _splits(splits: np.ndarray[Any, Any], place: str) -> tuple[Tensor, Tensor, Tensor]:
    train, val, test = (torch.from_numpy(np.flatnonzero(splits == name)) for name in ("train", "val", "test"))
    for name, rows in (("train", train), ("test", test)):
        if not len(rows):
            raise DataError(
                f"{place}: no picture is in the split {name}", hint="probes are fitted on train, scored on test"
            )
    return train, val, test


def _held_out(train: Tensor, seed: int, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """A tenth of the pictures, or of the groups where there are two, goes from train to val; both int64 in rising order."""
    whole = groups is not None and len(torch.unique(groups[train])) > 1
    numbers, of_picture = torch.unique(groups[train] if groups is not None and whole else train, return_inverse=True)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    taken = torch.zeros(len(numbers), dtype=torch.bool)
    taken[order[: max(1, len(numbers) // _HELD_OUT)]] = True
    return train[~taken[of_picture]], train[taken[of_picture]]
