"""From embeddings to a sparse autoencoder on disk: rows gathered, trained on, measured; what the steps of this room run."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from runner.artifacts import ImageFeatures
from runner.assets import resolve
from runner.assets.cache import write_atomically
from runner.context import StepContext
from runner.data.sampling import sampled
from runner.errors import DataError, ModelRefused, RunnerError
from runner.models.base import ClipModel
from runner.models.classifier.weights import read_checkpoint
from runner.nodes.sem.losses import Objective, level_weights
from runner.nodes.sem.quality import Quality, cknna, decoder_coherence, measure
from runner.nodes.sem.sae import SparseAutoencoder, initialise, read_sae, write_sae
from runner.nodes.sem.sae_about import Architecture, Layout, SaeAbout, Weighting, check_levels
from runner.nodes.sem.training import LogRow, SaeTrainer, Schedule
from runner.nodes.text_embedding import embed_raw_texts
from runner.nodes.text_sources import blank_places, distinct_texts

Modality = Literal["text", "image", "both"]
LEAST_COSINE = 0.8
"""Mean cosine of reconstruction below which embeddings and autoencoder do not fit each other."""
MOST_FVU = 0.5
"""Fraction of variance unexplained above which the latents of inference do not give the embedding back."""
CKNNA_ROWS, CKNNA_NEIGHBOURS = 2000, 10
SAVE_SECONDS = 10.0
"""Least time between two saved states of a training."""
_STATE = "training.pt"


class Sources(NamedTuple):
    """What to encode: ``texts`` as a spec names them, embedded pictures, which of both, how many texts, drawn by ``seed``."""

    texts: Any
    images: ImageFeatures | None
    modality: Modality
    max_texts: int | None
    text_batch: int
    seed: int


class Plan(NamedTuple):
    """A training as the step was told."""

    objective: Objective
    schedule: Schedule
    latents: int
    weighting: Weighting
    val_fraction: float
    init: Literal["sem", "msae"]
    centre: bool
    seed: int
    export: tuple[Layout, ...]


class Claims(NamedTuple):
    """What the spec says of a file's autoencoder; None: nothing."""

    layout: Layout | None
    backbone: str | None
    levels: tuple[int, ...] | None
    weighting: Weighting | None
    architecture: Architecture | None


def default_levels(architecture: Architecture, d: int, latents: int) -> tuple[int, ...]:
    """[d/2, d, latents] for ``msae`` (ours), MSAE's k for ``topk`` and ``batch_topk``; never more than there are latents.

    All latents are a level of their own since SEM uses all of them at inference: trained on [d/2, d] alone, an autoencoder 32 times as
    wide as the embeddings overshoots them by far.
    """
    levels = {"msae": (max(1, d // 2), d, latents), "topk": (64,), "batch_topk": (32,)}.get(architecture, ())
    return tuple(sorted({min(level, latents) for level in levels}))


def default_lr(architecture: Architecture) -> float:
    """MSAE's learning rates."""
    return {"msae": 1e-4, "relu_l1": 5e-5}.get(architecture, 5e-4)


def weights_of(architecture: Architecture, levels: tuple[int, ...], weighting: Weighting) -> tuple[float, ...]:
    """Weights of the levels; the only loss of the other architectures has the weight 1."""
    return level_weights(len(levels), weighting) if architecture == "msae" else (1.0,)


def held_rows(val_fraction: float, n: int) -> int:
    """How many of ``n`` rows are held out to measure on, one at least."""
    return max(1, round(val_fraction * n))


def least_rows(val_fraction: float) -> int:
    """The least number of rows of which two are left to train on."""
    return next(n for n in range(3, 6) if n - held_rows(val_fraction, n) >= 2)


# --- training --------------------------------------------------------------------------------------------------------


def train(
    ctx: StepContext, clip: ClipModel, sources: Sources, plan: Plan
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train, write the folder ``folder``, and return the row of ``sae_model`` and the rows of ``sae_train_log``.

    Raises ``DataError`` before anything is encoded where sources or levels do not fit.
    """
    _check_plan(clip, sources, plan)
    rows = _rows(ctx, clip, sources)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(plan.seed))
    held = held_rows(plan.val_fraction, len(rows))
    if len(rows) - held < 2:
        least = least_rows(plan.val_fraction)
        raise DataError(
            f"{len(rows)} embeddings are too few to train on and to hold some out: at least {least} are needed",
            hint=f"Give {least} distinct texts or pictures, and for a useful autoencoder many more than there are latents.",
        )
    held_out, training = rows[order[:held]], rows[order[held:]]
    sae = _fresh(clip, training, sources.modality, plan).to(ctx.device)
    try:
        trainer = SaeTrainer(sae, training, held_out, plan.objective, plan.schedule, seed=plan.seed)
        _run(ctx, trainer)
    except ValueError as error:
        raise DataError(str(error)) from error
    sae = sae.cpu()
    counts = {"corpus_hash": _hash(rows), "n_train": len(training), "n_val": held}
    model = _finish(ctx, sae, "msae" if plan.centre else "sem", held_out, plan.export) | counts
    return model, [_log_row(model["sae_id"], row) for row in trainer.log]


def _check_plan(clip: ClipModel, sources: Sources, plan: Plan) -> None:
    modality = sources.modality
    if (sources.texts is None) != (modality == "image") or (sources.images is None) != (modality == "text"):
        raise DataError(
            f"modality {modality} needs {'texts and images' if modality == 'both' else modality + 's alone'}"
        )
    if sources.images is not None and sources.images.encoder.get("identity") != clip.identity:
        raise DataError(
            f"the pictures were embedded by another encoder than {clip.name}",
            hint="Give classify.features the same model as `encoder`.",
        )
    objective = plan.objective
    try:
        check_levels(objective.architecture, objective.levels, plan.latents)
    except ValueError as error:
        raise DataError(str(error)) from error
    if "sem" in plan.export and objective.architecture in ("topk", "batch_topk"):
        raise DataError(f"SEM's layout cannot hold {objective.architecture}, which keeps k latents at inference")


def _rows(ctx: StepContext, clip: ClipModel, sources: Sources) -> Tensor:
    """Embeddings float32 [n, d]: texts raw; pictures of unit norm, or of the texts' mean norm where both are wanted (ours)."""
    parts = []
    if sources.texts is not None:
        parts.append(_text_rows(ctx, clip, sources))
    if sources.images is not None:
        images = torch.from_numpy(sources.images.features["features"].astype("float32"))
        parts.append(images * parts[0].norm(dim=1).mean() if parts else images)
    return torch.cat(parts)


def _text_rows(ctx: StepContext, clip: ClipModel, sources: Sources) -> Tensor:
    found = sampled(distinct_texts(sources.texts), sources.max_texts, sources.seed, str)
    if blank := blank_places(sources.texts):
        shown = ", ".join(blank[:5]) + (", ..." if len(blank) > 5 else "")
        ctx.warn(f"{len(blank)} blank texts are left out, by number: {shown}")
    _warn_of_cuts(ctx, clip, found)
    return torch.from_numpy(embed_raw_texts(ctx, clip, found, batch_size=sources.text_batch))


def _warn_of_cuts(ctx: StepContext, clip: ClipModel, texts: list[str]) -> None:
    """Name texts longer than the context. A token stands for a byte or more, so that short texts need not be counted."""
    suspects = [text for text in texts if len(text.encode()) + 2 > clip.context_length]
    counts = clip.token_counts(suspects)
    long = [text for text, count in zip(suspects, counts, strict=True) if count > clip.context_length]
    if long:
        ctx.warn(f"{len(long)} texts have more than {clip.context_length} tokens and are cut, such as {long[0][:80]!r}")


def _fresh(clip: ClipModel, training: Tensor, modality: Modality, plan: Plan) -> SparseAutoencoder:
    objective = plan.objective
    target = math.sqrt(clip.dim) if plan.centre else None
    weighting = plan.weighting if objective.architecture == "msae" else None
    about = SaeAbout(
        clip.name, objective.architecture, objective.levels, weighting, clip.identity, clip.small, modality, target
    )
    sae = SparseAutoencoder(clip.dim, plan.latents, about)
    mean = training.mean(0)
    if target is not None:
        sae.mean.copy_(mean)
        # MSAE's code divides by the mean squared norm; then the mean norm would not be the target.
        sae.scale.fill_(target / float((training - mean).norm(dim=1).mean().clamp(min=torch.finfo(torch.float32).tiny)))
    generator = torch.Generator().manual_seed(plan.seed)
    initialise(sae, how=plan.init, mean=sae.standardised(mean), generator=generator)
    return sae


def _run(ctx: StepContext, trainer: SaeTrainer) -> None:
    """Train, go on from a saved state where there is one; the state is saved now and then, and when the run must stop."""
    state = ctx.scratch / _STATE
    if state.is_file():
        trainer.restore(read_checkpoint(state))
    ctx.advance("epochs", len(trainer.log), trainer.schedule.epochs)
    saved = time.monotonic()

    def after_epoch() -> None:
        nonlocal saved
        ctx.advance("epochs")
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(state, trainer)
            saved = time.monotonic()
        _check(ctx, lambda: _save(state, trainer))

    trainer.run(after_epoch, ctx.check)


def _check(ctx: StepContext, before_leaving: Callable[[], None]) -> None:
    try:
        ctx.check()
    except RunnerError:
        before_leaving()
        raise


def _save(path: Path, trainer: SaeTrainer) -> None:
    buffer = io.BytesIO()
    torch.save(trainer.state(), buffer)
    write_atomically(path, buffer.getvalue())


# --- a file ----------------------------------------------------------------------------------------------------------


def adopt(ctx: StepContext, path: str, clip: ClipModel | None, claims: Claims, sources: Sources) -> dict[str, Any]:
    """Read a file, check it against ``clip``, measure it on the texts, write the folder; returns the row of ``sae_model``."""
    if sources.texts is not None and clip is None:
        raise DataError("texts to measure on must be encoded", hint="Give `clip:`, the model of this autoencoder.")
    place = Path(resolve(path))
    sae = _read(place, claims, clip)
    if clip is not None:
        sae.about = replace(sae.about, backbone=claims.backbone or clip.name, encoder=clip.identity, small=clip.small)
        if sae.d != clip.dim:
            raise DataError(
                f"this autoencoder codes embeddings of width {sae.d}, and those of {clip.name} have {clip.dim}"
            )
    elif claims.backbone:
        sae.about = replace(sae.about, backbone=claims.backbone)
    rows = None if clip is None or sources.texts is None else _text_rows(ctx, clip, sources)
    layout = claims.layout if claims.layout in ("sem", "msae") else "msae" if float(sae.scale) != 1 else "sem"
    return _finish(ctx, sae, layout, rows, ())


def _read(place: Path, claims: Claims, clip: ClipModel | None) -> SparseAutoencoder:
    """The file's autoencoder; what the spec says goes before what the file does. Raises ``ModelRefused`` where neither suffices."""
    try:
        told = read_sae(place, claims.layout)
    except ModelRefused:
        enough = _claimed(claims, clip)
        if enough is None:
            raise
        return read_sae(place, claims.layout, enough)
    about = _over(told.about, claims)
    return told if about == told.about else read_sae(place, claims.layout, about)


def _claimed(claims: Claims, clip: ClipModel | None) -> SaeAbout | None:
    """What the spec says where it says enough to do without the file's own word."""
    backbone = claims.backbone or (clip.name if clip is not None else None)
    needed = claims.levels is not None or claims.architecture == "relu_l1"
    if backbone is None or not needed:
        return None
    return SaeAbout(backbone, claims.architecture or "msae", claims.levels or (), claims.weighting)


def _over(told: SaeAbout, claims: Claims) -> SaeAbout:
    """What the file says, with every claim in its place. ``relu_l1`` has no levels, and only ``msae`` weights them."""
    architecture = claims.architecture or told.architecture
    levels = () if architecture == "relu_l1" else told.levels
    weighting = told.weighting if architecture == "msae" else None
    return replace(
        told,
        backbone=claims.backbone or told.backbone,
        architecture=architecture,
        levels=levels if claims.levels is None else claims.levels,
        weighting=claims.weighting or weighting,
    )


# --- rows ------------------------------------------------------------------------------------------------------------


def _finish(
    ctx: StepContext, sae: SparseAutoencoder, layout: str, rows: Tensor | None, export: tuple[Layout, ...]
) -> dict[str, Any]:
    """Write the folder, measure on ``rows``, warn of a poor reconstruction."""
    folder = ctx.folder("folder")
    layouts: tuple[Layout, ...] = ("native", *export)
    for each in layouts:
        write_sae(sae, folder, each)
    about = sae.about
    model = {
        "sae_id": sae.digest(),
        "backbone": about.backbone,
        "small": about.small,
        "architecture": about.architecture,
        "d": sae.d,
        "latents": sae.latents,
        "levels": list(about.levels),
        "weighting": about.weighting,
        "layout": layout,
        "modality": about.modality,
        "corpus_hash": None,
        "n_train": None,
        "n_val": None if rows is None else len(rows),
        "decoder_coherence": decoder_coherence(sae.decoder.weight.detach().T),
    }
    return model | _measured(ctx, sae, rows)


def _measured(ctx: StepContext, sae: SparseAutoencoder, rows: Tensor | None) -> dict[str, Any]:
    if rows is None:
        return dict.fromkeys(("fvu", "cosine", "l0", "sparsity", "dead", "cknna"))
    quality = measure(sae, rows)
    _warn_of_quality(ctx, quality, len(rows))
    some = rows[:CKNNA_ROWS]
    aligned = cknna(some, sae.encode(some), CKNNA_NEIGHBOURS) if len(some) > CKNNA_NEIGHBOURS else None
    figures = quality._asdict()
    del figures["l2"]
    return {**figures, "cknna": aligned}


def _warn_of_quality(ctx: StepContext, quality: Quality, n: int) -> None:
    if not quality.cosine >= LEAST_COSINE:
        ctx.warn(
            f"the autoencoder reconstructs {n} embeddings that it was not trained on with a mean cosine of "
            f"{quality.cosine:.2f}, below {LEAST_COSINE}: train longer, or check that their scale is that of its training "
            "(raw against unit norm)"
        )
    elif not quality.fvu <= MOST_FVU:
        ctx.warn(
            f"with the latents of inference {quality.fvu:.2f} of the variance of {n} embeddings is left unexplained, more "
            f"than {MOST_FVU}: latents beyond the levels were never trained together; give the number of latents as the "
            "last level, or train longer"
        )


def _log_row(sae_id: str, row: LogRow) -> dict[str, Any]:
    quality = row.quality
    return {
        "sae_id": sae_id,
        "epoch": row.epoch,
        "lr": row.lr,
        "loss": row.loss,
        "level_losses": row.level_losses,
        "fvu": quality.fvu,
        "cosine": quality.cosine,
        "l0": quality.l0,
        "dead": quality.dead,
        "rare": row.rare,
        "seconds": row.seconds,
    }


def _hash(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()
