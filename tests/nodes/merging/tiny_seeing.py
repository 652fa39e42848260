"""A tiny random LLaVA with three LoRA experts (one with a projector of its own), questions and conversations about three pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from runner.artifacts import Conversations, Experts, Mixtures, VqaItems
from runner.models.lvlm.loading import Lvlm
from tests.chat.tiny_vlm import make_tiny_vlm

DOMAINS = ["chart", "ocr", "general"]


def base_and_experts(folder: Path, layout: str = "llava", *, projector: bool = True) -> tuple[Path, dict[str, Path]]:
    base = make_tiny_vlm(folder / "base", layout)
    return base, {
        name: seeing_expert(base, folder / name, seed, projector=projector and seed == 2)
        for seed, name in enumerate(DOMAINS, 1)
    }  # fmt: skip


def seeing_expert(base: Path, folder: Path, seed: int, *, projector: bool = False) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(seed)
    network = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=2 + seed, lora_alpha=4, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)",
        modules_to_save=["multi_modal_projector"] if projector else None,
    )  # fmt: skip
    adapted = get_peft_model(network, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or ".modules_to_save." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
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


def adapter_settings(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
