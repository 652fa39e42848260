"""Pictures that a singular direction retrieves, and how well its concepts fit them. Ours: the published code lacks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from runner.artifacts import Datasets, HeadConcepts, HeadDirections, ImageFeatures
from runner.errors import DataError
from runner.nodes.sith.coding_rows import TensorRows
from runner.nodes.sith.coding_search import Backend, Search
from runner.nodes.sith.dictionary_making import Dictionary
from runner.nodes.sith.explaining import Targets
from runner.nodes.sith.weights import unit

Row = dict[str, Any]


def retrieved(
    directions: Tensor, mu: Tensor, images: Tensor, n: int, backend: Backend = "gemm"
) -> tuple[Tensor, Tensor]:
    """The ``n`` unit image embeddings [N, d] nearest to each direction [B, d] with the image mean [d] added back.

    Gives rows int64 [B, n] and cosines float64 [B, n], best first. Raises ValueError unless 1 <= n <= N.
    """
    if not 1 <= n <= len(images):
        raise ValueError(f"n must be from 1 to the {len(images)} pictures, not {n}")
    queries = unit(directions.double() + mu.double())
    found = Search(TensorRows(unit(images)), backend=backend).top(queries, n)
    return found.atoms, found.scores


def grounding_rows(
    directions: HeadDirections,
    targets: Targets,
    features: ImageFeatures,
    images: Datasets | None,
    concepts: tuple[HeadConcepts, Dictionary] | None,
    n: int,
    backend: Backend,
) -> Iterator[Row]:
    """Rows of ``sith_grounding``."""
    embeddings, rows = torch.from_numpy(features.features["features"]), features.rows.to_pylist()
    if not torch.isfinite(embeddings).all():
        raise DataError("the features contain NaN or infinity", hint="Make them again with classify.features.")
    mu = torch.from_numpy(directions.arrays["mu"])
    pictures, scores = retrieved(targets.joint, mu, embeddings, min(n, len(rows)), backend)
    where = _places(images)
    lists = None if concepts is None else main_lists(*concepts)
    for i, place in enumerate(targets.places):
        fits = _fits(lists, place, concepts, embeddings[pictures[i]])
        for rank, (at, score) in enumerate(zip(pictures[i].tolist(), scores[i].tolist(), strict=True)):
            own = rows[at]
            source_id, uri = where.get((own["dataset"], own["sample_id"]), (None, None))
            yield {
                "layer": place[0], "head": place[1], "sv": place[2], "side": place[3], "rank": rank,
                "dataset": own["dataset"], "sample_id": own["sample_id"], "source_id": source_id, "uri": uri,
                "score": score, "concept_score": None if fits is None else fits[rank],
            }  # fmt: skip


def _places(images: Datasets | None) -> dict[tuple[str, str], tuple[str, str]]:
    if images is None:
        return {}
    rows = images.images.select(["dataset", "sample_id", "source_id", "uri"]).to_pylist()
    return {(row["dataset"], row["sample_id"]): (row["source_id"], row["uri"]) for row in rows}


def main_lists(concepts: HeadConcepts, dictionary: Dictionary) -> dict[tuple[Any, ...], list[int]]:
    """Lines of the active concepts of each direction (layer, head, sv, side, sign) in the setting named ``main``.

    Raises ``DataError`` where the codes are of another dictionary.
    """
    main: Mapping[str, Any] = concepts.settings["main"]
    lists: dict[tuple[Any, ...], list[int]] = {}
    for row in concepts.concepts.to_pylist():
        if all(row[name] == value for name, value in main.items()) and row["coef"] > 0:
            if row["atom"] >= len(dictionary.texts) or dictionary.texts[row["atom"]] != row["concept"]:
                raise DataError("the concepts were picked from another dictionary than the one given")
            lists.setdefault(tuple(row[k] for k in ("layer", "head", "sv", "side", "sign")), []).append(row["atom"])
    return lists


def _fits(
    lists: dict[tuple[Any, ...], list[int]] | None,
    place: tuple[Any, ...],
    concepts: tuple[HeadConcepts, Dictionary] | None,
    images: Tensor,
) -> list[float] | None:
    """Mean cosine of each picture with the concepts of a direction; None where it has none."""
    if lists is None or concepts is None or place not in lists:
        return None
    atoms = unit(concepts[1].raw[lists[place]].float())
    fits: list[float] = (unit(images) @ atoms.mT).mean(1).tolist()
    return fits
