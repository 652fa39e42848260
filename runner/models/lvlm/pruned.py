"""Checkpoints of models with structures removed, in three formats, and the loader of the one that stock loaders cannot read.

``uniform``: a plain checkpoint, where a stock config can say what all layers look like, with ``pruning_record.json`` beside it, which
says what was kept and which loaders have no need of. ``manifest``: sliced weights and ``pruning.json``,
which says what each layer keeps; ``load`` builds the network on the meta device, resizes it and loads strictly. ``masked``: original
shapes with zeros, loadable anywhere, no smaller and no faster. A folder is written under another name and renamed when whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import DataError, ModelRefused
from runner.imports import building, importing
from runner.models.lvlm.anatomy import anatomy, text_configs
from runner.models.lvlm.cutting import layer_groups, own_configs, slice_layer
from runner.models.lvlm.plans import FIELDS, LayerWidths, Plan
from runner.models.lvlm.stock import WIDTHS, config_of, config_to_write, on_meta, source_widths, stock_class

if TYPE_CHECKING:
    import torch

Format = Literal["uniform", "manifest", "masked"]
MANIFEST = "pruning.json"
RECORD = "pruning_record.json"
VERSION = 1
SHARD = "5GB"
COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*")
"""Files beside the weights that go with a checkpoint: tokenizer, processor, templates, licences."""
OWN = ("config.json", "README.md", MANIFEST, RECORD)
LARGEST_COMPANION = 200_000_000


@dataclass(frozen=True)
class Written:
    """What ``write`` wrote: bytes and SHA-256 (hex) of the weight files, in the order of their names; ``note``: what a reader must know."""

    format: Format
    bytes: int
    sha256: str
    note: str | None = None


def write(
    network: Any,
    plan: Plan,
    folder: Path,
    format: Format,
    source_folder: Path,
    *,
    decoder: str = "auto",
    card: str = "",
) -> Written:
    """Write a cut network (``masked``: a zeroed one) as ``folder``, which must be empty or missing.

    ``plan``: what is kept, in indices of the model in ``source_folder``, whose tokenizer, processor and generation settings are copied;
    where that is a cut model with a manifest or record, the new one counts on in the original's indices, by which teachers are paired.
    ``card``: Markdown for README.md. Raises ``ModelRefused`` where the format cannot say this model, before anything is written;
    nothing is left where writing fails.
    """
    if format == "uniform":
        refuse_unequal(plan)
    config, note = config_to_write(network, format, source_folder, decoder)
    original = _in_original(plan, source_folder)
    manifest = _manifest(network, original, config, decoder) if format == "manifest" else None
    need = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    with _whole(folder, need) as draft:
        _save_weights(network, draft, source_folder, decoder)
        _write_json(draft / "config.json", config)
        if manifest is not None:
            _write_json(draft / MANIFEST, manifest)
        if format == "uniform":
            _write_json(draft / RECORD, {"version": VERSION, "plan": original.to_dict()})
        elif format == "masked":  # shapes and numbering are still the source's
            _copy_if_there(source_folder, draft, RECORD)
        copy_companions(source_folder, draft)
        (draft / "README.md").write_text(card or "# A pruned model\n", encoding="utf8")
        size, digest = weights_sha256(draft)
    return Written(format, size, digest, note)


def save_like(network: Any, source_folder: Path, folder: Path, *, card: str = "") -> Written:
    """Write a network that ``source_folder`` was loaded into and whose weights alone have changed: same layout, same manifest."""
    need = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    config = _read_json(source_folder / "config.json") | {"dtype": str(network.dtype).removeprefix("torch.")}
    is_pruned = (source_folder / MANIFEST).is_file()
    with _whole(folder, need) as draft:
        _save_weights(network, draft, source_folder, "auto")
        _write_json(draft / "config.json", config)
        for name in (MANIFEST, RECORD):
            _copy_if_there(source_folder, draft, name)
        copy_companions(source_folder, draft)
        (draft / "README.md").write_text(card or "# A trained model\n", encoding="utf8")
        size, digest = weights_sha256(draft)
    return Written("manifest" if is_pruned else "uniform", size, digest)


def load(folder: Path, dtype: torch.dtype | str, device: str = "cpu") -> Any:
    """The network of a folder with ``pruning.json``, in evaluation mode. Raises ``ModelRefused`` where manifest and weights disagree."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    plan, biases, decoder = read_manifest(folder)
    with importing:
        from transformers import AutoConfig
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind = _resized(stock_class(config), plan, biases, decoder)
        with building:
            network, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=wanted,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, DataError, StrictDataclassError) as error:
        raise ModelRefused(f"{folder}: {MANIFEST} does not fit config and weights: {error}") from error
    bad = [*report["missing_keys"], *report["unexpected_keys"], *(str(k) for k in report["mismatched_keys"])]
    if bad:
        raise ModelRefused(f"{folder}: weights and {MANIFEST} disagree on {len(bad)} tensors, such as {sorted(bad)[0]}")
    network.__class__ = kind.__mro__[1]
    return network.to(device).eval()


def skeleton(folder: Path) -> Any:
    """The network of a folder, stock or pruned, on the meta device: shapes from its small files, no weights. ``ModelRefused``."""
    network = on_meta(config_of(_read_json(folder / "config.json")))
    if (folder / MANIFEST).is_file():
        plan, biases, decoder = read_manifest(folder)
        try:
            _resize(network, plan, biases, decoder)
        except DataError as error:
            raise ModelRefused(f"{folder / MANIFEST}: {error.message}") from error
    return network


def read_manifest(folder: Path) -> tuple[Plan, list[str], str]:
    """What is kept, Linears (by path in the decoder) that got a bias, path of the decoder. Raises ``ModelRefused``."""
    told = _versioned(folder / MANIFEST)
    biases, decoder = told.get("added_biases", []), told.get("decoder", "auto")
    plan = _plan(told, folder / MANIFEST)
    if not isinstance(biases, list) or not all(isinstance(b, str) for b in biases) or not isinstance(decoder, str):
        raise ModelRefused(f"{folder / MANIFEST}: added_biases must be a list of names, decoder a name")
    return plan, biases, decoder


def kept_plan(folder: Path) -> Plan | None:
    """What a folder's model keeps of the original, by its manifest or record; None where it has neither. Raises ``ModelRefused``."""
    file = next((folder / name for name in (MANIFEST, RECORD) if (folder / name).is_file()), None)
    return None if file is None else _plan(_versioned(file), file)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy tokenizer, processor, templates, generation settings and licences; no weights, no code."""
    for pattern in COMPANIONS:
        for file in sorted(source.glob(pattern)):
            skipped = file.name in OWN or file.name.endswith(".index.json") or file.name.startswith("adapter_")
            if not skipped and file.is_file() and file.stat().st_size <= LARGEST_COMPANION:
                shutil.copyfile(file, folder / file.name)


def weights_sha256(folder: Path) -> tuple[int, str]:
    """Bytes and SHA-256 (hex) of a folder's safetensors files, one after the other by name."""
    total, digest = 0, hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        total += file.stat().st_size
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return total, digest.hexdigest()


# --- loading a manifest ------------------------------------------------------------------------------------------------


def _resized(stock: Any, plan: Plan, biases: list[str], decoder: str) -> Any:
    """A class of the stock one's name whose networks are resized as soon as they are built, so that weights meet their shapes."""

    def build(self: Any, config: Any, *given: Any, **named: Any) -> None:
        stock.__init__(self, config, *given, **named)
        _resize(self, plan, biases, decoder)

    return type(stock.__name__, (stock,), {"__init__": build, "__module__": stock.__module__})


def _resize(network: Any, plan: Plan, biases: list[str], decoder: str) -> None:
    groups = layer_groups(network, decoder)
    if len(groups) != len(plan.layers):
        raise DataError(f"the config has {len(groups)} layers, the plan {len(plan.layers)}")
    own_configs(network)
    for number, (group, widths) in enumerate(zip(groups, plan.widths, strict=True)):
        whole = LayerWidths.whole(group)
        counts = [len(getattr(widths, f)) for f in FIELDS]
        most = [len(getattr(whole, f)) for f in FIELDS]
        if any(c > m for c, m in zip(counts, most, strict=True)) or counts[0] % counts[1]:
            raise DataError(f"layer {number} cannot keep {counts} heads, key-value heads and neurons of {most}")
        slice_layer(group, LayerWidths(*(tuple(range(count)) for count in counts)))
    outputs = _outputs(network, decoder)
    for name in biases:
        if name not in outputs:
            raise DataError(f"no output {name!r} that a bias could belong to")
        _add_bias(outputs[name])


def _outputs(network: Any, decoder: str) -> dict[str, Any]:
    """The Linears that write into the residual stream, by layer and name."""
    found = {}
    for number, group in enumerate(layer_groups(network, decoder)):
        for kind in ("attention", "mlp"):
            member = group.members(kind)[-1]
            found[f"{number}.{member.path}"] = group.linear(member)
    return found


def _add_bias(linear: Any) -> None:
    import torch

    if linear.bias is None:
        linear.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=linear.weight.dtype, device="meta"))


# --- what is written ---------------------------------------------------------------------------------------------------


def refuse_unequal(plan: Plan) -> None:
    """``ModelRefused`` for a plan whose layers differ: format ``uniform`` cannot say it."""
    unequal = plan.unequal()
    if unequal:
        raise ModelRefused(
            f"format uniform: layers {', '.join(map(str, unequal[:12]))} keep other numbers of heads or neurons than layer "
            f"{plan.layers[0]}, which no stock config can say",
            hint="Write `format: manifest` (loads here) or `masked` (loads anywhere, no smaller), or cut all layers alike.",
        )


def _in_original(plan: Plan, source_folder: Path) -> Plan:
    """``plan`` in indices of the model that the source itself was cut from, as its own manifest or record counts."""
    before = kept_plan(source_folder)
    if before is None:
        return plan
    try:
        return before.drop(plan.layers).narrow(dict(enumerate(plan.widths)))
    except IndexError:
        raise ModelRefused(
            f"{source_folder}: what its {MANIFEST} or {RECORD} says was kept is less than its weights hold",
            hint="The file belongs to another model; remove it where it stands beside a plain checkpoint.",
        ) from None


def _manifest(network: Any, plan: Plan, config: dict[str, Any], decoder: str) -> dict[str, Any]:
    """``added_biases``: outputs that have a bias where the stock network has none."""
    stock = _outputs(on_meta(config_of(config)), decoder)
    added = [
        name
        for name, linear in _outputs(network, decoder).items()
        if linear.bias is not None and stock[name].bias is None
    ]
    return {
        "version": VERSION,
        "decoder": anatomy(network, decoder).decoder_path or "auto",
        "head_dim": layer_groups(network, decoder)[0].attention.head_dim,
        "added_biases": added,
        "plan": plan.to_dict(),
    }


def _save_weights(network: Any, draft: Path, source: Path, decoder: str) -> None:
    """Weights in shards, under the names they were loaded from, tied ones once; settings of generation as they are."""
    with importing:
        from transformers import GenerationConfig
    with _savable(network, source, decoder):
        if (source / "generation_config.json").is_file() and hasattr(network, "generation_config"):
            default = GenerationConfig()  # type: ignore[no-untyped-call]
            kept, network.generation_config = network.generation_config, default  # the source's file is copied
            try:
                network.save_pretrained(draft, max_shard_size=SHARD)
            finally:
                network.generation_config = kept
        else:
            network.save_pretrained(draft, max_shard_size=SHARD)


@contextlib.contextmanager
def _savable(network: Any, source: Path, decoder: str) -> Iterator[None]:
    """Widths of the source in the configs: some that were cut do not pass the library's checks when it saves them."""
    configs = text_configs(network, anatomy(network, decoder))
    before = [{name: getattr(c, name) for name in WIDTHS if hasattr(c, name)} for c in configs]
    try:
        for config, had in zip(configs, before, strict=True):
            for name, value in source_widths(source, had).items():
                setattr(config, name, value)
        yield
    finally:
        for config, had in zip(configs, before, strict=True):
            for name, value in had.items():
                setattr(config, name, value)


@contextlib.contextmanager
def _whole(folder: Path, need: int) -> Iterator[Path]:
    """A folder to fill that takes its name when whole, and is gone where filling fails. Raises ``DataError``."""
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < need:
        raise DataError(
            f"{folder.parent} has room for {free:,} bytes; the checkpoint needs {need:,}",
            hint="Make room and run again.",
        )
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    draft.mkdir()
    try:
        yield draft
        if folder.is_dir():
            folder.rmdir()
        draft.rename(folder)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "I/O" not in str(error) and "space" not in str(error):
            raise
        raise DataError(
            f"the checkpoint could not be written to {folder}: {error}", hint="Nothing is left of it."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf8")


def _versioned(path: Path) -> dict[str, Any]:
    told = _read_json(path)
    if told.get("version") != VERSION:
        raise ModelRefused(f"{path}: version {told.get('version')!r} is not {VERSION}")
    return told


def _plan(told: dict[str, Any], path: Path) -> Plan:
    try:
        return Plan.from_dict(told.get("plan"))
    except DataError as error:
        raise ModelRefused(f"{path}: {error.message}") from error


def _copy_if_there(source: Path, folder: Path, name: str) -> None:
    if (source / name).is_file():
        shutil.copyfile(source / name, folder / name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path} cannot be read: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise ModelRefused(f"{path} holds no JSON object")
    return found
