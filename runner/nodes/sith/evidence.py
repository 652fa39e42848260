"""What an edit goes by, on the grid of directions (layers, heads, rank): judges' scores, decisions, effects, concepts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.artifacts import ConceptDictionary, HeadConcepts, HeadDirections, HeadJudgements
from runner.errors import DataError
from runner.nodes.sith.edit import UNSCORED

Row = Mapping[str, Any]
Place = tuple[int, int, int]
MISSING = float("nan")
_PLACE = ("layer", "head", "sv")
_SETTING = ("method", "k", "coherence")
_DECOMPOSITION = ("fold_ln", "minus", "layers", "heads", "rank")
SHOWN_CONCEPT = 80


class Grid:
    """Places of the directions of a decomposition: ``shape`` (layers, heads, rank)."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.layers: list[int] = list(model["layers"])
        self.heads: list[int] = list(model["heads"])
        self.shape = (len(self.layers), len(self.heads), int(model["rank"]))
        self._layer = {layer: at for at, layer in enumerate(self.layers)}
        self._head = {head: at for at, head in enumerate(self.heads)}

    def at(self, row: Row) -> tuple[int, int, int]:
        """Indices of a row's layer, head and sv. Raises ``DataError`` where the decomposition has no such direction."""
        layer, head, sv = (row[name] for name in _PLACE)
        if layer not in self._layer or head not in self._head or not 0 <= sv < self.shape[2]:
            raise DataError(
                f"there is no direction (layer {layer}, head {head}, sv {sv}) in the decomposition",
                hint="Give what was made from the same `directions`.",
            )
        return self._layer[layer], self._head[head], sv

    def largest(self, rows: Iterable[Row], value: Callable[[Row], float | None]) -> Tensor:
        """The largest value of each direction float64 [layers, heads, rank], NaN where there is none."""
        found = torch.full(self.shape, MISSING, dtype=torch.float64)
        for row in rows:
            at, number = self.at(row), value(row)
            if number is not None and not number <= float(found[at]):
                found[at] = number
        return found


# --- scores ------------------------------------------------------------------------------------------------------------


def scores_of(grid: Grid, judgements: HeadJudgements, max_unscored: float) -> Tensor:
    """Scores int64 [layers, heads, rank] of right vectors, ``UNSCORED`` where there is none; of both signs the higher one.

    Raises ``DataError`` where more than the share ``max_unscored`` of the lists that were asked about (empty ones
    were not) ended without a score.
    """
    rows = [row for row in judgements.judgements.to_pylist() if row["side"] == "right"]
    if not rows:
        raise DataError("there is no judgement of a right vector to go by")
    asked = [row for row in rows if row["status"] != "empty"]
    lost = sum(row["status"] == "unscored" for row in asked)
    if lost > max_unscored * len(asked):
        raise DataError(
            f"{lost} of {len(asked)} concept lists have no score, more than the share {max_unscored:g} that is allowed",
            hint="Judge them again with another model, or raise max_unscored; they would be left as they are.",
        )
    return _scores(grid.largest(rows, lambda row: row["score"]))


def _scores(values: Tensor) -> Tensor:
    return values.nan_to_num(UNSCORED).to(torch.int64)


def decisions_of(grid: Grid, path: Path, max_unscored: float) -> Tensor:
    """Scores from a JSON file ``{"<layer>": [H * rank scores, head by head]}``, null for none; as ``scores_of``."""
    try:
        found = json.loads(path.read_text("utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.name}: no JSON: {error}") from error
    if not isinstance(found, dict) or set(found) != {str(layer) for layer in grid.layers}:
        raise DataError(f"{path.name}: expected an object with the layers {', '.join(map(str, grid.layers))} as keys")
    values = [
        _layer_scores(path.name, layer, found[str(layer)], grid.shape[1] * grid.shape[2]) for layer in grid.layers
    ]
    scores = torch.tensor(values, dtype=torch.int64).reshape(grid.shape)
    if (lost := int((scores == UNSCORED).sum())) > max_unscored * scores.numel():
        raise DataError(f"{path.name}: {lost} of {scores.numel()} scores are null, more than max_unscored allows")
    return scores


def _layer_scores(where: str, layer: int, values: Any, count: int) -> list[int]:
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
        raise DataError(f"{where}: layer {layer} has {found}; expected {count}, heads x rank, head by head")
    for number, value in enumerate(values):
        if value is not None and (type(value) is not int or not 1 <= value <= 5):
            raise DataError(f"{where}: layer {layer}, value {number}: expected an integer from 1 to 5 or null")
    return [UNSCORED if value is None else value for value in values]


def effects_of(grid: Grid, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Evidence ``effect`` (|effect|), ``share``, ``effect_rank`` and ``along_rank`` (from 0) of rows of ``sith_effect``.

    ``along_rank`` orders the directions whose effect has the sign of the sum of all effects, and leaves out the others: taking
    away one that pushes back would make the whole push harder. Of several values of the attribute the strongest counts.
    """
    right = [row for row in rows if row["side"] == "right"]
    effect = grid.largest(right, lambda row: abs(row["effect"]))
    whole: dict[str, float] = {}
    for row in right:
        whole[row["value"]] = whole.get(row["value"], 0.0) + row["effect"]
    along = grid.largest(right, lambda row: row["effect"] if whole[row["value"]] > 0 else -row["effect"])
    share = grid.largest(right, lambda row: row["share"])
    return {
        "effect": effect,
        "share": share,
        "effect_rank": _ranks(effect),
        "along_rank": _ranks(along.where(along > 0, MISSING)),
    }


def _ranks(values: Tensor) -> Tensor:
    """Places from 0, the largest first; NaN stays."""
    order = values.nan_to_num(-torch.inf).flatten().argsort(descending=True, stable=True)
    rank = torch.full(values.shape, MISSING, dtype=torch.float64)
    rank.view(-1)[order] = torch.arange(len(order), dtype=torch.float64)
    return rank.masked_fill(values.isnan(), MISSING)


def means_of(grid: Grid, rows: Sequence[Row]) -> Tensor | None:
    """Mean coefficients of right directions, NaN where there is none; None where effects were not taken on pictures."""
    found = grid.largest([row for row in rows if row["side"] == "right"], lambda row: row["mean_coefficient"])
    return None if bool(found.isnan().all()) else found


# --- concepts ----------------------------------------------------------------------------------------------------------


class Codes(NamedTuple):
    """Codes of right vectors on the grid, by direction. ``active``: rows of ``sith_concept`` with a positive coefficient, what
    a vector is about; ``terms``: those of either sign, what it is made of; ``explained``: directions that have a code, be it
    an empty one, in order."""

    setting: tuple[Any, ...]
    active: dict[Place, list[Row]]
    terms: dict[Place, list[Row]]
    explained: list[Place]


def main_codes(grid: Grid, concepts: HeadConcepts, *, sign: int | None = None) -> Codes:
    """The codes of the setting named ``main`` in the settings, or of the only one; ``sign``: of these vectors alone.

    Raises ``DataError`` where several settings are left.
    """
    rows, codes = (
        [row for row in table.to_pylist() if row["side"] == "right" and sign in (None, row["sign"])]
        for table in (concepts.concepts, concepts.codes)
    )
    settings = sorted({_setting(row) for row in [*rows, *codes]})
    main = concepts.settings.get("main")
    if len(settings) > 1 and isinstance(main, Mapping):
        wanted = [main.get(name) for name in _SETTING]
        settings = [s for s in settings if all(w is None or w == v for w, v in zip(wanted, s, strict=True))]
    if len(settings) != 1:
        raise DataError(
            f"{len(settings)} settings of concept codes to choose from", hint="Explain with one k and coherence."
        )
    active: dict[Place, list[Row]] = {}
    terms: dict[Place, list[Row]] = {}
    rows = sorted((row for row in rows if _setting(row) == settings[0]), key=lambda row: (-row["coef"], row["atom"]))
    for row in rows:
        for kept, found in ((row["coef"] != 0, terms), (row["coef"] > 0, active)):
            if kept:
                found.setdefault(grid.at(row), []).append(row)
    explained = {grid.at(row) for row in [*rows, *codes] if _setting(row) == settings[0]}
    return Codes(settings[0], active, terms, sorted(explained))


def _setting(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _SETTING)


def matched(grid: Grid, codes: Codes, fits: Callable[[str], bool]) -> tuple[Tensor, dict[Place, str]]:
    """Summed coefficients of concepts that fit, float64 [layers, heads, rank] (NaN where none does), and the first of them."""
    texts = {row["concept"] for rows in codes.active.values() for row in rows}
    wanted = {text for text in texts if fits(text)}
    found = torch.full(grid.shape, MISSING, dtype=torch.float64)
    named = {}
    for place, rows in codes.active.items():
        hits = [row for row in rows if row["concept"] in wanted]
        if hits:
            found[place], named[place] = sum(row["coef"] for row in hits), shown(hits[0]["concept"])
    return found, named


def shown(text: str) -> str:
    """A stranger's text on one line, bounded."""
    return re.sub(r"\s+", " ", text).strip()[:SHOWN_CONCEPT]


def check_same_directions(directions: HeadDirections, other: Mapping[str, Any], what: str) -> None:
    """Raise ``DataError`` unless ``other`` (a model's description) is that of the decomposition, whose places it numbers."""
    hint = "Use the same `directions`."
    if other.get("identity") != directions.model["identity"]:
        raise DataError(f"{what} was made from another model than the directions", hint=hint)
    differ = [name for name in _DECOMPOSITION if other.get(name) != directions.model.get(name)]
    if differ:
        raise DataError(
            f"{what} was made from another decomposition of the model: {', '.join(differ)} differs", hint=hint
        )


def check_same_dictionary(concepts: HeadConcepts, dictionary: ConceptDictionary) -> None:
    """Raise ``DataError`` unless the dictionary is that of the codes, whose atoms are numbers of its lines."""
    if concepts.dictionary.get("sha256") != dictionary.info.get("sha256"):
        names = [shown(str(info.get("name"))) for info in (concepts.dictionary, dictionary.info)]
        raise DataError(
            f"the concepts were coded with another dictionary ({names[0]}) than the one given ({names[1]})",
            hint="Give the `dictionary` that sith.explain was given.",
        )
