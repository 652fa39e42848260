"""Assess every draw of the proposals with the rules of the audit, from the predictions that were made for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.artifacts import RetrievedImages, Verdicts
from runner.data.places import Place
from runner.models.base import SentenceEncoder
from runner.nodes.bias.assess import Rules, assess_groups
from runner.nodes.bias.audit import kept_rows, right_in
from runner.nodes.bias.members import count_groups, group_names, members_of
from runner.nodes.bias.stability import Cosines, same_names

Row = dict[str, Any]


def assess_draws(images: RetrievedImages, verdicts: Verdicts) -> list[list[Row]]:
    """Rows of ``c2b_group`` per draw; the first are those of the audit itself.

    The further draws are judged by the fixed rule on every picture of theirs, also where the audit sampled adaptively.
    """
    captions = images.captions.to_pylist()
    members = members_of(captions, kept_rows(images))
    predicted = verdicts.predictions.to_pylist()
    is_right = right_in({(row["target"], Place(row["source_id"], row["uri"])): row for row in predicted})
    rules = Rules(**{f.name: verdicts.settings[f.name] for f in fields(Rules)})
    draws = [[g for g in verdicts.groups.to_pylist() if g["value_source"] == "caption"]]
    for resample in sorted({c["resample"] for c in captions} - {0}):
        names = group_names(c for c in captions if c["resample"] == resample)
        own = [m for m in members if m.resample == resample]
        draws.append(assess_groups(count_groups(names, own, is_right), rules).groups)
    return draws


def cosines_of(sentences: SentenceEncoder | None) -> Cosines:
    """Similarity of two lists of texts by sentence embeddings, or by equality of names without an encoder."""
    if sentences is None:
        return same_names

    def cosines(first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(sentences.encode(first) @ sentences.encode(second).T, np.float64)

    return cosines
