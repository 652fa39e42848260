"""From sources to what the loop reads: pictures with their transparency, captions in wordings, and the teachers' targets."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from runner.context import StepContext, item_key
from runner.data.images import FORMATS, UnreadableImage, decode
from runner.data.sources import Source
from runner.errors import DataError
from runner.models.base import SentenceEncoder
from runner.nodes.backbone_features import SourceFeatures
from runner.nodes.clip.network import tokenize
from runner.nodes.clip.specs import ClipSize
from runner.nodes.clip.teacher import fit_text_space, ridge_targets, standardised
from runner.nodes.clip.texts import CAPTION_TEMPLATES, LABEL_TEMPLATES, may_be_mirrored, wordings
from runner.nodes.clip.training import Corpus
from runner.nodes.encoder_metrics import hold_out

RIDGE = 0.3
TEXT_CHUNK = 1024
MARGIN = 9 / 8
"""Side of the stored pictures over the network's: a crop then has more pixels than it needs."""

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Part:
    """One source: features with uris, a caption for each picture, and whether these captions are class names."""

    found: SourceFeatures
    captions: list[str]
    labelled: bool


def captioned(found: SourceFeatures) -> Part:
    """A source whose pictures brought their captions."""
    return Part(found, [caption or "" for caption in found.captions], labelled=False)


def labelled(found: SourceFeatures, labels: Mapping[str, str] | None) -> Part:
    """A source whose true labels serve as captions. Raises ``DataError`` where a picture has none."""
    missing = [uri for uri in found.uris if uri not in (labels or {})]
    if labels is None or missing:
        lacking = "no labels" if labels is None else f"no label for {missing[0]} and {len(missing) - 1} more"
        raise DataError(f"{found.source_id}: {lacking}; `labelled` takes sources with true labels")
    return Part(found, [labels[uri].replace("_", " ") for uri in found.uris], labelled=True)


# --- pictures --------------------------------------------------------------------------------------------------------


def picture_tensor(data: bytes, side: int) -> Tensor:
    """One picture as uint8 [4, side, side]: centred on a transparent square, colours on white, and alpha."""
    from PIL import Image

    image = decode(data)
    layer = image.convert("RGBA")
    layer.putalpha(_alpha(data, image.size))
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    colours = Image.new("RGB", (side, side), "white")
    alpha = Image.new("L", (side, side), 0)
    place = ((side - width) // 2, (side - height) // 2)
    colours.paste(image.resize((width, height), Image.Resampling.BICUBIC), place)
    alpha.paste(layer.getchannel("A").resize((width, height), Image.Resampling.BICUBIC), place)
    return torch.from_numpy(np.dstack((np.asarray(colours), np.asarray(alpha))).transpose(2, 0, 1).copy())


def _alpha(data: bytes, size: tuple[int, int]) -> Any:
    """Transparency of a picture that ``decode`` took; opaque where it has none or was turned upright."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.has_transparency_data and image.size == size:
            return image.convert("RGBA").getchannel("A")
    return Image.new("L", size, 255)


def read_pixels(ctx: StepContext, source: Source, uris: Sequence[str], side: int) -> Tensor:
    """Pictures uint8 [n, 4, side, side] in the order of ``uris``. Raises ``DataError`` where one has become unreadable."""
    pixels = torch.empty(len(uris), 4, side, side, dtype=torch.uint8)
    place = {uri: row for row, uri in enumerate(uris)}
    seen = 0
    for record in source:
        row = place.get(record.uri)
        if row is None:
            continue
        ctx.check()
        try:
            pixels[row] = picture_tensor(record.data, side)
        except UnreadableImage as error:
            raise DataError(f"{source.source_id}: {record.uri} could be read before and now cannot: {error}") from error
        seen += 1
    if seen != len(uris):
        raise DataError(f"{source.source_id}: {len(uris) - seen} pictures are no longer there")
    return pixels


# --- captions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Captions:
    """Different captions in sorted order, the number [n] of each picture's, which are held out, which are class names."""

    names: list[str]
    number: NDArray[np.int64]
    held: NDArray[np.bool_]
    labels: frozenset[int]

    def pictures_held(self) -> NDArray[np.bool_]:
        """Which pictures [n] are kept unseen."""
        return self.held[self.number]


def number_captions(parts: Sequence[Part], share: float, seed: int) -> Captions:
    """Number the captions, and hold out a share of those that are no class names. Raises ``DataError`` for too few."""
    own = sorted({caption for part in parts if not part.labelled for caption in part.captions})
    given = {caption for part in parts if part.labelled for caption in part.captions}
    names = [*own, *sorted(given - set(own))]
    if len(names) < 2:
        raise DataError("a CLIP needs pictures with at least two different captions")
    number = {name: index for index, name in enumerate(names)}
    held = np.zeros(len(names), bool)
    held[: len(own)] = hold_out(len(own), share, seed)
    labels = frozenset(number[name] for name in given)
    held[list(labels)] = False
    return Captions(names, np.array([number[c] for p in parts for c in p.captions], np.int64), held, labels)


def text_list(captions: Captions, further: Sequence[str]) -> tuple[list[str], Tensor, Tensor]:
    """All training texts, the wordings [c, k] of each caption in it, and which texts belong to no picture.

    Held-out captions are in none of them, neither are further texts that read the same; their wordings point to row 0.
    """
    unseen = {name.casefold() for name, held in zip(captions.names, captions.held, strict=True) if held}
    said = [
        [] if held else wordings(name, LABEL_TEMPLATES if index in captions.labels else CAPTION_TEMPLATES)
        for index, (name, held) in enumerate(zip(captions.names, captions.held, strict=True))
    ]
    kept = [text for text in further if text.casefold() not in unseen]
    texts = list(dict.fromkeys([*(text for each in said for text in each), *kept]))
    row = {text: index for index, text in enumerate(texts)}
    variants = torch.zeros(len(said), len(CAPTION_TEMPLATES), dtype=torch.int64)
    for index, each in enumerate(said):
        variants[index, : len(each)] = torch.tensor([row[text] for text in each], dtype=torch.int64)
    return texts, variants, torch.tensor([row[text] for text in dict.fromkeys(kept)], dtype=torch.int64)


def embedded_texts(ctx: StepContext, texts: Sequence[str], encode: Encode, identity: str) -> Tensor:
    """Sentence embeddings [n, q], saved chunk by chunk."""
    parts = []
    for start in ctx.track(range(0, len(texts), TEXT_CHUNK), unit="text chunks"):
        chunk = list(texts[start : start + TEXT_CHUNK])
        key = item_key("sentences", identity, chunk)
        saved = ctx.items.get(key)
        if saved is None:
            saved = encode(chunk).astype(np.float32).tobytes()
            ctx.items.put(key, saved)
        parts.append(np.frombuffer(saved, np.float32).reshape(len(chunk), -1))
    return torch.from_numpy(np.concatenate(parts))


# --- all of it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """The corpus of the loop, and what it was made from: ``pixels`` also of the pictures that are held out."""

    corpus: Corpus
    parts: Sequence[Part]
    captions: Captions
    pixels: Tensor

    def counts(self) -> dict[str, Any]:
        """What was used, in numbers."""
        return {
            "sources": {part.found.source_id: len(part.captions) for part in self.parts},
            "unreadable": sum(part.found.unreadable for part in self.parts),
            "captions": len(self.captions.names),
            "captions_held_out": int(self.captions.held.sum()),
            "pictures": len(self.captions.number),
            "pictures_trained": len(self.corpus.caption),
            "texts": len(self.corpus.tokens),
        }


def prepare(
    ctx: StepContext,
    sources: Sequence[Source],
    parts: Sequence[Part],
    captions: Captions,
    further: Sequence[str],
    sentences: SentenceEncoder,
    size: ClipSize,
) -> Prepared:
    """Read the pictures of the parts, gather and embed all texts, and fit the teachers."""
    side = round(size.image_size * MARGIN)
    pictures = (read_pixels(ctx, source, part.found.uris, side) for source, part in zip(sources, parts, strict=True))
    pixels = torch.cat(list(pictures))
    texts, variants, extra = text_list(captions, further)
    t = embedded_texts(ctx, texts, sentences.encode, sentences.identity)
    if size.embed_dim > t.shape[1]:
        raise DataError(f"embed_dim {size.embed_dim} is more than the {t.shape[1]} dimensions of the sentence encoder")
    tokens = tokenize(texts, size.context_length)
    return Prepared(assemble(parts, pixels, captions, tokens, variants, extra, t, size), parts, captions, pixels)


def assemble(
    parts: Sequence[Part],
    pixels: Tensor,
    captions: Captions,
    tokens: Tensor,
    variants: Tensor,
    extra: Tensor,
    t: Tensor,
    size: ClipSize,
) -> Corpus:
    """Teachers' targets beside the pictures that may be trained on.

    ``tokens`` [m, context] and sentence embeddings ``t`` [m, q] of all texts; ``variants`` and ``extra`` as in ``text_list``.
    """
    train = torch.from_numpy(~captions.pictures_held())
    target = fit_text_space(t, size.embed_dim).project(t)
    number = torch.from_numpy(captions.number)
    v = functional.normalize(torch.from_numpy(np.concatenate([part.found.features for part in parts])), dim=1)
    flippable = torch.tensor([may_be_mirrored(name) for name in captions.names])[number]
    return Corpus(
        pixels=pixels[train],
        flippable=flippable[train],
        caption=number[train],
        image_target=ridge_targets(v, target[variants[number, 0]], train, RIDGE)[train],
        feature_target=standardised(v, train)[train],
        tokens=tokens,
        text_target=target,
        variants=variants,
        extra=extra,
    )
