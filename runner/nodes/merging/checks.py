"""Whether experts belong to one base, from small files and headers: before any weight is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runner.errors import ModelRefused
from runner.nodes.merging.adapter_files import read_settings
from runner.nodes.merging.checkpoints import FLOATING, Checkpoint, Entry, read_header, read_json
from runner.nodes.merging.names import canonical, match

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LORA_PART = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight$")
PEFT_PREFIX = "base_model.model."
TOKENIZER, TIED = "tokenizer.json", "tie_word_embeddings"
SHARED_KEYS = (
    "model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "intermediate_size", "vocab_size",
)  # fmt: skip
"""What must agree in the configs of full experts and the base; checked by name so that a message can say what differs."""


@dataclass(frozen=True)
class ExpertFacts:
    """One expert, as its headers tell. ``merged``: tensors of the base that it can change; ``copied``: those it cannot;
    ``ignored``: tensors of its own without a place in the base. ``rank`` and ``scaling``: of a LoRA (the largest rank)."""

    name: str
    path: Path
    kind: Literal["lora", "full"]
    sha256: str
    merged: int
    copied: int
    ignored: tuple[str, ...] = ()
    rank: int | None = None
    scaling: float | None = None
    base_name: str | None = None


@dataclass(frozen=True)
class Checked:
    """Experts that can be merged on one base, and what a reader of the results should know."""

    experts: tuple[ExpertFacts, ...]
    warnings: tuple[str, ...] = field(default=())


def check_experts(base_folder: Path, experts: Mapping[str, Path], base_name: str = "") -> Checked:
    """Refuse what cannot be merged, naming tensor, shapes and files; no weight is read, only hashed.

    ``base_name``: what the base is called besides its folder; LoRA experts say nothing of their base but its name and its shapes.
    Raises ``ModelRefused``: fewer than two experts, folders without safetensors, pickled or quantised weights, other
    architectures, vocabularies, names or shapes than the base, experts of different bases, heads tied in one and not in the other.
    """
    if len(experts) < 2:
        raise ModelRefused(f"{len(experts)} expert(s); a mixture needs at least 2")
    base = Checkpoint(base_folder)
    refuse_quantised(base_folder, base.config, base.entries.values())
    warnings: list[str] = []
    facts = [expert_facts(base, name, path, warnings) for name, path in experts.items()]
    _refuse_other_bases(base_folder, base_name, facts, warnings)
    return Checked(tuple(facts), (*warnings, *_repeats(facts)))


def expert_facts(base: Checkpoint, name: str, path: Path, warnings: list[str]) -> ExpertFacts:
    """Check one expert against the base. Raises ``ModelRefused``."""
    if not path.is_dir():
        raise ModelRefused(f"expert {name}: {path} is not a folder")
    if (path / ADAPTER_CONFIG).is_file():
        return _lora_facts(base, name, path)
    if (path / "config.json").is_file():
        return _full_facts(base, name, path, warnings)
    raise ModelRefused(f"expert {name}: {path} holds neither {ADAPTER_CONFIG} nor config.json")


def weights_sha256(files: Iterable[Path]) -> str:
    """SHA-256 (hex) over the files' own hashes, in order: the same for a single file under any name."""
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def refuse_quantised(folder: Path, config: dict[str, Any], entries: Iterable[Entry]) -> None:
    """Integer codes and 8-bit floats are no weights that can be averaged. Raises ``ModelRefused``."""
    parts = (config, *(part for part in config.values() if isinstance(part, dict)))
    odd = {entry.dtype for entry in entries} - FLOATING - {"I64", "BOOL"}
    if any(part.get("quantization_config") for part in parts) or odd:
        kind = ", ".join(sorted(odd)) or "by its config"
        raise ModelRefused(
            f"{folder} is quantised ({kind}): quantised weights cannot be averaged",
            hint="name the checkpoint it was made from",
        )


# --- LoRA ------------------------------------------------------------------------------------------------------------


def _lora_facts(base: Checkpoint, name: str, path: Path) -> ExpertFacts:
    config, file = read_settings(path), path / ADAPTER_WEIGHTS
    if not file.is_file():
        pickled = (path / "adapter_model.bin").is_file()
        why = "its adapter is pickled, which can run code when read" if pickled else f"{path} has no {ADAPTER_WEIGHTS}"
        raise ModelRefused(f"expert {name}: {why}")
    _, entries = read_header(file)
    refuse_quantised(path, {}, entries.values())
    shapes = _adapted_shapes(name, file, entries)
    matching = match(base.entries, shapes)
    for own, target in matching.found.items():
        _refuse_shape(name, target, shapes[own], file, base)
    if not matching.found:
        raise ModelRefused(
            f"expert {name}: none of its {len(shapes)} tensors has a place in {base.folder} "
            f"({next(iter(shapes), 'it has none')}): it belongs to another model"
        )
    if matching.ignored:
        raise ModelRefused(
            f"expert {name}: {matching.ignored[0]} has no place in {base.folder}{_why_not(matching.ignored[0], base)}",
            hint="merge the adapter into its own base first, or train without that module",
        )
    ranks = [entry.shape[0] for key, entry in entries.items() if ".lora_A" in key] or [0]
    return ExpertFacts(
        name, path, "lora", weights_sha256([file]), len(matching.found), len(base.entries) - len(matching.found),
        matching.ignored, max(ranks), _scaling(config), config.get("base_model_name_or_path"),
    )  # fmt: skip


def _why_not(key: str, base: Checkpoint) -> str:
    is_head = canonical(key).startswith("lm_head") and tied(base.config)
    return ", whose head is its embedding table" if is_head else ""


def _adapted_shapes(name: str, file: Path, entries: Mapping[str, Entry]) -> dict[str, tuple[int, ...]]:
    """Weight that is adapted -> the shape it must have. Raises ``ModelRefused`` for a factor without its other half."""
    halves: dict[str, dict[str, Entry]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for key, entry in entries.items():
        found = LORA_PART.match(key)
        if found:
            halves.setdefault(found[1] + ".weight", {})[found[2]] = entry
        elif "lora_" not in key:
            shapes[plain_name(key)] = entry.shape
    for weight, pair in halves.items():
        if len(pair) != 2 or len(pair["A"].shape) != 2 or pair["A"].shape[0] != pair["B"].shape[-1]:
            raise ModelRefused(f"expert {name}: {file} has no pair of matching factors for {weight}")
        shapes[weight] = (pair["B"].shape[0], pair["A"].shape[1])
    return shapes


def plain_name(key: str) -> str:
    """Name of a tensor that an adapter carries whole, without what peft puts around it."""
    return key.removeprefix(PEFT_PREFIX).replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")


def _scaling(config: dict[str, Any]) -> float | None:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not rank or alpha is None:
        return None
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


# --- full checkpoints ------------------------------------------------------------------------------------------------


def _full_facts(base: Checkpoint, name: str, path: Path, warnings: list[str]) -> ExpertFacts:
    own = Checkpoint(path)
    refuse_quantised(path, own.config, own.entries.values())
    _refuse_other_config(name, base, own)
    _refuse_other_words(name, base.folder, path)
    matching = match(base.entries, own.entries)
    for key, target in matching.found.items():
        _refuse_shape(name, target, own.entries[key].shape, own.entries[key].file, base)
    if not matching.found:
        raise ModelRefused(f"expert {name}: no tensor of {path} has a name of {base.folder}")
    heads = [key for key in matching.missing if canonical(key).startswith("lm_head")]
    if heads:
        raise ModelRefused(
            f"expert {name}: {path} ties its head to its embeddings, the base has a head of its own ({heads[0]})"
        )
    if matching.missing:
        raise ModelRefused(
            f"expert {name}: {path} lacks {len(matching.missing)} tensors of the base, such as {matching.missing[0]}"
        )
    if matching.ignored:
        _say_ignored(name, matching.ignored, base, warnings)
    sha = weights_sha256([shard.file for shard in own.shards])
    found = len(matching.found)
    return ExpertFacts(name, path, "full", sha, found, len(base.entries) - found, matching.ignored)


def _refuse_other_config(name: str, base: Checkpoint, own: Checkpoint) -> None:
    mine, theirs = _flat(own.config), _flat(base.config)
    for key in sorted(mine.keys() & theirs.keys()):
        if mine[key] != theirs[key] and key.rsplit(".", 1)[-1] in SHARED_KEYS:
            raise ModelRefused(
                f"expert {name}: {key} is {mine[key]!r} in {own.folder} and {theirs[key]!r} in the base {base.folder}",
                hint="experts must be trained from the base itself",
            )
    if tied(own.config) != tied(base.config):
        raise ModelRefused(
            f"expert {name}: {TIED} is {tied(own.config)} in {own.folder} and {tied(base.config)} in the base"
        )


def tied(config: dict[str, Any]) -> bool:
    """Whether the output head is the embedding table, by ``config.json``."""
    text = config.get("text_config")
    own = config.get(TIED, text.get(TIED) if isinstance(text, dict) else None)
    return bool(own)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    nested = {f"{k}.{n}": v for k, part in config.items() if isinstance(part, dict) for n, v in part.items()}
    return {k: v for k, v in config.items() if not isinstance(v, dict)} | nested


def _refuse_other_words(name: str, base: Path, own: Path) -> None:
    """Embedding rows mean tokens: a table with other rows is another one."""
    mine, theirs = own / TOKENIZER, base / TOKENIZER
    if not (mine.is_file() and theirs.is_file()) or mine.read_bytes() == theirs.read_bytes():
        return
    differing = sorted(_vocabulary(mine).items() ^ _vocabulary(theirs).items())
    if differing:
        raise ModelRefused(
            f"expert {name}: the vocabularies of {own} and the base differ, for example at {json.dumps(differing[0][0])[:80]}"
        )


def _vocabulary(path: Path) -> dict[str, int]:
    words = read_json(path)
    table = words.get("model", {}).get("vocab", {})
    if isinstance(table, list):
        table = {str(row[0]): number for number, row in enumerate(table)}
    added = {row["content"]: row["id"] for row in words.get("added_tokens") or [] if isinstance(row, dict)}
    return {**table, **added}


# --- both ------------------------------------------------------------------------------------------------------------


def _refuse_shape(name: str, target: str, shape: tuple[int, ...], file: Path, base: Checkpoint) -> None:
    entry = base.entries[target]
    if shape == entry.shape:
        return
    rows = shape[1:] == entry.shape[1:] and ("embed" in target or "lm_head" in target)
    raise ModelRefused(
        f"expert {name}: {target} is {list(shape)} in {file} and {list(entry.shape)} in {entry.file}"
        + ("; the vocabularies differ" if rows else ""),
        hint="experts must be trained from the base itself",
    )


def _say_ignored(name: str, ignored: tuple[str, ...], base: Checkpoint, warnings: list[str]) -> None:
    """A tied head that is written out as well is harmless; anything else without a place is said."""
    heads = [key for key in ignored if canonical(key).startswith("lm_head")]
    if len(heads) == len(ignored) and tied(base.config):
        warnings.append(f"expert {name}: {heads[0]} is ignored, since the base's head is its embedding table")
        return
    warnings.append(
        f"expert {name}: {len(ignored)} tensors without a place in the base are ignored, such as {ignored[0]}"
    )


def _refuse_other_bases(base: Path, base_name: str, facts: list[ExpertFacts], warnings: list[str]) -> None:
    """LoRA experts are known to share a base by its name alone: another name than the base's own is said."""
    named = {fact.name: Path(fact.base_name).name for fact in facts if fact.base_name}
    if len(set(named.values())) > 1:
        (one, a), (other, b) = list({v: (k, v) for k, v in named.items()}.values())[:2]
        raise ModelRefused(f"experts of different bases: {one} was trained from {a}, {other} from {b}")
    own = (base_name, str(read_json(base / "config.json").get("_name_or_path", "")), base.name, base.resolve().name)
    known = list(dict.fromkeys(name for text in own if (name := Path(text).name)))
    if named and not set(known) & set(named.values()):
        found = next(iter(named.values()))
        warnings.append(
            f"the experts name the base {found[:200]!r}, this one is called {', '.join(known)[:200]}; shapes agree, and an adapter "
            "tells no more of its base: make sure that it is the same model"
        )


def _repeats(facts: list[ExpertFacts]) -> list[str]:
    seen: dict[str, str] = {}
    found = []
    for fact in facts:
        if fact.sha256 in seen:
            found.append(f"experts {seen[fact.sha256]} and {fact.name} are the same weights ({fact.path})")
        seen.setdefault(fact.sha256, fact.name)
    return found
