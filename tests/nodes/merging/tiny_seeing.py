"""A tiny random LLaVA with three LoRA experts (one with a projector of its own), questions and conversations about three pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from runner.artifacts import Conversations, Experts, Mixtures, VqaItems
from runner.models.lvlm.loading import Lvlm
from runner.nodes.merging.adapter_files import LoraAdapter, write_adapter
from runner.nodes.merging.checkpoints import Checkpoint
from tests.chat.tiny_vlm import make_tiny_vlm

DOMAINS = ["chart", "ocr", "general"]


def base_and_experts(folder: Path, layout: str = "llava", *, projector: bool = True) -> tuple[Path, dict[str, Path]]:
    base = make_tiny_vlm(folder / "base", layout)
    return base, {
        name: seeing_expert(base, folder / name, seed, projector=projector and seed == 2)
        for seed, name in enumerate(DOMAINS, 1)
    }  # fmt: skip


def seeing_expert(base: Path, folder: Path, seed: int, *, projector: bool = False) -> Path:
    """An adapter named as peft names it in today's transformers, which is not how the checkpoint on disk is named."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: entry.shape for name, entry in Checkpoint(base).entries.items()}
    rank, factors, full = 2 + seed, {}, {}
    for name, shape in shapes.items():
        module = "model." + name.replace("language_model.model.", "language_model.").removesuffix(".weight")
        if "language_model" in name and module.endswith(("q_proj", "v_proj", "down_proj")):
            a, b = torch.randn(rank, shape[1], generator=generator), torch.randn(shape[0], rank, generator=generator)
            factors[module] = (0.3 * a, 0.3 * b)
        elif projector and name.startswith("multi_modal_projector"):
            full[f"model.{name}"] = 0.3 * torch.randn(shape, generator=generator)
    write_adapter(LoraAdapter(factors, dict.fromkeys(factors, 4 / rank), full), folder, "base")
    return folder


def handle(base: Path) -> Lvlm:
    return Lvlm(base, dtype="float32")


def mixtures(rows: list[list[float]]) -> Mixtures:
    from results.tables import arrow_table

    listed: list[dict[str, Any]] = [
        {"mixture_id": f"m{i}", "domains": DOMAINS[: len(row)], "weights": row, "source": "explicit", "entropy": 0.0, "quota": None}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return Mixtures(DOMAINS[: len(rows[0])], arrow_table("dmo_mixture", listed))


def pictures(folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 200, 30)), ("c", (30, 30, 200))):
        Image.new("RGB", (56, 56), colour).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return [{"name": "drawn", "folder": str(folder)}]


def items(corpus: list[dict[str, Any]]) -> VqaItems:
    from runner.data.benchmarks.building import vqa_items

    rows = [
        {"benchmark": "colours", "item_id": f"q{i}", "question": f"Which colour has it, {i} times?", "answers": ["red"],
         "uris": [f"{'abc'[i % 3]}.png"], "source_id": "drawn"} for i in range(5)
    ]  # fmt: skip
    return vqa_items([{"benchmark": "colours", "metric": "anls"}], corpus, rows)


def talks(corpus: list[dict[str, Any]], broken: bool = False) -> Conversations:
    from runner.data.benchmarks.building import conversations

    rows = [
        {"record_id": f"{domain}-{i}", "domain": domain, "split": "eval", "source_id": "drawn",
         "uris": ["broken.png" if broken and i == 1 else f"{'abc'[i % 3]}.png"],
         "turns": [["user", "<image>Say " + "it again " * i], ["assistant", f"{domain} reply {i}"]], "group": f"g{i // 2}"}
        for domain in DOMAINS[:2] for i in range(3)
    ]  # fmt: skip
    return conversations("talks", DOMAINS[:2], rows, corpus)


def experts_of(ctx: Any, base: Path, paths: dict[str, Path]) -> Experts:
    from runner.nodes.merging.merge_steps import experts

    return experts(ctx, base=handle(base), paths={name: str(path) for name, path in paths.items()})
