"""Merges in memory against disk-to-disk merges, mixtures in one batch against the bare base, peak memory of the streaming writer.

python benchmarks/merging_execution.py resident | batched | stream
"""

from __future__ import annotations

import gc
import os
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
    """About 60M parameters in float32, 4 whole experts: once loaded, against mergekit from disk to disk, in process and as a command.

    The pages of the files are in the cache of the system for all. CPU seconds stand beside wall seconds, since a loaded machine
    spoils the latter; a copy of as many bytes says what memory allows.
    """
    from safetensors.torch import load_file

    from runner.nodes.merging.execution import ResidentDeltas

    paths = [folder / f"m{k}" for k in range(5)]
    for seed, path in enumerate(paths):
        llama(8, 640, 8000, seed).save_pretrained(path)
    base = llama(8, 640, 8000, 0)
    merged = ResidentDeltas(base, [load_file(path / "model.safetensors") for path in paths[1:]])
    ours = [timed(lambda: merged.set(WEIGHTS)) for _ in range(12)][2:]
    (bank,) = merged.banks
    # Read K P and write P, as a copy of (K + 1) P / 2 elements does.
    half = bank.experts.flatten()[: (len(WEIGHTS) + 1) * len(bank.live) // 2]
    copied, held = torch.empty_like(half), {n: x.detach().clone() for n, x in base.named_parameters()}
    floor = [timed(lambda: copied.copy_(half)) for _ in range(7)][2:]
    within, command = mergekit(paths[1:], folder)
    print(f"{len(bank.live) / 1e6:.1f}M parameters, {len(WEIGHTS)} experts, {torch.get_num_threads()} threads")
    best = min(wall for wall, _ in ours), min(cpu for _, cpu in ours)
    for name, runs in {
        "resident": ours,
        "copy": floor,
        "mergekit in process": within,
        "mergekit-yaml": command,
    }.items():
        wall, cpu = (sorted(side) for side in zip(*runs, strict=True))
        print(
            f"{name}: wall {wall[0]:.3f} (median {wall[len(wall) // 2]:.3f}) s, CPU {cpu[0]:.3f} s; "
            f"{wall[0] / best[0]:.1f}x wall, {cpu[0] / best[1]:.1f}x CPU of resident"
        )
    print(f"worst difference {worst(folder, held):.1e}")


def timed(work: Any) -> tuple[float, float]:
    """Wall and CPU seconds, those of finished children among them."""
    start, spent = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - start, cpu_seconds() - spent


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def mergekit(experts: list[Path], folder: Path) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The same merge, twice in this process and twice by the command that a user types, with as many threads."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    models = [{"model": str(p), "parameters": {"weight": w}} for p, w in zip(experts, WEIGHTS, strict=True)]
    settings = {"merge_method": "linear", "models": models, "dtype": "float32"}
    config = MergeConfiguration.model_validate(settings)
    file, out = folder / "merge.yaml", folder / "out"
    jobs = ["--num-threads", str(torch.get_num_threads())]
    file.write_text(yaml.safe_dump(settings))
    tool = [
        str(Path(sys.executable).with_name("mergekit-yaml")),
        str(file),
        str(out),
        "--no-copy-tokenizer",
        "--quiet",
        *jobs,
    ]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    options = MergeOptions(copy_tokenizer=False, quiet=True, num_threads=torch.get_num_threads())
    within = [timed(lambda: run_merge(config, str(out), options)) for _ in range(2)]
    command = [
        timed(lambda: subprocess.run(tool, check=True, capture_output=True, env={**os.environ, **threads}))
        for _ in range(2)
    ]
    return within, command


def worst(folder: Path, found: dict[str, torch.Tensor]) -> float:
    """Largest difference of any value that both have. Every parameter must stand in what was written."""
    from runner.nodes.merging.checkpoints import Checkpoint

    written = Checkpoint(folder / "out")
    return max(float((written.tensor(name) - x).abs().max()) for name, x in found.items())


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
