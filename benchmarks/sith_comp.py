"""COMP on all singular vectors of a model's heads: the fused form against the plain one, same inputs, one run.

    OMP_NUM_THREADS=1 python benchmarks/sith_comp.py [--targets 3072 --atoms 50000 --dim 512 --k 5 --coherence 0.3 --quick]
    python benchmarks/sith_comp.py --device cuda

The plain form does as COMP is written down: a product of the residuals with all atoms, the coherence of all atoms with the
picked ones, a fit by coordinate descent, and dense codes [targets, atoms] times the dictionary. It runs on batches of
targets, and with ``--plain-targets`` below all of them its time is scaled. Picks must be the same wherever the score of the
plain pick exceeds the next by 1e-4, up to the first step at which it does not. Memory is the peak resident size of a child
process that runs one form, less what was resident before. Seconds are of the processor: one
thread, and a busy machine does not count.

With ``--device`` the fused form alone runs on that device, by default in the shapes of ViT-L/14 (16 heads x 64 directions x
4 layers over 100,000 atoms of 768 dimensions): seconds on the clock, and the share of what its matrix products alone take,
measured in the same run with the same shapes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from runner.nodes.sith.coding import comp
from runner.nodes.sith.coding_picked import Code

PLAIN_BATCH = 256
FORMS = ("fp32", "bf16", "int8")


def material(targets: int, atoms: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Centred unit atoms in clusters of unequal size, and targets near sums of a few of them, float32."""
    torch.manual_seed(seed)
    unit = torch.nn.functional.normalize
    spectrum = torch.arange(1, dim + 1).float().pow(-0.35)
    centres = torch.randn(max(2, atoms // 25), dim) * spectrum
    dictionary = centres[torch.randint(len(centres), (atoms,))] + 0.8 * torch.randn(atoms, dim) * spectrum
    dictionary = unit(unit(dictionary) - unit(dictionary).mean(0))
    mixed = torch.rand(targets, 4, 1) * dictionary[torch.randint(atoms, (targets, 4))]
    return unit(mixed.sum(1) + 0.8 * unit(torch.randn(targets, dim))), dictionary


def plain(targets: Tensor, atoms: Tensor, k: int, coherence: float) -> Code:
    """COMP as written down, float32, on batches of targets."""
    parts = [_plain_batch(x, atoms, k, coherence) for x in targets.split(PLAIN_BATCH)]
    return Code(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _plain_batch(x: Tensor, atoms: Tensor, k: int, coherence: float) -> Code:
    rows = torch.arange(len(x))[:, None]
    support, gaps = torch.empty((len(x), 0), dtype=torch.int64), []
    residual, coefficients = x, torch.empty((len(x), 0))
    for step in range(k):
        scores = residual @ atoms.T
        if step:
            # The mean of the inner products is that with the mean: already kinder than one product for each picked atom.
            scores = scores + coherence * (atoms[support].mean(1) @ atoms.T)
            scores[rows, support] = -torch.inf
        best = scores.topk(2, dim=1)
        support = torch.cat([support, best.indices[:, :1]], 1)
        gaps.append(best.values[:, 0] - best.values[:, 1])
        coefficients = _coordinate_descent(atoms[support], x)
        dense = torch.zeros(len(x), len(atoms)).scatter_(1, support, coefficients)
        residual = x - dense @ atoms
    return Code(support, coefficients, residual.norm(dim=1), torch.stack(gaps, 1))


def _coordinate_descent(chosen: Tensor, x: Tensor, sweeps: int = 100) -> Tensor:
    gram, b = chosen @ chosen.mT, torch.einsum("bkd,bd->bk", chosen, x)
    ridge = gram + 1e-6 * torch.eye(gram.shape[1])
    a = torch.linalg.solve(ridge, b).clamp_min(0)
    for _ in range(sweeps):
        before = a.clone()
        for j in range(a.shape[1]):
            rest = b[:, j] - (a * gram[:, j]).sum(1) + a[:, j] * gram[:, j, j]
            a[:, j] = (rest / gram[:, j, j]).clamp_min(0)
        if (a - before).norm() < 1e-6 * before.norm().clamp_min(1e-12):
            break
    return a


def agreement(found: Code, reference: Code, margin: float = 1e-4) -> tuple[int, int]:
    """How many picks could be compared (all gaps up to there above the margin), and how many of them differ."""
    clear = (reference.gap > margin).long().cumprod(1).bool()
    different = (found.support[: len(reference.support)] != reference.support) & clear
    return int(clear.sum()), int(different.sum())


def peak_extra(form: str, options: argparse.Namespace, folder: Path) -> float:
    """MB that one form adds to the resident size of a fresh process in which targets and dictionary are in memory."""
    command = [sys.executable, __file__, "--measure", form, "--folder", str(folder), "--k", str(options.k)]
    command += ["--coherence", str(options.coherence)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(form: str, options: argparse.Namespace) -> None:
    x, atoms = (torch.from_numpy(np.load(options.folder / name)) for name in ("targets.npy", "atoms.npy"))
    comp(x[:64], atoms[:64], 2, precision="int8")  # libraries are loaded before the counting starts
    before = psutil.Process().memory_info().rss
    run(form, x, atoms, options.k, options.coherence)
    print(peak_resident() - before / 2**20)


def peak_resident() -> float:
    """MB. Of this program alone: ``ru_maxrss`` goes on from what started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run(form: str, x: Tensor, atoms: Tensor, k: int, coherence: float) -> Code:
    if form == "plain":
        return plain(x, atoms, k, coherence)
    return comp(x, atoms, k, coherence, precision=form)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", type=int)
    parser.add_argument("--atoms", type=int)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--coherence", type=float, default=0.3)
    parser.add_argument("--plain-targets", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="768 targets, one round, plain form on 256")
    parser.add_argument("--measure", choices=("plain", *FORMS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", help="run the fused form alone there, such as cuda")
    options = parser.parse_args()
    shapes = (4096, 100_000, 768) if options.device else (3072, 50_000, 512)
    for name, usual in zip(("targets", "atoms", "dim"), shapes, strict=True):
        setattr(options, name, getattr(options, name) or usual)
    if options.device:
        on_device(options)
        return
    torch.set_num_threads(1)
    if options.measure:
        measure(options.measure, options)
        return
    if options.quick:
        options.targets, options.rounds, options.plain_targets = min(options.targets, 768), 1, 256
    compare(options)


def on_device(options: argparse.Namespace) -> None:
    """Seconds of the fused form on a device, and the share of them that its matrix products alone would take."""
    device = torch.device(options.device)
    x, atoms = (part.to(device) for part in material(options.targets, options.atoms, options.dim))
    print(f"{device}: {len(x)} targets, {len(atoms)} atoms, {options.dim} dimensions, K {options.k}")
    codes = {}
    for form, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        product = options.k * _best(lambda kind=kind: _products(x.to(kind), atoms.to(kind)), device, options.rounds)
        whole = _best(lambda form=form: codes.update({form: run(form, x, atoms, options.k, options.coherence)}), device)
        print(f"{form}: {whole:.3f} s; {options.k} matrix products alone {product:.3f} s, {product / whole:.0%} of it")
    compared, different = agreement(codes["bf16"], codes["fp32"])
    print(f"{different} of {compared} comparable picks differ between the two")
    assert not different


def _products(x: Tensor, atoms: Tensor, chunk: int = 8192) -> None:
    for part in atoms.split(chunk):
        x @ part.T


def _best(work: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Least seconds on the clock, after one run to warm up."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def compare(options: argparse.Namespace) -> None:
    x, atoms = material(options.targets, options.atoms, options.dim)
    some = options.plain_targets or len(x)
    print(
        f"{len(x)} targets, {len(atoms)} atoms, {options.dim} dimensions, K {options.k}, coherence {options.coherence}"
    )
    seconds: dict[str, list[float]] = {form: [] for form in ("plain", *FORMS)}
    codes = {}
    for _ in range(options.rounds):  # in turns, so that a busy machine is shared fairly
        for form, taken in seconds.items():
            start = time.process_time()
            codes[form] = run(form, x[:some] if form == "plain" else x, atoms, options.k, options.coherence)
            taken.append(time.process_time() - start)
    whole = min(seconds["plain"]) * len(x) / some
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "targets.npy"), x.numpy())
        np.save(Path(folder, "atoms.npy"), atoms.numpy())
        extra = {form: peak_extra(form, options, Path(folder)) for form in seconds}
    print(f"plain: {whole:.1f} s ({some} targets timed), peak extra {extra['plain']:.0f} MB")
    for form in FORMS:
        compared, different = agreement(codes[form], codes["plain"])
        best = min(seconds[form])
        print(
            f"{form}: {best:.1f} s, {whole / best:.1f} x; {different} of {compared} comparable picks differ; "
            f"peak extra {extra[form]:.0f} MB"
        )
        assert not different, f"{form}: {different} picks differ where the plain form's gap is clear"


if __name__ == "__main__":
    main()
