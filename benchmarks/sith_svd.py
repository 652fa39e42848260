"""Singular vectors of value-output matrices: QR of both factors against the SVD of the D x D products, same inputs, one run.

    OMP_NUM_THREADS=1 python benchmarks/sith_svd.py [width heads [repeats]]

Default: one layer of ViT-L/14's size, D 1024, 16 heads of r 64, float32, random weights. The D x D route multiplies each head's
factors and takes all singular vectors, as plain code does. Compared: singular values, directions (where neighbours differ by
more than 1e-3), and what both rebuild.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from runner.nodes.sith.weights import HeadSvd, svd_of_product


def material(width: int, heads: int) -> tuple[Tensor, Tensor]:
    """Factors float32 (H, D, r) and (H, r, D), with gains that fall off as those of trained heads do."""
    generator = torch.Generator().manual_seed(0)
    r = width // heads
    fall = torch.linspace(0, -3, r).exp()
    A = torch.randn(heads, width, r, generator=generator) * fall / width**0.5
    return A, torch.randn(heads, r, width, generator=generator) / width**0.5


def plain(A: Tensor, B: Tensor) -> HeadSvd:
    """SVD of the D x D products, cut to r."""
    r = A.shape[-1]
    u, s, vh = torch.linalg.svd(A @ B, full_matrices=False)
    return HeadSvd(u[..., :r], s[..., :r], vh[..., :r, :])


def timed(work: Callable[[], HeadSvd]) -> tuple[float, HeadSvd]:
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def main() -> None:
    torch.set_num_threads(1)
    numbers = [int(word) for word in sys.argv[1:]]
    width, heads = numbers[:2] or (1024, 16)
    repeats = numbers[2] if len(numbers) > 2 else 5
    A, B = material(width, heads)
    svd_of_product(A[:1], B[:1])
    fast = min(timed(lambda: svd_of_product(A, B))[0] for _ in range(repeats))
    found = svd_of_product(A, B)
    slow, wanted = timed(lambda: plain(A, B))
    s = wanted.s
    close = s[..., :-1] - s[..., 1:] <= 1e-3 * s[..., :-1]
    edge = torch.zeros_like(close[..., :1])
    apart = ~(torch.cat([edge, close], -1) | torch.cat([close, edge], -1))
    cosine = (found.vh * wanted.vh).sum(-1).abs()[apart]
    rebuilt = ((found.u * found.s[..., None, :]) @ found.vh - A @ B).abs().max() / (A @ B).abs().max()
    print(f"{heads} heads, D {width}, r {width // heads}, float32, one thread")
    print(f"CPU time: D x D {slow:.2f} s; QR {fast * 1e3:.1f} ms (best of {repeats}); ratio {slow / fast:.0f} x")
    print(
        f"singular values differ by at most {float(((found.s - s) / s[..., :1]).abs().max()):.1e} of the largest; "
        f"1 - |cosine| at most {float((1 - cosine).max()):.1e} over {int(apart.sum())} of {apart.numel()} directions; "
        f"rebuilt within {float(rebuilt):.1e}"
    )


if __name__ == "__main__":
    main()
