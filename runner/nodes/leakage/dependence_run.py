"""The dependence audit over pictures: chunk by chunk, each kept as soon as it is done, and the rows made of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from results.tables import arrow_table
from runner.context import StepContext, item_key
from runner.data.images import UnreadableImage
from runner.data.parts.reading import PartReader
from runner.data.sampling import sampled
from runner.errors import DataError
from runner.nodes.leakage.attention_flow import attention_flow, rollout
from runner.nodes.leakage.dependence import gradient_share, replacement_dependence
from runner.nodes.leakage.dependence_rows import (
    Arrays,
    Audit,
    attention_rows,
    norm_rows,
    picture_rows,
    summary_rows,
)
from runner.nodes.leakage.dependence_steps import Dependence
from runner.nodes.leakage.features import single_stage, two_stage
from runner.nodes.leakage.masks import patch_mask
from runner.nodes.leakage.token_norms import distance_without, high_norm

if TYPE_CHECKING:
    from runner.artifacts import PartImages
    from runner.models.base import VisionBackbone

MOST_WEIGHTS = 2**26
"""Attention weights held at once."""


@dataclass(frozen=True)
class Chunk:
    """Pictures [B, 3, H, W] in 0..1, masks of parts bool [B, P, H, W], of the object [B, H, W], and what replaces pixels."""

    sample_ids: list[str]
    pixels: Tensor
    masks: Tensor
    whole: Tensor
    replacement: Tensor


def audit_chunk(ctx: StepContext, backbone: VisionBackbone, chunk: Chunk, audit: Audit) -> Arrays:
    """Everything measured of a chunk, from the cache where it was done before. The key is the content of what goes in."""
    held = (chunk.pixels, chunk.masks, chunk.whole, chunk.replacement)
    content = [hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in held]
    key = item_key("leakage.dependence", 1, backbone.identity, backbone.name, asdict(audit), content)
    stored = ctx.items.get(key)
    if stored is None:
        found = _measure(ctx, backbone, chunk, audit)
        file = io.BytesIO()
        np.savez(file, **found)  # type: ignore[arg-type]
        ctx.items.put(key, file.getvalue())
        return found
    with np.load(io.BytesIO(stored), allow_pickle=False) as file_:
        return dict(file_)


def _measure(ctx: StepContext, backbone: VisionBackbone, chunk: Chunk, audit: Audit) -> Arrays:
    pixels, masks, replacement = (t.to(backbone.device) for t in (chunk.pixels, chunk.masks, chunk.replacement))
    found = {}
    for name in audit.extractors:
        ctx.check()
        found[f"values {name}"] = _values(backbone, name, pixels, masks, replacement, audit)
    if backbone.kind_of_layers == "tokens" and (audit.attention or audit.token_norms):
        ctx.check()
        patches = patch_mask(masks, backbone.patch_sizes[0], audit.patch_rule)
        whole = patch_mask(chunk.whole.to(backbone.device), backbone.patch_sizes[0], "any")
        if audit.attention:
            found |= attention_sums(backbone, pixels, patches, whole)
        if audit.token_norms:
            found |= _norms(backbone, pixels, masks, replacement, patches, audit)
    return found


def extractor(backbone: VisionBackbone, name: str, audit: Audit) -> Any:
    """``single`` or ``two_stage`` as a function of pictures and masks, for the layers asked for."""
    layers = list(audit.layers)
    if name == "single":
        return partial(single_stage, backbone, pool=audit.pooling, rule=audit.patch_rule, layers=layers, norm=audit.norm)  # fmt: skip
    return partial(two_stage, backbone, layers=layers, norm=audit.norm, **audit.two_stage)


def _values(
    backbone: VisionBackbone, name: str, pixels: Tensor, masks: Tensor, replacement: Tensor, audit: Audit
) -> np.ndarray[Any, Any]:
    """float64 [4, L, B, P] in the order of ``MEASURES``."""
    extract = extractor(backbone, name, audit)
    whole = partial(_bound, extract, masks)
    one = None if name == "single" else lambda x, part: extract(x, masks[:, part : part + 1])[..., 0, :]
    distances = replacement_dependence(whole, pixels, masks, replacement, one=one)
    share = gradient_share(whole, pixels, masks) if audit.gradient else torch.full_like(distances.d_out, torch.nan)
    return torch.stack([share, *distances]).cpu().numpy()


def _bound(extract: Any, masks: Tensor, pixels: Tensor) -> Tensor:
    features: Tensor = extract(pixels, masks)
    return features


def plain_layers(backbone: VisionBackbone, pixels: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Layer number and tokens [B, prefix + N, D] of a plain forward, layer by layer."""
    tokens = backbone.embed(backbone.normalise(pixels))
    yield 0, tokens
    for number in range(1, backbone.depth + 1):
        tokens = backbone.block(number, tokens)
        yield number, tokens


@torch.no_grad()
def attention_sums(backbone: VisionBackbone, pixels: Tensor, parts: Tensor, whole: Tensor) -> Arrays:
    """Sums over pictures, few pictures at a time: ``attention`` float64 [depth, heads + 1, P, 4] (the last "head" is the rollout),
    ``attention_area`` [P] and ``attention_n`` [P]."""
    tokens = backbone.prefix_tokens + parts.shape[-1]
    step = max(1, MOST_WEIGHTS // (16 * tokens * tokens))
    there = parts.any(-1)
    total: Tensor | None = None
    for start in range(0, len(pixels), step):
        few = slice(start, start + step)
        found = _flows(backbone, pixels[few], parts[few], whole[few])
        total = found if total is None else total + found
    assert total is not None  # a chunk holds a picture
    area = parts.double().mean(-1)
    return {"attention": total.cpu().numpy(), "attention_area": area.sum(0).cpu().numpy(), "attention_n": there.sum(0).cpu().numpy()}  # fmt: skip


def _flows(backbone: VisionBackbone, pixels: Tensor, parts: Tensor, whole: Tensor) -> Tensor:
    rolled: Tensor | None = None
    sums = []
    before: Tensor | None = None
    for number, tokens in plain_layers(backbone, pixels):
        if before is not None:
            attention = backbone.attention(number, before).float()
            rolled = rollout(rolled, attention)
            flows = (attention_flow(a, parts, whole, backbone.prefix_tokens) for a in (attention, rolled[:, None]))
            per_head = torch.cat([torch.stack(flow, -1) for flow in flows], 1)
            sums.append(per_head.double().nan_to_num(0.0).sum(0))
        before = tokens
    return torch.stack(sums)


@torch.no_grad()
def _norms(
    backbone: VisionBackbone, pixels: Tensor, masks: Tensor, replacement: Tensor, patches: Tensor, audit: Audit
) -> Arrays:
    """Norms of the raw tokens, which of them are high, and how far mean-pooled vectors move with and without those."""
    before = _patch_tokens(backbone, pixels, audit)
    norms = before[0].float().norm(dim=-1)
    high = high_norm(norms)
    distances = []
    for part in range(masks.shape[1]):
        changed = torch.where(masks[:, part, None], pixels, replacement)
        raw, pooled = _patch_tokens(backbone, changed, audit)
        seen = high_norm(raw.float().norm(dim=-1))
        distances.append(torch.stack(distance_without(before[1], pooled, high, seen, patches[:, part])))
    return {
        "norms": norms.cpu().numpy(), "high": high.cpu().numpy(), "in_parts": patches.any(1).cpu().numpy(),
        "norm_distances": torch.stack(distances, -1).cpu().numpy(),
    }  # fmt: skip


def _patch_tokens(backbone: VisionBackbone, pixels: Tensor, audit: Audit) -> tuple[Tensor, Tensor]:
    """Patch tokens of the layers asked for, [L, B, N, D]: raw, and as they are pooled."""
    kept = {n: t[:, backbone.prefix_tokens :] for n, t in plain_layers(backbone, pixels) if n in audit.layers}
    raw = torch.stack([kept[number] for number in audit.layers])
    return raw, backbone.norm(raw) if audit.norm == "final" else raw


def replaced_by(how: str, pixels: Tensor, donors: Tensor, backbone: VisionBackbone, seed: int) -> Tensor:
    """What stands in for replaced pixels, [B, 3, H, W] in 0..1: another picture; the mean colour of the backbone's
    normalisation; or Gaussian noise with its mean and deviation, cut to 0..1."""
    if how == "donor":
        return donors
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
    if how == "mean":
        return mean.expand_as(pixels).contiguous()
    noise = torch.randn(pixels.shape[1:], generator=torch.Generator().manual_seed(seed))
    return (mean + std * noise).clamp(0, 1).expand_as(pixels).contiguous()


# --- the whole of it -------------------------------------------------------------------------------------------------


def run(
    ctx: StepContext, backbone: VisionBackbone, images: PartImages, audit: Audit, split: str, pictures: int, batch: int
) -> Dependence:
    """All pictures, chunk by chunk; a part that no picture shows is warned of."""
    reader = PartReader(images)
    rows = _drawn(reader, split, pictures, audit)
    if backbone.kind_of_layers != "tokens" and (audit.attention or audit.token_norms):
        ctx.warn(f"{backbone.name} is convolutional: it has no attention and no tokens to report")
    chunks, seen = [], []
    ctx.advance("pictures", 0, len(rows))
    for start in range(0, len(rows), batch):
        ctx.check()
        chunk = read_chunk(ctx, reader, images, backbone, rows, slice(start, start + batch), audit)
        if chunk is not None:
            chunks.append(audit_chunk(ctx, backbone, chunk, audit))
            seen.append(chunk.sample_ids)
        ctx.advance("pictures", len(rows[start : start + batch]))
    if not chunks:
        raise DataError(f"{images.about['dataset']}: none of the {len(rows)} pictures drawn could be read")
    _warn_of_absent(ctx, reader.parts, chunks, audit)
    return _tables(backbone, images, audit, split, chunks, seen)


def _drawn(reader: PartReader, split: str, pictures: int, audit: Audit) -> list[int]:
    """Rows of the pictures: those of the split, at most ``pictures`` of them."""
    there = [row for row, own in enumerate(reader.splits) if split in ("all", own)]
    rows = sampled(there, pictures, audit.seed, lambda row: reader.sample_ids[row])
    if not rows:
        raise DataError(f"the split {split} has no picture", hint="Another split: all, train, val or test.")
    if audit.replace == "donor" and len(rows) < 2:
        raise DataError("replace: donor needs two pictures, there is one", hint="replace: mean, or more pictures.")
    return rows


def read_chunk(
    ctx: StepContext, reader: PartReader, images: PartImages, backbone: VisionBackbone, rows: Sequence[int], part: slice,
    audit: Audit,
) -> Chunk | None:  # fmt: skip
    """Some of the pictures with their masks; None where none can be read. A picture's donor is the next of the draw, the
    first one's for the last."""
    own = rows[part]
    donors = [*own[1:], rows[part.stop % len(rows)] if part.stop < len(rows) else rows[0]]
    found = dict(reader.pictures(sorted({*own, *donors} if audit.replace == "donor" else {*own})))
    pixels, masks = {}, {}
    for row, image in found.items():
        if isinstance(image, UnreadableImage):
            if row in own:
                ctx.failed(reader.sample_ids[row], str(image))
            continue
        pixels[row] = torch.from_numpy(backbone.prepare(image))
        if row in own:
            masks[row] = input_masks(reader, images, backbone, row, image.size)
    kept = [row for row in own if row in masks]
    if not kept:
        return None
    stacked = torch.stack([pixels[row] for row in kept])
    others = stacked
    if audit.replace == "donor":
        next_of = dict(zip(own, donors, strict=True))
        others = torch.stack([pixels[_donor(row, next_of[row], pixels)] for row in kept])
    drawn = torch.from_numpy(np.stack([masks[row] for row in kept]))
    ids = [reader.sample_ids[row] for row in kept]
    return Chunk(ids, stacked, drawn[:, :-1], drawn[:, -1], replaced_by(audit.replace, stacked, others, backbone, audit.seed))  # fmt: skip


def _donor(row: int, wanted: int, pixels: Mapping[int, Tensor]) -> int:
    """The wanted donor, or another picture at hand where it cannot be read."""
    found = next((other for other in (wanted, *pixels) if other in pixels and other != row), None)
    if found is None:
        raise DataError("replace: donor needs two pictures that can be read", hint="replace: mean, or a larger batch.")
    return found


def input_masks(
    reader: PartReader, images: PartImages, backbone: VisionBackbone, row: int, size: tuple[int, int]
) -> np.ndarray[Any, Any]:
    """Masks of parts, then of the object, at the backbone's input: bool [P + 1, H, W]."""
    found = reader.masks(row)
    stack = np.concatenate([found.masks, found.object[None]])
    stored = reader.size(row)
    if stored is not None and stored != size[::-1]:
        if images.about.get("mask_resize", "none") != "nearest":
            raise DataError(
                f"{reader.sample_ids[row]}: its masks are {stored} (height, width), its picture {size[::-1]}"
            )
        stack = np.stack([nearest(mask, size) for mask in stack])
    if stored is None:
        stack = np.zeros((len(stack), *size[::-1]), bool)
    return np.stack([backbone.geometry.mask(mask) for mask in stack])


def nearest(mask: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """A bool mask at another (width, height)."""
    from PIL import Image

    drawn = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    return np.asarray(drawn) > 127


def _warn_of_absent(ctx: StepContext, parts: Sequence[str], chunks: Sequence[Arrays], audit: Audit) -> None:
    for name in audit.extractors:
        there = np.any([np.isfinite(found[f"values {name}"][1]).any((0, 1)) for found in chunks], axis=0)
        for part, shown in zip(parts, there, strict=True):
            if not shown:
                ctx.warn(f"no picture shows this part ({name}): no rows", item=part)


def _tables(
    backbone: VisionBackbone, images: PartImages, audit: Audit, split: str, chunks: Sequence[Arrays], seen: Sequence[list[str]]
) -> Dependence:  # fmt: skip
    parts = list(images.about["parts"])
    own = {"dataset": images.about["dataset"], "model": backbone.name}
    made = {
        "leak_dependence": chain.from_iterable(picture_rows(ids, parts, c, audit) for ids, c in zip(seen, chunks, strict=True)),
        "leak_dependence_summary": summary_rows(chunks, parts, audit),
        "leak_attention": attention_rows(chunks, parts),
        "leak_token_norm": norm_rows(chunks, audit),
    }  # fmt: skip
    tables = [arrow_table(name, [own | row for row in rows]) for name, rows in made.items()]
    model = {"name": backbone.name, "family": backbone.family, "identity": backbone.identity, "random_init": backbone.random_init,
             "small": backbone.small, "notes": [*backbone.notes]}  # fmt: skip
    return Dependence(model, {**asdict(audit), "split": split, "pictures": sum(map(len, seen))}, *tables)
