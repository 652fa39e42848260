"""A sweep of COMP's settings from one run of nested codes, against one plain run for each setting; same inputs.

    OMP_NUM_THREADS=1 python benchmarks/sith_sweep.py [--targets 3072 --atoms 50000 --dim 512 --plain-targets 64 --quick]

Settings: K in 5, 10, 20, 50 times {comp with coherence 0.2, 0.3, 0.4; nnomp; top_k}, 20 in all. The plain form (see
sith_comp.py) is timed on ``--plain-targets`` targets and its time scaled to all of them, which is fair to it: its work is
the same for every target. Seconds are of the processor, one thread.
"""

from __future__ import annotations

import argparse
import time

import torch
from sith_comp import agreement, material, plain
from torch import Tensor

from runner.nodes.sith.coding import sweep
from runner.nodes.sith.coding_picked import Code, Settings
from runner.nodes.sith.nnls import nnls

KS = (5, 10, 20, 50)
COHERENCES = (0.0, 0.2, 0.3, 0.4)


def plain_top_k(x: Tensor, atoms: Tensor, k: int) -> Code:
    """All scores, the k largest, one fit."""
    best = (x @ atoms.T).topk(k + 1, dim=1)
    support = best.indices[:, :k]
    chosen = atoms[support].double()
    a = nnls(chosen @ chosen.mT, torch.einsum("bkd,bd->bk", chosen, x.double())).float()
    dense = torch.zeros(len(x), len(atoms)).scatter_(1, support, a)
    return Code(support, a, (x - dense @ atoms).norm(dim=1), -best.values.diff(dim=1))


def plain_sweep(x: Tensor, atoms: Tensor) -> dict[tuple[str, float, int], Code]:
    """One run a setting."""
    codes = {("comp", c, k): plain(x, atoms, k, c) for c in COHERENCES for k in KS}
    return codes | {("top_k", 0.0, k): plain_top_k(x, atoms, k) for k in KS}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", type=int, default=3072)
    parser.add_argument("--atoms", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--plain-targets", type=int, default=256)
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="int8")
    parser.add_argument("--quick", action="store_true", help="256 targets, plain form on 32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.targets, options.plain_targets = 256, 32
    x, atoms = material(options.targets, options.atoms, options.dim)
    some = x[: options.plain_targets]
    start = time.process_time()
    settings = Settings(precision=options.precision)
    found = sweep(x, atoms, KS, COHERENCES, settings=settings, with_top_k=True)
    fast = time.process_time() - start
    print(f"{len(x)} targets, {len(atoms)} atoms, {options.dim} dimensions, {len(found)} settings")
    print(f"one nested run: {fast:.1f} s")
    start = time.process_time()
    reference = plain_sweep(some, atoms)
    slow = (time.process_time() - start) * len(x) / len(some)
    print(f"plain runs: {slow:.0f} s ({len(some)} targets timed, scaled); ratio {slow / fast:.1f} x")
    counts = [agreement(found[key], code) for key, code in reference.items()]
    different = sum(d for _, d in counts)
    print(f"{different} of {sum(n for n, _ in counts)} comparable picks differ")
    assert not different, "picks differ where the plain form's gap is clear"


if __name__ == "__main__":
    main()
