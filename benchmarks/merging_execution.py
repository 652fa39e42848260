"""Merges in memory against disk-to-disk merges, mixtures in one batch against the bare base, peak memory of the streaming writer.

python benchmarks/merging_execution.py resident | batched | stream
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

WEIGHTS = [0.4, 0.3, 0.2, 0.1]


def llama(layers: int, hidden: int, vocab: int, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64, vocab_size=vocab, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip


def resident(folder: Path) -> None:
    """About 50M parameters in float32, 4 whole experts."""
    from safetensors.torch import load_file

    from runner.nodes.merging.execution import ResidentDeltas

    paths = [folder / f"m{k}" for k in range(5)]
    for seed, path in enumerate(paths):
        llama(8, 640, 8000, seed).save_pretrained(path)
    base = llama(8, 640, 8000, 0)
    states = [load_file(path / "model.safetensors") for path in paths[1:]]
    merged = ResidentDeltas(base, states)
    ours = []
    for _ in range(5):
        start = time.perf_counter()
        merged.set(WEIGHTS)
        ours.append(time.perf_counter() - start)
    found = {name: parameter.clone() for name, parameter in base.named_parameters()}
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    models = [{"model": str(p), "parameters": {"weight": w}} for p, w in zip(paths[1:], WEIGHTS, strict=True)]
    config = MergeConfiguration.model_validate({"merge_method": "linear", "models": models, "dtype": "float32"})
    start = time.perf_counter()
    run_merge(config, str(folder / "out"), MergeOptions(copy_tokenizer=False, quiet=True))
    theirs = time.perf_counter() - start
    from runner.nodes.merging.checkpoints import Checkpoint

    written = Checkpoint(folder / "out")
    worst = max(float((written.tensor(n) - x).abs().max()) for n, x in found.items() if n in written.entries)
    count = sum(x.numel() for x in found.values())
    print(
        f"{count / 1e6:.1f}M parameters, 4 experts, {torch.get_num_threads()} threads; tensors compared {len(written.entries)}"
    )
    print(
        f"resident {min(ours):.3f}-{max(ours):.3f} s, mergekit {theirs:.2f} s, {theirs / max(ours):.0f}x; worst {worst:.1e}"
    )


def batched() -> None:
    """Rank 16 x 4 on every Linear of the layers; hidden 1024, 2 layers, 16 samples of 64 tokens."""
    from runner.nodes.merging.execution import BatchedMixtures, LowRank

    network = llama(2, 1024, 8000, 0)
    linears = {n: m for n, m in network.named_modules() if isinstance(m, torch.nn.Linear) and n.endswith("proj")}
    experts = [
        {n: LowRank(torch.randn(16, m.in_features), torch.randn(m.out_features, 16) / 100, 2.0) for n, m in linears.items()}
        for _ in WEIGHTS
    ]  # fmt: skip
    ids = torch.randint(0, 8000, (16, 64))
    rates: dict[str, list[float]] = {"base": [], "mixtures": []}
    with torch.inference_mode():
        for _ in range(3):
            rates["base"].append(rate(network, ids))
            with BatchedMixtures(network, experts) as mixtures:
                mixtures.assign(torch.rand(16, 4))
                rates["mixtures"].append(rate(network, ids))
    best = {name: max(values) for name, values in rates.items()}
    print(f"base {best['base']:.1f}, mixtures {best['mixtures']:.1f} samples/s: {best['mixtures'] / best['base']:.2f}")


def rate(network: Any, ids: torch.Tensor) -> float:
    start = time.perf_counter()
    network(ids)
    return len(ids) / (time.perf_counter() - start)


def stream(folder: Path) -> None:
    """Peak memory for a small checkpoint and one several times as large with tensors of the same size."""
    for layers in (4, 16):
        code = f"import benchmarks.merging_execution as m; m.streamed({str(folder)!r}, {layers})"
        print(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip())


def streamed(folder: str, layers: int) -> None:
    from safetensors.torch import save_file

    from runner.nodes.merging.checkpoints import Checkpoint
    from runner.nodes.merging.experts import open_expert
    from runner.nodes.merging.methods import merge_tensor  # noqa: F401 - so that its import is not counted below
    from runner.nodes.merging.specs import MergeSpec
    from runner.nodes.merging.stream import stream_merge

    root = Path(folder) / str(layers)
    for name in ("base", "a", "b"):
        (root / name).mkdir(parents=True)
        # One tensor at a time in the writer; here shards of one layer keep the making of them small too.
        for layer in range(layers):
            tensor = {f"model.layers.{layer}.mlp.up_proj.weight": torch.randn(1024, 4096)}
            save_file(tensor, root / name / f"model-{layer:05}.safetensors")
        table = {f"model.layers.{k}.mlp.up_proj.weight": f"model-{k:05}.safetensors" for k in range(layers)}
        (root / name / "model.safetensors.index.json").write_text(f'{{"weight_map": {table}}}'.replace("'", '"'))
        (root / name / "config.json").write_text("{}")
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    base = Checkpoint(root / "base")
    written = stream_merge(
        root / "base", [open_expert(n, root / n, base) for n in "ab"], [0.5, 0.5], MergeSpec(), root / "out"
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{written.bytes_written >> 20} MiB written, peak {after >> 10} MiB, {(after - before) >> 10} MiB above the start"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        {"resident": lambda: resident(Path(scratch)), "batched": batched, "stream": lambda: stream(Path(scratch))}[
            sys.argv[1]
        ]()
