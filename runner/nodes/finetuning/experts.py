"""Several trainings of one base: an expert a domain, or a model a mixture. One after another, each finished one kept."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.artifacts import Experts
from runner.context import StepContext
from runner.nodes.finetuning.learner import ADAPTER_WEIGHTS
from runner.nodes.finetuning.running import Job, run
from runner.nodes.finetuning.writing import write
from runner.nodes.lora_geometry import cosines, inner_of_factors, pair_rows

DONE = "done.json"


@dataclass(frozen=True)
class Candidate:
    """One training: ``name`` in results, ``shares`` of the domains (None: the rows as they are), ``domain`` of an expert."""

    name: str
    job: Job
    domain: str | None = None


@dataclass(frozen=True)
class Finished:
    """A model that is there: its folder and what ``done.json`` in it says."""

    candidate: Candidate
    folder: Path
    log: list[dict[str, Any]]
    summary: dict[str, Any]


def folder_name(number: int, name: str) -> str:
    """A name that any file system takes, telling for the reader, unique by its number."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)[:60]
    return f"{number:03d}-{plain}"


def train_all(ctx: StepContext, candidates: Sequence[Candidate]) -> list[Finished]:
    """Train what is not finished yet. A killed attempt goes on with the model, and the step, at which it stopped."""
    finished = []
    for number, candidate in enumerate(candidates):
        folder = ctx.scratch / "models" / folder_name(number, candidate.name)
        if not (folder / DONE).is_file():
            _train(ctx, candidate, folder)
        told = json.loads((folder / DONE).read_text("utf8"))
        finished.append(Finished(candidate, folder, told["log"], told["summary"]))
        ctx.advance("models", 1, len(candidates))
    return finished


def _train(ctx: StepContext, candidate: Candidate, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    job = replace(candidate.job, state=ctx.scratch / "states" / folder.name)
    trained = run(ctx, job)
    folder.mkdir(parents=True)
    write(trained, job.model, folder, folder if job.recipe.train == "full" else None)
    part = folder / f"{DONE}.part"
    part.write_text(json.dumps({"log": trained.log.rows, "summary": trained.summary}), encoding="utf8")
    part.replace(folder / DONE)
    shutil.rmtree(job.state, ignore_errors=True)


def experts(ctx: StepContext, finished: Sequence[Finished], domains: list[str]) -> Experts:
    """All of them as one artifact, in order."""
    from results.tables import arrow_table

    out, base = ctx.folder("folder"), finished[0].candidate.job.model
    rows, models, log = [], [], []
    for item in finished:
        name, job = item.candidate.name, item.candidate.job
        shutil.copytree(item.folder, out / item.folder.name, dirs_exist_ok=True, ignore=shutil.ignore_patterns(DONE))
        rows.append(_row(item))
        log += [{"model": name, **row} for row in item.log]
        models.append({
            "name": name, "kind": rows[-1]["kind"], "path": item.folder.name,
            "weights": _weights(item, domains), "summary": {**item.summary, "projector": job.recipe.projector},
        })  # fmt: skip
    about = {"name": base.name, "identity": base.identity, "folder": str(base.folder)}
    return Experts(
        about, domains, models, out, arrow_table("dmo_expert", rows), arrow_table("dmo_geometry", geometry(finished)),
        arrow_table("recovery_step", log),
    )  # fmt: skip


def _weights(item: Finished, domains: Sequence[str]) -> dict[str, float] | None:
    shares = item.candidate.job.shares or ({item.candidate.domain: 1.0} if item.candidate.domain else None)
    return None if shares is None else {name: float(shares.get(name, 0.0)) for name in domains}


def _row(item: Finished) -> dict[str, Any]:
    recipe, files = item.candidate.job.recipe, sorted(item.folder.glob("*.safetensors"))
    full = recipe.train == "full"
    factors = {} if full else lora_factors(item.folder)
    return {
        "name": item.candidate.name, "domain": item.candidate.domain, "path": item.folder.name,
        "kind": "full" if full else "lora", "sha256": _sha256(files), "rank": None if full else recipe.lora.r,
        "scaling": None if full else recipe.lora.alpha / recipe.lora.r, "n_tensors": len(factors) if not full else _tensors(files),
        "delta_norm": None if full else math.sqrt(max(0.0, inner(factors, factors))),
    }  # fmt: skip


# --- geometry of LoRA experts ----------------------------------------------------------------------------------------


def lora_factors(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """(A (r, in), scaled B (out, r)) by tensor, in float64, of an adapter folder that this room wrote."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text("utf8"))
    weights = load_file(folder / ADAPTER_WEIGHTS)
    scale, end = config["lora_alpha"] / config["r"], ".lora_A.weight"
    names = [name.removesuffix(end) for name in weights if name.endswith(end)]
    return {n: (weights[f"{n}{end}"].double(), weights[f"{n}.lora_B.weight"].double() * scale) for n in names}


def inner(one: Mapping[str, tuple[Tensor, Tensor]], two: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """Inner product of two experts' differences over all tensors."""
    return sum(inner_of_factors(*one[name], *two[name]) for name in one.keys() & two.keys())


def geometry(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """Cosines between the differences of LoRA experts to their base, each pair once; None where one of them is zero."""
    found = [(f.candidate.name, lora_factors(f.folder)) for f in finished if f.candidate.job.recipe.train == "lora"]
    table = torch.zeros(len(found), len(found), dtype=torch.float64)
    for i, j in itertools.combinations_with_replacement(range(len(found)), 2):
        table[i, j] = table[j, i] = inner(found[i][1], found[j][1])
    return pair_rows([name for name, _ in found], cosines(table))


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _tensors(files: Sequence[Path]) -> int:
    from safetensors import safe_open

    total = 0
    for file in files:
        with safe_open(file, framework="pt") as store:
            total += len(store.keys())
    return total
