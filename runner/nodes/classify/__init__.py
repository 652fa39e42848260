"""Contrastive classification: zero-shot, Tip-Adapter, nearest neighbours, CaSED and text retrieval.

The pure functions are found here by name; importing the package loads no numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "cache_model": "tip_adapter",
    "tip_logits": "tip_adapter",
    "search_alpha_beta": "tip_adapter",
    "knn_vote": "knn",
    "cased_scores": "cased",
}

__all__ = ["cache_model", "cased_scores", "knn_vote", "search_alpha_beta", "tip_logits"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
