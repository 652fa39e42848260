"""Text inclusion: whether the name of the true class stands in an answer. Shared by closed- and open-world scoring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def text_inclusion(references: Sequence[str], predictions: Sequence[str | None]) -> NDArray[np.bool_]:
    """Whether ``lower(strip(reference))`` is a contiguous substring of ``lower(strip(prediction))``; bool [n].

    No word boundaries and no punctuation rules: "crab" is included in "hermit crab". A missing prediction (None) includes
    nothing. Source: open-world classification (arXiv 2503.21851), "text inclusion". Raises ValueError where the numbers
    of references and predictions differ.
    """
    same_length(references, predictions)
    pairs = zip(references, predictions, strict=True)
    hits = (p is not None and r.strip().lower() in p.strip().lower() for r, p in pairs)
    return np.fromiter(hits, np.bool_, len(references))


def same_length(references: Sequence[object], predictions: Sequence[object]) -> None:
    """Raise ValueError unless there is one prediction a reference."""
    if len(references) != len(predictions):
        raise ValueError(f"{len(references)} references but {len(predictions)} predictions: there must be one for each")
