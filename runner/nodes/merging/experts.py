"""Experts as what they change of the base: whole tensors or low-rank factors, read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.errors import DataError, ModelRefused
from runner.nodes.merging.checkpoints import FLOATING, Checkpoint
from runner.nodes.merging.checks import ADAPTER_CONFIG
from runner.nodes.merging.names import match

if TYPE_CHECKING:
    from torch import Tensor

    from runner.nodes.merging.execution import LowRank
    from runner.nodes.merging.specs import MergeSpec


class Expert(Protocol):
    """One expert on one base; tensors go by their names in the base's checkpoint."""

    name: str

    def touches(self, name: str) -> bool:
        """Whether it may differ from the base there."""

    def weight(self, name: str, base: Tensor) -> Tensor:
        """Its tensor; ``base``: the base's, as stored. In float32 where it is computed, else as stored."""

    def difference(self, name: str, base: Tensor) -> LowRank | Tensor | None:
        """Its tensor minus the base's, in float32 or as factors; None where it is the base's."""


class FullExpert:
    """A whole checkpoint."""

    def __init__(self, name: str, folder: Path, base: Checkpoint) -> None:
        self.name, self.own = name, Checkpoint(folder)
        self._names = {target: key for key, target in match(base.entries, self.own.entries).found.items()}

    def touches(self, name: str) -> bool:
        """Any tensor of a checkpoint may differ."""
        return name in self._names

    def weight(self, name: str, base: Tensor) -> Tensor:
        """As stored."""
        return self.own.tensor(self._names[name]) if name in self._names else base

    def difference(self, name: str, base: Tensor) -> Tensor | None:
        """Computed in float32: half precision would lose most of its bits."""
        return self.own.tensor(self._names[name]).float() - base.float() if name in self._names else None


class LoraExpert:
    """A folder of peft: factors of Linears, and tensors that it carries whole."""

    def __init__(self, name: str, folder: Path, base: Checkpoint) -> None:
        from runner.nodes.merging.execution import LowRank
        from runner.nodes.merging.lora import read_adapter

        self.name, adapter = name, read_adapter(folder)
        low = {f"{module}.weight": (module, *pair) for module, pair in adapter.factors.items()}
        names = match(base.entries, [*low, *adapter.full]).found
        self.low = {
            names[key]: LowRank(a, b, adapter.scaling[module]) for key, (module, a, b) in low.items() if key in names
        }
        self.whole = {names[key]: tensor for key, tensor in adapter.full.items() if key in names}

    @property
    def whole_outside_projector(self) -> bool:
        """Whether it carries tensors that are large, or tied, beside a projector's."""
        from runner.nodes.merging.weighing import section_of

        return any(section_of(name) != "multi_modal_projector" for name in self.whole)

    def touches(self, name: str) -> bool:
        """Adapted or carried."""
        return name in self.low or name in self.whole

    def weight(self, name: str, base: Tensor) -> Tensor:
        """The base plus scaling * B A, multiplied in float32."""
        if name in self.low:
            a, b, scaling = self.low[name]
            return base.float() + scaling * (b.float() @ a.float())
        return self.whole.get(name, base)

    def difference(self, name: str, base: Tensor) -> LowRank | Tensor | None:
        """Factors are left as they are."""
        if name in self.low:
            return self.low[name]
        return self.whole[name].float() - base.float() if name in self.whole else None


def open_expert(name: str, folder: Path, base: Checkpoint) -> Expert:
    """A checked expert by what its folder holds."""
    kind: Any = LoraExpert if (folder / ADAPTER_CONFIG).is_file() else FullExpert
    expert: Expert = kind(name, folder, base)
    return expert


def changed_names(base: Checkpoint, experts: Sequence[Expert]) -> list[str]:
    """Floating tensors of the base that some expert may change, in the base's order."""
    return [
        name for shard in base.shards for name in shard.names
        if base.entries[name].dtype in FLOATING and any(expert.touches(name) for expert in experts)
    ]  # fmt: skip


def differences(base: Checkpoint, experts: Sequence[Expert]) -> Iterator[tuple[str, list[LowRank | Tensor | None]]]:
    """Tensor by tensor what each expert changes. Raises ``ModelRefused`` naming a tensor that is not finite."""
    for name in changed_names(base, experts):
        tensor = base.tensor(name)
        found = [expert.difference(name, tensor) for expert in experts]
        for expert, difference in zip(experts, found, strict=True):
            if difference is not None and not _finite(difference):
                raise ModelRefused(
                    f"expert {expert.name}: {name} holds values that are not finite",
                    hint="its training diverged, or the file is damaged",
                )
        yield name, found


def _finite(difference: LowRank | Tensor) -> bool:
    import torch

    parts = (difference,) if isinstance(difference, torch.Tensor) else (difference.a, difference.b)
    return all(bool(torch.isfinite(part).all()) for part in parts)


class Merger:
    """A merge of experts on one base, tensor by tensor: the method with all that it needs besides the tensors."""

    def __init__(self, base: Checkpoint, experts: Sequence[Expert], spec: MergeSpec) -> None:
        """Raises ``ModelRefused`` where the spec lets no tensor take part."""
        from runner.nodes.merging.weighing import merges

        self.base, self.experts, self.spec = base, list(experts), spec
        self.labels = [expert.name for expert in experts]
        text = base.config.get("text_config")
        self.layers: int | None = (text if isinstance(text, dict) else base.config).get("num_hidden_layers")
        self.names = [name for name in changed_names(base, experts) if merges(spec, name)]
        if not self.names:
            raise ModelRefused(
                f"no tensor of {base.folder} would be merged", hint="look at include, exclude and sections of the merge"
            )
        self._fisher = FisherFiles(spec.fisher, self.labels) if spec.fisher else None

    def tensor(self, name: str, base: Tensor, weights: Sequence[float]) -> Tensor:
        """The merged tensor in the spec's dtype; ``base``: the base's, as stored."""
        return self.merged(name, base, [expert.weight(name, base) for expert in self.experts], weights)

    def merged(self, name: str, base: Tensor, experts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """``tensor`` for experts that are at hand."""
        from runner.nodes.merging.methods import merge_tensor

        extra: dict[str, Any] = {}
        if self._fisher is not None:
            extra = {"fishers": self._fisher.tensors(name, self.base), "fisher_norms": self._fisher.norms}
        return merge_tensor(self.spec, name, base, experts, weights, names=self.labels, layers=self.layers, **extra)


class FisherFiles:
    """Fisher values of the experts, a safetensors file each; ``norms``: Euclidean norms over all their tensors."""

    def __init__(self, files: Mapping[str, str], experts: Sequence[str]) -> None:
        self._files = [Path(files[expert]) for expert in experts]
        missing = [file for file in self._files if not file.is_file()]
        if missing:
            raise DataError(f"there is no file of Fisher values at {missing[0]}")
        self._open = [_WeightFile(file) for file in self._files]
        self.norms = [
            sum(float(file.tensor(key).double().square().sum()) for key in file.entries) ** 0.5 for file in self._open
        ]  # fmt: skip

    def tensors(self, name: str, base: Checkpoint) -> list[Tensor]:
        """Of one tensor. Raises ``DataError`` where a file lacks it."""
        found = []
        for file in self._open:
            keys = {target: key for key, target in match(base.entries, file.entries).found.items()}
            if name not in keys:
                raise DataError(f"{file.path} holds no Fisher values of {name}")
            found.append(file.tensor(keys[name]))
        return found


class _WeightFile:
    def __init__(self, path: Path) -> None:
        from runner.nodes.merging.checkpoints import read_header

        self.path, self.entries = path, read_header(path)[1]

    def tensor(self, name: str) -> Tensor:
        from runner.nodes.merging.checkpoints import read_tensor

        return read_tensor(self.entries[name])
