"""One merge on disk: a checkpoint with its card and, where the mixture is an adapter, that adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import DataError
from runner.nodes.merging.card import Source, card, licence_of
from runner.nodes.merging.checkpoints import Checkpoint
from runner.nodes.merging.describing import expert_paths
from runner.nodes.merging.experts import Merger, open_expert
from runner.nodes.merging.lora import concatenate_adapters, read_adapter, write_adapter
from runner.nodes.merging.stream import write_merged
from runner.nodes.merging.weighing import check_weights, merges

if TYPE_CHECKING:
    from runner.artifacts import Experts, MergedLvlm
    from runner.context import StepContext
    from runner.models.base import VisionLanguageModel
    from runner.nodes.merging.lora import LoraAdapter
    from runner.nodes.merging.specs import MergeSpec

LINEAR = ("linear", "task_arithmetic")


def linear_coefficients(spec: MergeSpec, weights: Sequence[float]) -> list[float] | None:
    """c with merge = theta_0 + sum_k c_k (theta_k - theta_0) for every tensor that takes part; None for any other merge."""
    by_tensor = spec.filters or spec.gradients or any(isinstance(own, dict) for own in spec.sections.values())
    if spec.method not in LINEAR or by_tensor:
        return None
    total = sum(weights) if (spec.normalizes if spec.method == "linear" else spec.normalize) else 1.0
    return [(1.0 if spec.method == "linear" else spec.scale) * w / total for w in weights]


def full_weights(weights: Mapping[str, float], experts: Sequence[str]) -> list[float]:
    """One weight an expert, 0 for those not named. Raises ``DataError`` for names of no expert."""
    strange = [name for name in weights if name not in experts]
    if strange:
        raise DataError(f"{strange[0]!r} is no expert; they are {', '.join(experts)}")
    return [float(weights.get(name, 0.0)) for name in experts]


def check_base(folder: Path, experts: Experts) -> None:
    """Raises ``DataError`` where experts are to be merged on another base than the one they were checked on."""
    known = Path(experts.base["folder"])
    if known.resolve() != folder.resolve() and Checkpoint(known).entries.keys() != Checkpoint(folder).entries.keys():
        raise DataError(f"the experts belong to the base {known}, not to {folder}")


def write_merge(
    ctx: StepContext, base: VisionLanguageModel, folder: Path, experts: Experts, weights: Mapping[str, float],
    spec: MergeSpec, label: str,
) -> MergedLvlm:  # fmt: skip
    """Write the merge below the step's folders."""
    from results.tables import arrow_table
    from runner.artifacts import MergedLvlm

    paths = expert_paths(experts)
    row = full_weights(weights, list(paths))
    check_weights(spec, list(paths), row)
    check_base(folder, experts)
    own = Checkpoint(folder)
    merger = Merger(own, [open_expert(name, path, own) for name, path in paths.items()], spec)
    counts = {"merged": len(merger.names), "copied": len(own.entries) - len(merger.names)}
    sources = [Source(name, licence_of(path)) for name, path in paths.items()]
    text = card(spec, Source(base.name, licence_of(folder)), sources, row, counts=counts, notes=base.notes)
    checkpoint = ctx.folder("checkpoint")
    ctx.advance("tensors", 0, len(own.entries))
    written = write_merged(merger, row, checkpoint, card=text, progress=lambda name: _step(ctx))
    adapter = _write_adapter(ctx.folder("adapter"), paths, row, spec, base, sources)
    merge_row = {
        "mixture_id": label, "method": spec.method, "execution": "stream", "n_merged": written.n_merged,
        "n_copied": written.n_copied, "seconds": written.seconds, "bytes_written": written.bytes_written, "sha256": written.sha256,
    }  # fmt: skip
    summary: dict[str, Any] = {
        "label": label, "weights": dict(zip(paths, row, strict=True)), "merge": spec.model_dump(mode="json", by_alias=True),
        "adapter": adapter, **counts,
    }  # fmt: skip
    return MergedLvlm(checkpoint, ctx.folder("adapter"), arrow_table("dmo_merge", [merge_row]), summary)


def _step(ctx: StepContext) -> None:
    ctx.check()
    ctx.advance("tensors")


def mixture_adapter(
    paths: Mapping[str, Path],
    weights: Sequence[float],
    spec: MergeSpec,
    adapters: Mapping[str, LoraAdapter] | None = None,
) -> LoraAdapter | None:
    """The one adapter that is the merge, or None where none is: another method, a whole expert, part of a full tensor left out."""
    coefficients = linear_coefficients(spec, weights)
    if coefficients is None or not all((path / "adapter_config.json").is_file() for path in paths.values()):
        return None
    found = dict(adapters or {name: read_adapter(path) for name, path in paths.items()})
    taking_part = [_part(adapter, spec) for adapter in found.values()]
    try:
        return concatenate_adapters(taking_part, coefficients)
    except DataError:
        # A full tensor whose rest is the base's: only the whole checkpoint can hold it.
        return None


def _part(adapter: LoraAdapter, spec: MergeSpec) -> LoraAdapter:
    from dataclasses import replace

    factors = {name: pair for name, pair in adapter.factors.items() if merges(spec, f"{name}.weight")}
    full = {name: tensor for name, tensor in adapter.full.items() if merges(spec, name)}
    return replace(adapter, factors=factors, scaling={name: adapter.scaling[name] for name in factors}, full=full)


def _write_adapter(
    folder: Path, paths: Mapping[str, Path], weights: Sequence[float], spec: MergeSpec, base: VisionLanguageModel,
    sources: Sequence[Source],
) -> bool:  # fmt: skip
    adapter = mixture_adapter(paths, weights, spec)
    if adapter is None:
        return False
    write_adapter(adapter, folder, adapter.base_name or base.name)
    text = card(spec, Source(base.name, licence_of(base.folder)), sources, weights, adapter=True)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return True
