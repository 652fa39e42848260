"""Records as batches of tensors.

``Kept`` writes tokens and the frozen vision tower's features once and reads them at every pass, for the layout in which one picture
is one block of features in front of the projector (LLaVA). ``Live`` reads pictures and runs the tower at every pass, for all others.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.artifacts import Conversations
from runner.models.lvlm.anatomy import anatomy
from runner.models.lvlm.batches import IGNORED, Record, encode, places_of, records_of
from runner.models.lvlm.loading import LoadedLvlm

CHUNK = 64
"""Records that are encoded and saved together."""
Row = dict[str, Any]
Note = Callable[[int], None]


@dataclass
class Inputs:
    """One batch, padded on the right. ``inputs``: by argument of the network; ``labels`` int64 (B, S), -100 where nothing counts;
    ``features`` (pictures, T, D): what the projector is given, None where the network makes it from ``inputs``."""

    inputs: dict[str, Tensor]
    labels: Tensor
    features: Tensor | None
    record_ids: list[str]
    rows: list[int]

    def to(self, device: str, dtype: torch.dtype) -> Inputs:
        """On a device; what floats in ``dtype``."""
        moved = {
            k: v.to(device, dtype if v.is_floating_point() else None) if isinstance(v, Tensor) else v
            for k, v in self.inputs.items()
        }
        features = None if self.features is None else self.features.to(device, dtype)
        return Inputs(moved, self.labels.to(device), features, self.record_ids, self.rows)

    @property
    def target_mask(self) -> Tensor:
        """bool (B, S): positions whose next token is a label."""
        mask = torch.zeros_like(self.labels, dtype=torch.bool)
        mask[:, :-1] = self.labels[:, 1:] != IGNORED
        return mask


class Example(NamedTuple):
    """Tokens of one record: ids and labels int32 (S,), numbers of its pictures."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    pictures: list[int]


# --- every pass anew -------------------------------------------------------------------------------------------------


class Live:
    """Encodes at every pass. ``lengths`` are guesses from characters and pictures, to group by."""

    def __init__(self, loaded: LoadedLvlm, data: Conversations, rows: Sequence[Row], max_length: int) -> None:
        self._loaded, self._data, self._rows, self._max_length = loaded, data, rows, max_length
        self.lengths = np.array([len(row["turns"]) // 4 + 600 * len(row["uris"]) for row in rows], np.int64)
        self.domains = [str(row["domain"]) for row in rows]
        self.dropped: set[str] = set()

    def batch(self, rows: Sequence[int]) -> Inputs | None:
        """The records of these rows, or None where truncation leaves none of them a label."""
        records = list(records_of(self._data, [self._rows[i] for i in rows]))
        found = encode(self._loaded, records, max_length=self._max_length)
        self.dropped |= set(found.dropped)
        if not found.record_ids:
            return None
        left = [i for i in rows if self._rows[i]["record_id"] not in set(found.dropped)]
        return Inputs(found.inputs, found["labels"], None, list(found.record_ids), left)


# --- kept ------------------------------------------------------------------------------------------------------------


def can_keep(loaded: LoadedLvlm) -> bool:
    """Whether the projector is given one block of features a picture, which ``Kept`` can put back."""
    config = loaded.network.config
    if not loaded.sees:
        return True
    return bool(config.model_type == "llava") and bool(config.vision_config.model_type != "pixtral")


def bytes_a_picture(loaded: LoadedLvlm) -> int:
    """Of its features in the network's dtype."""
    if not loaded.sees:
        return 0
    config = loaded.network.config
    layers = config.vision_feature_layer
    width = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
    return int(config.image_seq_length * width * loaded.dtype.itemsize)


class Kept:
    """Tokens in memory, picture features in files that are mapped; each picture once, however many records show it."""

    def __init__(
        self, loaded: LoadedLvlm, data: Conversations, rows: Sequence[Row], max_length: int, folder: Path, note: Note
    ) -> None:
        """Encode what ``folder`` does not hold yet. ``note(n)`` is told of n finished records and may raise to stop."""
        self._loaded, self._folder = loaded, folder
        self._examples: list[Example | None] = []
        self._stores: list[tuple[Any, int]] = []
        self._starts: list[int] = []
        self._numbers: dict[tuple[str, str], int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._fill(data, rows, max_length, note)
        used = [i for i, example in enumerate(self._examples) if example is not None]
        self.dropped = {str(rows[i]["record_id"]) for i, example in enumerate(self._examples) if example is None}
        self._used = [self._examples[i] for i in used]
        self._ids = [str(rows[i]["record_id"]) for i in used]
        self.lengths = np.array([len(example.ids) for example in self._used if example], np.int64)
        self.domains = [str(rows[i]["domain"]) for i in used]
        self._examples = []
        self._pad = loaded.tokenizer.pad_token_id

    def batch(self, rows: Sequence[int]) -> Inputs:
        """The examples of these rows (numbers among those kept)."""
        chosen = [example for i in rows if (example := self._used[i]) is not None]
        width = max(len(example.ids) for example in chosen)
        ids = torch.full((len(chosen), width), int(self._pad), dtype=torch.int64)
        labels = torch.full((len(chosen), width), IGNORED, dtype=torch.int64)
        mask = torch.zeros((len(chosen), width), dtype=torch.int64)
        for place, example in enumerate(chosen):
            length = len(example.ids)
            ids[place, :length] = torch.from_numpy(example.ids)
            labels[place, :length] = torch.from_numpy(example.labels)
            mask[place, :length] = 1
        given = {"input_ids": ids, "attention_mask": mask}
        return Inputs(given, labels, self.features(rows), [self._ids[i] for i in rows], [int(i) for i in rows])

    def features(self, rows: Sequence[int]) -> Tensor | None:
        """What the projector is given for the pictures of these rows, (pictures, T, D), or None where they show none."""
        pictures = [number for i in rows if (example := self._used[i]) is not None for number in example.pictures]
        return torch.stack([self._feature(number) for number in pictures]) if pictures else None

    def same_tokens(self, other: Kept) -> bool:
        """Whether both hold the same records as the same tokens."""
        pairs = zip(self._used, other._used, strict=False)
        return self._ids == other._ids and all(a and b and np.array_equal(a.ids, b.ids) for a, b in pairs)

    def _feature(self, number: int) -> Tensor:
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        store, start = self._stores[place]
        found: Tensor = store.get_slice("features")[number - start]
        return found

    def _fill(self, data: Conversations, rows: Sequence[Row], max_length: int, note: Note) -> None:
        done = 0
        while done < len(rows) and (self._folder / _name(done)).is_file():
            self._adopt(done, rows[done : done + CHUNK])
            done += CHUNK
        note(min(done, len(rows)))
        records = records_of(data, rows[done:])
        for start in range(done, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            self._write(start, list(itertools.islice(records, len(some))), some, max_length)
            self._adopt(start, some)
            note(len(some))

    def _write(self, start: int, records: list[Record], rows: Sequence[Row], max_length: int) -> None:
        from safetensors.torch import save_file

        batch = encode(self._loaded, records, max_length=max_length)
        content = _flat_tokens(batch, records) | self._new_features(batch, records, rows)
        path = self._folder / _name(start)
        part = path.with_suffix(".part")
        save_file(content, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)

    def _new_features(self, batch: Any, records: list[Record], rows: Sequence[Row]) -> dict[str, Tensor]:
        """Features of pictures seen for the first time among records that were not dropped."""
        dropped, seen, fresh = set(batch.dropped), set(self._numbers), []
        shown = [
            (p, r) for r, row in zip(records, rows, strict=True) if r.record_id not in dropped for p in places_of(row)
        ]
        for number, (place, _) in enumerate(shown):
            if (place.source_id, place.uri) not in seen:
                seen.add((place.source_id, place.uri))
                fresh.append(number)
        if not fresh:
            return {}
        return {"features": projector_inputs(self._loaded, batch["pixel_values"][fresh])}

    def _adopt(self, start: int, rows: Sequence[Row]) -> None:
        """Take a finished file: tokens into memory, features mapped; pictures get numbers in order of appearance."""
        from safetensors import safe_open

        store: Any = safe_open(self._folder / _name(start), framework="pt")
        lengths = store.get_tensor("lengths").tolist()
        ids, labels = (store.get_tensor(name).numpy() for name in ("ids", "labels"))
        first, at = len(self._numbers), 0
        for row, length in zip(rows, lengths, strict=True):
            if length == 0:
                self._examples.append(None)
                continue
            pictures = [self._numbers.setdefault((p.source_id, p.uri), len(self._numbers)) for p in places_of(row)]
            self._examples.append(Example(ids[at : at + length], labels[at : at + length], pictures))
            at += length
        if len(self._numbers) > first:
            self._stores.append((store, first))
            self._starts.append(first)


def projector_inputs(loaded: LoadedLvlm, pixels: Tensor) -> Tensor:
    """What the vision tower hands to the projector, (pictures, T, D), without running the projector; on the CPU."""
    caught: list[Tensor] = []

    def catch(_: Any, args: tuple[Any, ...]) -> None:
        caught.append(args[0].detach().cpu())
        raise _Caught

    network = loaded.network
    handle = anatomy(network).projector.register_forward_pre_hook(catch, prepend=True)
    try:
        with torch.inference_mode():
            network.model.get_image_features(pixels.to(loaded.device, loaded.dtype))
    except _Caught:
        pass
    finally:
        handle.remove()
    return caught[0].clone()


class _Caught(Exception):
    """The projector's input is there: the rest of the forward is not needed."""


def _flat_tokens(batch: Any, records: list[Record]) -> dict[str, Tensor]:
    """Ids and labels of all records one after another; length 0 says that a record was dropped."""
    places = {record_id: place for place, record_id in enumerate(batch.record_ids)}
    lengths, ids, labels = [], [], []
    for record in records:
        place = places.get(record.record_id)
        length = 0 if place is None else int(batch["attention_mask"][place].sum())
        lengths.append(length)
        if length:
            ids.append(batch["input_ids"][place, :length])
            labels.append(batch["labels"][place, :length])
    empty = torch.zeros(0, dtype=torch.int32)
    return {
        "lengths": torch.tensor(lengths, dtype=torch.int64),
        "ids": torch.cat(ids).int() if ids else empty,
        "labels": torch.cat(labels).int() if labels else empty.clone(),
    }


def _name(start: int) -> str:
    return f"{start:08d}.safetensors"


def pictures_of(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """Places of the distinct pictures."""
    return {(p.source_id, p.uri) for row in rows for p in places_of(row)}
