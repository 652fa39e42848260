"""The model card that lies beside merged weights: YAML front matter, the merge in full. Pure but for ``licence_of``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.nodes.merging.specs import MergeSpec

MAX_CARD = 1 << 20
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_REFERENCES = {
    "linear": "arXiv 2203.05482", "task_arithmetic": "arXiv 2212.04089", "ties": "arXiv 2306.01708",
    "dare_linear": "arXiv 2311.03099", "dare_ties": "arXiv 2311.03099", "breadcrumbs": "arXiv 2312.06795",
    "breadcrumbs_ties": "arXiv 2312.06795", "della": "arXiv 2406.11617", "della_linear": "arXiv 2406.11617",
    "karcher": "arXiv 2603.04972", "model_stock": "arXiv 2403.19522", "sce": "arXiv 2408.07990", "fisher": "arXiv 2111.09832",
    "iso": "arXiv 2502.04959",
}  # fmt: skip

_TERMS = "The merge is bound by the terms of every model in this table, and of the data behind them."


@dataclass(frozen=True)
class Source:
    """A model that went into a merge. ``licence``: as its own card says it, None where it says nothing."""

    name: str
    licence: str | None = None
    note: str = ""


def card(
    spec: MergeSpec,
    base: Source,
    experts: Sequence[Source],
    weights: Sequence[float],
    *,
    counts: Mapping[str, int] | None = None,
    adapter: bool = False,
    notes: Sequence[str] = (),
) -> str:
    """Markdown. ``counts``: of tensors (``merged``, ``copied``, ``ignored``); ``adapter``: the folder holds a LoRA, no model."""
    parts = [_front(base, experts, adapter), _head(spec, adapter), _sources(base, experts, weights), _spec(spec)]
    if counts:
        parts.append("Tensors: " + ", ".join(f"{count} {_flat(what)}" for what, count in counts.items()) + ".")
    if notes:
        parts.append("\n".join(f"- {_flat(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def licence_of(folder: Path) -> str | None:
    """``license`` in the front matter of the folder's README.md; None where there is none or it cannot be read."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            found = _FRONT.match(file.read(MAX_CARD))
        # Without aliases a small text cannot become a large value.
        front = yaml.safe_load(found[1]) if found and not re.search(r"[&*]\w", found[1]) else None
    except (OSError, yaml.YAMLError, RecursionError, ValueError):
        return None
    named = [front.get(key) for key in ("license_name", "license")] if isinstance(front, dict) else []
    return next((_flat(value) for value in named if isinstance(value, str) and value.strip()), None)


def _front(base: Source, experts: Sequence[Source], adapter: bool) -> str:
    licences = {source.licence for source in (base, *experts)}
    known = licences.pop() if len(licences) == 1 else None
    about: dict[str, Any] = {
        "base_model": [_flat(source.name) for source in (base, *experts)],
        "base_model_relation": "adapter" if adapter else "merge",
        "license": known or "other",
        "tags": ["merge", *(["peft", "lora"] if adapter else [])],
    }
    return "---\n" + yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=1000) + "---"


def _head(spec: MergeSpec, adapter: bool) -> str:
    source = f" ({_REFERENCES[spec.method]})" if spec.method in _REFERENCES else ""
    what = "An adapter that stands for a merge" if adapter else "A merge"
    return f"""\
# Merged model

{what} of the models below by the method `{spec.method}`{source}, rule of the convention `{spec.rule}`. It was not trained
as a whole."""


def _sources(base: Source, experts: Sequence[Source], weights: Sequence[float]) -> str:
    rows = [("base", base, "")]
    rows += [("expert", x, f"{w:.10g}") for x, w in zip(experts, weights, strict=True)]
    lines = [
        f"| {kind} | {_cell(x.name)} | {w} | {_cell(x.licence or 'not stated')} | {_cell(x.note)} |"
        for kind, x, w in rows
    ]
    head = ["| part | model | weight | licence | note |", "|---|---|---|---|---|"]
    return "\n".join([*head, *lines, "", _TERMS])


def _spec(spec: MergeSpec) -> str:
    said = spec.model_dump(mode="json", by_alias=True)
    # Names of files, not where they stood on this machine.
    said["fisher"] = {expert: Path(file).name for expert, file in spec.fisher.items()}
    settings = yaml.safe_dump(said, sort_keys=False, allow_unicode=True)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", settings)), default=0))
    return f"## Settings\n\n{fence}yaml\n{settings}{fence}"


def _flat(text: object) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= 300 else flat[:299] + "…"


def _cell(text: str) -> str:
    return re.sub(r"([|`<>\[\]*_\\])", r"\\\1", _flat(text))
