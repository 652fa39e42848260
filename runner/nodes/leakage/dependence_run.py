"""The dependence audit over pictures: chunk by chunk, each kept as soon as it is done, and the rows made of them."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from results.tables import arrow_table
from runner.context import StepContext, item_key
from runner.data.parts.reading import PartReader
from runner.data.sampling import sampled
from runner.errors import DataError, StepError
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
from runner.nodes.leakage.features import check_two_stage, single_stage_layers, two_stage_layers
from runner.nodes.leakage.loading import Loader, draw_donors
from runner.nodes.leakage.masks import patch_mask
from runner.nodes.leakage.outputs import Dependence
from runner.nodes.leakage.pooling import by_layer, check_norm, layer_numbers, normed, plain_layers
from runner.nodes.leakage.token_norms import distance_without, high_norm

if TYPE_CHECKING:
    from runner.artifacts import PartImages
    from runner.models.base import VisionBackbone

Extractor = Callable[[Tensor, Tensor], Tensor]
Counts = NDArray[np.int64]
MOST_WEIGHTS = 2**26
"""Attention weights held at once."""


@dataclass(frozen=True)
class Chunk:
    """Pictures [B, 3, H, W] in 0..1, masks of parts bool [B, P, H, W], of the object [B, H, W], and what replaces pixels.

    ``inner`` bool [B, P, H, W]: pixels of the parts that hold nothing of what lies outside (None: all), for two-stage vectors."""

    sample_ids: list[str]
    pixels: Tensor
    masks: Tensor
    whole: Tensor
    replacement: Tensor
    inner: Tensor | None = None


def audit_chunk(ctx: StepContext, backbone: VisionBackbone, chunk: Chunk, audit: Audit) -> Arrays:
    """Everything measured of a chunk, from the cache where it was done before. The key is the content of what goes in."""
    inner = chunk.masks if chunk.inner is None else chunk.inner
    held = (chunk.pixels, chunk.masks, chunk.whole, chunk.replacement, inner)
    content = [hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in held]
    key = item_key("leakage.dependence", 2, backbone.identity, backbone.name, asdict(audit), content)
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
    inner = masks if chunk.inner is None else chunk.inner.to(backbone.device)
    found = {}
    for name in audit.extractors:
        ctx.check()
        read = masks if name == "single" else inner
        found[f"values {name}"] = _values(backbone, name, pixels, masks, read, replacement, audit)
    if backbone.kind_of_layers == "tokens" and (audit.attention or audit.token_norms):
        ctx.check()
        patches = patch_mask(masks, backbone.patch_sizes[0], audit.patch_rule)
        whole = patch_mask(chunk.whole.to(backbone.device), backbone.patch_sizes[0], "any")
        if audit.attention:
            found |= attention_sums(backbone, pixels, patches, whole)
        if audit.token_norms:
            found |= _norms(backbone, pixels, masks, replacement, patches, audit)
    return found


def extractor(backbone: VisionBackbone, name: str, audit: Audit) -> Extractor:
    """``single`` or ``two_stage`` as a function of pictures and masks: [L, B, P, D] of the layers asked for.

    Layers of a convolutional network differ in width: zeros fill up, which changes no norm and no cosine.
    """
    layers, norm = list(audit.layers), audit.norm
    if name == "single":
        made = partial(
            single_stage_layers, backbone, pool=audit.pooling, rule=audit.patch_rule, layers=layers, norm=norm
        )
    else:
        made = partial(two_stage_layers, backbone, layers=layers, norm=norm, **audit.two_stage)

    def extract(pixels: Tensor, masks: Tensor) -> Tensor:
        found = made(pixels, masks)
        width = max(each.shape[-1] for each in found)
        return torch.stack([functional.pad(each, (0, width - each.shape[-1])) for each in found])

    return extract


def _values(
    backbone: VisionBackbone, name: str, pixels: Tensor, masks: Tensor, read: Tensor, replacement: Tensor, audit: Audit
) -> np.ndarray[Any, Any]:
    """float64 [4, L, B, P] in the order of ``MEASURES``. ``masks`` say what lies outside a part, ``read`` what is extracted from."""
    extract = extractor(backbone, name, audit)

    def whole(x: Tensor) -> Tensor:
        return extract(x, read)

    one = None if name == "single" else lambda x, part: extract(x, read[:, part : part + 1])[..., 0, :]
    distances = replacement_dependence(whole, pixels, masks, replacement, one=one)
    share = gradient_share(whole, pixels, masks) if audit.gradient else torch.full_like(distances.d_out, torch.nan)
    return torch.stack([share, *distances]).cpu().numpy()


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
    plain = by_layer(backbone, backbone.embed(backbone.normalise(pixels)), range(backbone.depth + 1))
    for number, tokens in plain:
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
    raw = torch.stack([found.patches for found in plain_layers(backbone, pixels, audit.layers)])
    return raw, normed(backbone, raw, audit.norm)


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
    """All pictures, chunk by chunk; a part of which no picture has a vector is warned of."""
    _refuse(ctx, backbone, audit)
    reader = PartReader(images)
    rows = _drawn(reader, split, pictures, audit)
    if backbone.kind_of_layers != "tokens" and (audit.attention or audit.token_norms):
        ctx.warn(f"{backbone.name} is convolutional: it has no attention and no tokens to report")
    donors = draw_donors(rows, reader.splits, audit.seed) if audit.replace == "donor" else {}
    loader = Loader(reader, backbone, images.about, (), donors, audit.seed)
    chunks, seen, taken = [], [], list[int]()
    shown = np.zeros(len(reader.parts), np.int64)
    ctx.advance("pictures", 0, len(rows))
    for start in range(0, len(rows), batch):
        ctx.check()
        chunk = read_chunk(ctx, loader, rows[start : start + batch], audit)
        if chunk is not None:
            chunks.append(audit_chunk(ctx, backbone, chunk, audit))
            seen.append(chunk.sample_ids)
            shown += chunk.masks.flatten(2).any(-1).sum(0).numpy()
            left = iter(rows[start : start + batch])
            taken += [next(row for row in left if reader.sample_ids[row] == name) for name in chunk.sample_ids]
        ctx.advance("pictures", len(rows[start : start + batch]))
    if not chunks:
        raise DataError(f"{images.about['dataset']}: none of the {len(rows)} pictures drawn could be read")
    masks = (len(taken), drawn_masks(images, taken), shown)
    _warn_of_absent(ctx, reader.parts, chunks, audit, masks)
    groups = images.labels["group"][taken].tolist() if "group" in images.labels else None
    return _tables(backbone, images, audit, split, chunks, seen, groups)


def layers_of(ctx: StepContext, backbone: VisionBackbone, layers: str | Sequence[int]) -> tuple[int, ...]:
    """Layer numbers in rising order; ``last``, ``all``, or numbers. Raises ``StepError`` for one that there is not."""
    try:
        return tuple(sorted(layer_numbers(backbone.depth, None if layers == "last" else layers)))  # type: ignore[arg-type]
    except ValueError as error:
        raise StepError(f"layers: {backbone.name}: {error}", step=ctx.step) from error


def _refuse(ctx: StepContext, backbone: VisionBackbone, audit: Audit) -> None:
    """``StepError`` for what this backbone cannot do, before a picture is read."""
    try:
        check_norm(backbone, audit.norm)
        if "two_stage" in audit.extractors:
            check_two_stage(backbone, **audit.two_stage)
    except ValueError as error:
        raise StepError(str(error), step=ctx.step) from error


def _drawn(reader: PartReader, split: str, pictures: int, audit: Audit) -> list[int]:
    """Rows of the pictures: those of the split, at most ``pictures`` of them."""
    there = [row for row, own in enumerate(reader.splits) if split in ("all", own)]
    rows = sampled(there, pictures, audit.seed, lambda row: reader.sample_ids[row])
    if not rows:
        raise DataError(f"the split {split} has no picture", hint="Another split: all, train, val or test.")
    splits = Counter(reader.splits[row] for row in rows)
    if audit.replace == "donor" and min(splits.values()) < 2:
        raise DataError(
            f"replace: donor takes another picture of the same split, but there is one picture of {min(splits, key=lambda s: splits[s])}",
            hint="replace: mean, or more pictures.",
        )
    return rows


def read_chunk(ctx: StepContext, loader: Loader, rows: Sequence[int], audit: Audit) -> Chunk | None:
    """Some of the pictures with their masks and what replaces pixels; None where none can be read."""
    loaded = loader.load(rows)
    ids = loader.reader.sample_ids
    for row, why in loaded.unreadable.items():
        ctx.failed(ids[row], why)
    batch = loaded.batch
    if batch is None:
        return None
    others = batch.images
    if batch.donors is not None and batch.has_donor is not None:
        if len(loaded.rows) == 1 and not batch.has_donor.all():
            ctx.failed(ids[loaded.rows[0]], "the picture that was to replace its pixels cannot be read")
            return None
        others = torch.where(batch.has_donor[:, None, None, None], batch.donors, batch.images.roll(1, 0))
    replacement = replaced_by(audit.replace, batch.images, others, loader.backbone, audit.seed)
    return Chunk([ids[row] for row in loaded.rows], batch.images, batch.masks, batch.whole, replacement, batch.inner)


def drawn_masks(images: PartImages, rows: Sequence[int]) -> Counts:
    """How many of these pictures have a mask of each part: int64 [P]."""
    part = images.masks["part"].to_numpy()
    there = images.masks["visible"].to_numpy() & images.masks["runs"].is_valid().to_numpy() & (part >= 0)
    there &= np.isin(images.masks["row"].to_numpy(), rows)
    return np.bincount(part[there], minlength=len(images.about["parts"]))


def why_absent(pictures: int, drawn: int, left: int, rule: str) -> str:
    """Why none of the pictures has a vector of a part: it has a mask in ``drawn`` of them, and in ``left`` it still has pixels once
    they are cut to the input."""
    reasons = {
        "have no mask of it": pictures - drawn,
        "lose it when they are cut to the input": drawn - left,
        f"have no patch of it by the rule {rule}": left,
    }
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)


def _warn_of_absent(
    ctx: StepContext, parts: Sequence[str], chunks: Sequence[Arrays], audit: Audit, masks: tuple[int, Counts, Counts]
) -> None:
    """``masks``: pictures, and how many have a mask of each part, before and after they are cut to the input."""
    pictures, drawn, left = masks
    for name in audit.extractors:
        there = np.any([np.isfinite(found[f"values {name}"][1]).any((0, 1)) for found in chunks], axis=0)
        rule = audit.patch_rule if name == "single" else audit.two_stage["rule"]
        for part in np.flatnonzero(~there).tolist():
            why = why_absent(pictures, int(drawn[part]), int(left[part]), rule)
            ctx.warn(f"no picture has a vector of this part ({name}), of {pictures}: {why}", item=parts[part])


def _tables(
    backbone: VisionBackbone, images: PartImages, audit: Audit, split: str, chunks: Sequence[Arrays], seen: Sequence[list[str]],
    groups: Sequence[int] | None,
) -> Dependence:  # fmt: skip
    parts = list(images.about["parts"])
    own = {"dataset": images.about["dataset"], "model": backbone.name}
    made = {
        "leak_dependence": chain.from_iterable(picture_rows(ids, parts, c, audit) for ids, c in zip(seen, chunks, strict=True)),
        "leak_dependence_summary": summary_rows(chunks, parts, audit, groups),
        "leak_attention": attention_rows(chunks, parts),
        "leak_token_norm": norm_rows(chunks, audit),
    }  # fmt: skip
    tables = [arrow_table(name, [own | row for row in rows]) for name, rows in made.items()]
    model = {"name": backbone.name, "family": backbone.family, "identity": backbone.identity, "random_init": backbone.random_init,
             "small": backbone.small, "notes": [*backbone.notes]}  # fmt: skip
    return Dependence(model, {**asdict(audit), "split": split, "pictures": sum(map(len, seen))}, *tables)
