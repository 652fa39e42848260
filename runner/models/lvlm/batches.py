"""Conversations with pictures as the tensors that a network takes, with labels on the assistant's tokens.

Where a reply stands in a model's chat format is found by rendering the conversation with marks in the replies' places, so it holds
for every template that writes a reply as it is; which tokens cover it is told by the tokenizer's character offsets in the text that
the processor makes (a picture's sign becomes as many tokens as the picture takes).
"""

from __future__ import annotations

import bisect
import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.data.images import UnreadableImage, decode
from runner.data.places import Place, read_pictures
from runner.errors import DataError, ModelRefused
from runner.models.chat.templates import PICTURE, Parts

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from runner.artifacts.lvlm import Conversations
    from runner.models.lvlm.loading import LoadedLvlm

IGNORED = -100
"""Label of a position that counts nowhere."""
SIGN = "<image>"
"""Where a picture is shown, in the text of a turn."""
READ_AT_ONCE = 64

_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "labels")


@dataclass(frozen=True)
class Record:
    """One conversation: ``turns`` of (role, text), role ``system``, ``user`` or ``assistant``; ``<image>`` in a user's turn shows
    the next of ``images``. Signs beyond the number of pictures are plain text; pictures without a sign come first."""

    record_id: str
    images: Sequence[Image]
    turns: Sequence[tuple[str, str]]


class Batch(dict[str, Any]):
    """What a network is called with, by argument; padded on the right. ``labels`` int64 [B, S] unless encoded without.

    ``record_ids``: of the rows, in order. ``dropped``: records that are no rows, since truncation left them no label or cut a picture.
    """

    def __init__(self, tensors: Mapping[str, Any], record_ids: Sequence[str], dropped: Sequence[str] = ()) -> None:
        super().__init__(tensors)
        self.record_ids, self.dropped = list(record_ids), list(dropped)

    def to(self, device: Any, dtype: torch.dtype | None = None) -> Batch:
        """On a device; what floats (pixels) in ``dtype``."""
        moved = {
            name: value.to(device, dtype if value.is_floating_point() else None) if hasattr(value, "to") else value
            for name, value in self.items()
        }
        return Batch(moved, self.record_ids, self.dropped)

    @property
    def inputs(self) -> dict[str, Any]:
        """Without the labels, for a forward whose loss is computed elsewhere."""
        return {name: value for name, value in self.items() if name != "labels"}


def encode(
    loaded: LoadedLvlm, records: Sequence[Record], *, max_length: int | None = None, answers_only: bool = True
) -> Batch:
    """Records as one batch on the CPU, padded on the right.

    ``labels``: the token itself where it belongs to a reply or ends one (an end is added to a conversation whose template writes
    none), -100 elsewhere; with ``answers_only`` false everywhere but on pictures and padding. ``max_length``: tokens that are
    kept of a record; one whose picture or whole reply would be cut is dropped and named. Raises ``ModelRefused`` for pictures where
    the model reads text, ``DataError`` for a record that its chat template cannot write.
    """
    writer = Writer(loaded)
    batch, kept = _encoded(writer, records, max_length, answers_only)
    if len(kept) == len(records):
        return batch
    dropped = [record.record_id for place, record in enumerate(records) if place not in set(kept)]
    if not kept:
        return Batch({}, [], dropped)
    batch, _ = _encoded(writer, [records[place] for place in kept], max_length, answers_only)
    batch.dropped = dropped
    return batch


def _encoded(
    writer: Writer, records: Sequence[Record], max_length: int | None, answers_only: bool
) -> tuple[Batch, list[int]]:
    """The batch of all records, and the places of those that may stay in it."""
    texts, spans = zip(*(writer.conversation(record) for record in records), strict=True)
    encoded = writer.tensors(texts, [record.images for record in records], side="right")
    everywhere = [[(0, len(text))] for text in texts]
    encoded["labels"] = writer.labels(texts, spans if answers_only else everywhere)
    kept = [p for p in range(len(records)) if _survives(encoded, writer.pictures, p, max_length)]
    if max_length is not None:
        width = max_length
        encoded = {name: v[:, :width] if name in _PER_TOKEN else v for name, v in encoded.items()}
    return Batch(encoded, [record.record_id for record in records]), kept


def _survives(encoded: Mapping[str, torch.Tensor], pictures: Sequence[int], place: int, max_length: int | None) -> bool:
    """Whether a label is left within ``max_length`` and no token of a picture beyond it."""
    import torch

    if not bool((encoded["labels"][place, 1:max_length] != IGNORED).any()):
        return False
    beyond = encoded["input_ids"][place, max_length:] if max_length is not None else encoded["input_ids"][place, :0]
    return not bool(torch.isin(beyond, torch.tensor(pictures, dtype=beyond.dtype)).any())


# --- writing ---------------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int


class Writer:
    """Writes conversations in one model's chat format and makes tensors of them."""

    def __init__(self, loaded: LoadedLvlm) -> None:
        """Raises ``ModelRefused`` for a model without tokenizer or chat template."""
        if loaded.tokenizer is None:
            raise ModelRefused(f"{loaded.name} has no tokenizer", hint="copy the files of its original into the folder")
        self._name, self._tokenizer = loaded.name, loaded.tokenizer
        self._processor = loaded.processor
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self.chat = loaded.chat
        self.ends = end_tokens(loaded)
        self.pictures = picture_tokens(loaded)
        self._listener = _Listener(self._tokenizer)

    def conversation(self, record: Record) -> tuple[str, list[Span]]:
        """The text of a whole conversation and where its replies stand in it, each with the token that ends it."""
        messages = self._messages(record)
        replies = ["".join(str(p) for p in parts).strip() for role, parts in messages if role == "assistant"]
        marks = [f"reply7531n{number}n" for number in range(len(replies))]
        names = iter(marks)
        marked = [(role, (next(names),) if role == "assistant" else parts) for role, parts in messages]
        text = self._rendered(marked, record.record_id, reply_next=False)
        pieces = re.split("|".join(marks), text) if marks else [text]
        if len(pieces) != len(replies) + 1:
            raise DataError(f"{record.record_id}: the chat template of {self._name} leaves out or repeats a reply")
        whole, spans = pieces[0], []
        for number, (reply, after) in enumerate(zip(replies, pieces[1:], strict=True)):
            start, end = len(whole), self._end_length(after)
            if end == 0 and number == len(replies) - 1 and not after.strip():
                after, end = self._tokenizer.eos_token or "", len(self._tokenizer.eos_token or "")
            whole += reply + after
            spans.append(Span(start, start + len(reply) + end))
        return whole, spans

    def prompt(self, record: Record) -> str:
        """The text of a conversation up to where the model replies."""
        return self._rendered(self._messages(record), record.record_id, reply_next=True)

    def _messages(self, record: Record) -> list[tuple[str, Parts]]:
        if record.images and self._processor is None:
            raise ModelRefused(
                f"{self._name} reads text only; {record.record_id} shows a picture", hint="name a model that sees"
            )
        return [(role, self.chat.clean(parts)) for role, parts in shown(record)]

    def _rendered(self, messages: Sequence[tuple[str, Parts]], record_id: str, *, reply_next: bool) -> str:
        try:
            return self.chat.render(messages, reply_next=reply_next)
        except Exception as error:  # a template is a program of a stranger's
            raise DataError(
                f"{record_id}: the chat template of {self._name} cannot write it: {error}",
                hint="turns alternate between user and assistant in most templates; some know no system turn",
            ) from error

    def _end_length(self, after: str) -> int:
        """Characters up to the end of the token that ends a reply, 0 where none follows at once."""
        blank = len(after) - len(after.lstrip())
        found = [token for token in self.ends if after.startswith(token, blank)]
        return blank + max(map(len, found)) if found else 0

    def tensors(self, texts: Sequence[str], images: Sequence[Sequence[Image]], *, side: str) -> dict[str, torch.Tensor]:
        """What the network takes. Raises ``DataError`` for pictures that the processor cannot take."""
        bos = self._tokenizer.bos_token
        settings = {"padding": True, "padding_side": side, "return_tensors": "pt"}
        settings["add_special_tokens"] = self._processor is not None and not (bos and texts[0].startswith(bos))
        if self._processor is None:
            return dict(self._listener(list(texts), **settings))
        reader = copy.copy(self._processor)
        reader.tokenizer = self._listener
        pictures = [list(some) for some in images] if any(images) else None
        try:
            return dict(reader(text=list(texts), images=pictures, **settings))
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise DataError(f"{self._name} cannot take these pictures: {error}") from error

    def words(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text, pictures as their one sign, and the characters [start, end) that each stands for."""
        bos = self._tokenizer.bos_token
        special = self._processor is not None and not (bos and text.startswith(bos))
        self._listener([text], add_special_tokens=special)
        encoding = self._listener.encodings[0]
        return list(encoding.ids), list(encoding.offsets)

    def labels(self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> torch.Tensor:
        """int64 [B, S] of texts just made into tensors: token ids where a token covers a part of a span, else -100."""
        import torch

        heard, sign = self._listener, str(getattr(self._processor, "image_token", "") or "")
        known = zip(texts, heard.heard, heard.encodings, spans, strict=True)
        return torch.stack(
            [_covered(encoding, moved(some, text, full, sign), self.pictures) for text, full, encoding, some in known]
        )


def shown(record: Record) -> list[tuple[str, Parts]]:
    """The turns with pictures in their places: at the signs of users' turns, those without a sign before all else."""
    signs = sum(text.count(SIGN) for role, text in record.turns if role == "user")
    left, ahead = len(record.images), max(0, len(record.images) - signs)
    turns: list[tuple[str, Parts]] = []
    for role, text in record.turns:
        parts: list[Any] = [PICTURE] * ahead if role == "user" else []
        left, ahead = left - len(parts), ahead - len(parts)
        pieces = text.split(SIGN, left) if role == "user" else [text]
        left -= len(pieces) - 1
        for number, piece in enumerate(pieces):
            parts += [PICTURE] if number else []
            parts += [piece] if piece else []
        turns.append((role, parts or [""]))
    return turns


def end_tokens(loaded: LoadedLvlm) -> dict[str, int]:
    """Tokens that end a reply, with their ids."""
    settings = getattr(loaded.network, "generation_config", None)
    declared = getattr(settings, "eos_token_id", None)
    ids = {*(declared if isinstance(declared, list) else [declared]), loaded.tokenizer.eos_token_id} - {None}
    return {str(loaded.tokenizer.convert_ids_to_tokens(i)): i for i in sorted(ids)}


def picture_tokens(loaded: LoadedLvlm) -> list[int]:
    """Ids of the tokens that stand for pictures."""
    found = [
        *(getattr(loaded.processor, "image_token_ids", None) or ()),
        getattr(loaded.processor, "image_token_id", None),
    ]
    config = getattr(loaded.network, "config", None)
    found += [getattr(config, name, None) for name in ("image_token_id", "image_token_index")]
    return sorted({int(i) for i in found if i is not None}) if loaded.sees else []


class _Listener:
    """A tokenizer that remembers the text it was given, and where each token stands in it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.heard: list[str] = []
        self.encodings: Any = None

    def __call__(self, text: Any, **settings: Any) -> Any:
        encoded = self._tokenizer(text, **settings)
        self.heard, self.encodings = list(text), encoded.encodings
        if self.encodings is None:
            raise ModelRefused(
                "the tokenizer does not tell which characters a token stands for",
                hint="the folder wants a tokenizer.json",
            )
        return encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def moved(spans: Sequence[tuple[int, int]], text: str, expanded: str, sign: str) -> list[tuple[int, int]]:
    """Spans of ``text`` in ``expanded``, which is ``text`` with every ``sign`` become something longer."""
    pieces = text.split(sign) if sign else [text]
    starts, places, old, new = [0], [0], 0, 0
    for piece, following in itertools.pairwise(pieces):
        old, new = old + len(piece) + len(sign), new + len(piece) + 1
        new = expanded.find(following, new)
        starts.append(old)
        places.append(new)
    places[-1] = len(expanded) - len(pieces[-1])  # the last piece stands at the end, wherever else it is found

    def place(at: int) -> int:
        number = bisect.bisect_right(starts, at) - 1
        return places[number] + at - starts[number]

    return [(place(start), place(max(start, end - 1)) + (end > start)) for start, end in spans]


def _covered(encoding: Any, spans: Sequence[tuple[int, int]], pictures: Sequence[int]) -> Any:
    """Token ids where a token covers a part of a span, -100 elsewhere and on pictures: int64 [S]."""
    import torch

    ids, at = torch.tensor(encoding.ids), torch.tensor(encoding.offsets)
    inside = torch.zeros(len(ids), dtype=torch.bool)
    for start, end in spans:
        inside |= (at[:, 0] < end) & (at[:, 1] > start)
    inside &= (
        ~torch.isin(ids, torch.tensor(list(pictures), dtype=ids.dtype)) & torch.tensor(encoding.attention_mask).bool()
    )
    return torch.where(inside, ids, IGNORED)


# --- reading ---------------------------------------------------------------------------------------------------------


def records_of(
    conversations: Conversations,
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    failed: Callable[[str, str], None] | None = None,
) -> Iterator[Record]:
    """Records with their pictures, in the order of ``rows`` (of the table ``records``; default: all of it).

    ``failed``: told (record, reason) of a record whose picture cannot be read, which is then left out; without it that raises
    ``DataError``. Pictures are read some records ahead.
    """
    from runner.data.sources import open_sources

    chosen = conversations.records.to_pylist() if rows is None else rows
    sources = open_sources(conversations.corpus)
    for at in range(0, len(chosen), READ_AT_ONCE):
        some = chosen[at : at + READ_AT_ONCE]
        pictures = dict(read_pictures(sources, {place for row in some for place in places_of(row)}))
        for row in some:
            try:
                images = [_decoded(place, pictures) for place in places_of(row)]
            except DataError as error:
                if failed is None:
                    raise DataError(f"record {row['record_id']}: {error.message}") from error
                failed(str(row["record_id"]), error.message)
                continue
            yield Record(str(row["record_id"]), images, [(r, t) for r, t in json.loads(row["turns"])])


def places_of(row: Mapping[str, Any]) -> list[Place]:
    """Where the pictures of a row (``source_id``, ``uris``) stand."""
    return [Place(str(row["source_id"]), str(uri)) for uri in row["uris"] or ()]


def _decoded(place: Place, pictures: Mapping[Place, bytes]) -> Image:
    if place not in pictures:
        raise DataError(f"its picture {place.uri} is not there")
    try:
        return decode(pictures[place])
    except UnreadableImage as error:
        raise DataError(f"its picture {place.uri} cannot be read: {error.message}") from error
