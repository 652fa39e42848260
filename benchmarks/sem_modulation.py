"""SEM's modulation of 25 queries over 10 folds, batched, against the published form query by query and fold by fold.

    OMP_NUM_THREADS=1 python benchmarks/sem_modulation.py [latents width timed calls]

Both get the same embeddings and the same autoencoder (random here: neither form depends on its values) and do everything from the
embeddings on: encoding, scores, modulation, decoding. The published form runs anew for each query and fold; its calls are all
alike, so some are timed and scaled to 250. Outputs of the 25 queries are compared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from runner.nodes.sem.modulation import bias_sensitivity, modulate, sort_reference
from runner.nodes.sem.sae import SaeAbout, SparseAutoencoder

QUERIES, FOLDS, CLASSES = 25, 10, 7
DIVERSE, PER_CLASS, PARAPHRASES = 328, 20, 10


def material(latents: int, width: int) -> tuple[SparseAutoencoder, Tensor, list[Tensor], Tensor, list[Tensor]]:
    """An autoencoder about 15 % of whose latents are active, and embeddings in a narrow cone, as CLIP's."""
    torch.manual_seed(0)
    sae = SparseAutoencoder(width, latents, SaeAbout(backbone="random")).requires_grad_(False)
    sae.encoder.bias.fill_(-0.6)
    cone = torch.randn(width)

    def texts(n: int, around: Tensor) -> Tensor:
        return around + 0.7 * torch.randn(n, width)

    classes = [texts(PER_CLASS, cone + 0.5 * torch.randn(width)) for _ in range(CLASSES)]
    queries = texts(QUERIES, cone)
    return sae, texts(DIVERSE, cone), classes, queries, [texts(PARAPHRASES, q) for q in queries]


@torch.no_grad()
def published(sae: SparseAutoencoder, diverse: Tensor, classes: list[Tensor], query: Tensor, told: Tensor) -> Tensor:
    """One query of one fold: comparisons of all prompts with each median, everything but the diverse activations anew."""
    median = diverse.median(dim=0).values
    bias_latents = [sae.encode(c) for c in classes]
    h, concept = sae.encode(query[None]), sae.encode(told).median(dim=0).values
    s_concept = (diverse < concept).sum(dim=0).float() / len(diverse)
    s_bias = torch.zeros(diverse.shape[1])
    for c, own in enumerate(bias_latents):
        centre = own.median(dim=0).values
        others = torch.cat([k for i, k in enumerate(bias_latents) if i != c])
        general = (diverse < centre).sum(dim=0).float() / len(diverse)
        specific = (others < centre).sum(dim=0).float() / len(others)
        s_bias = torch.maximum(s_bias, torch.minimum(general, specific))
    m = (1 + s_concept - s_bias) ** 2
    return sae.decode(h * m + (1 - m) * median)[0]


@torch.no_grad()
def batched(
    sae: SparseAutoencoder, diverse: Tensor, classes: list[Tensor], queries: Tensor, told: list[Tensor]
) -> Tensor:
    """All queries of all folds: text-only methods do not depend on the fold, so once is enough."""
    reference = sort_reference(diverse)
    bias = bias_sensitivity(reference, sae.encode(torch.cat(classes)).split(PER_CLASS))
    paraphrases = sae.encode(torch.cat(told)).split(PARAPHRASES)
    made = modulate(sae.encode(queries), diverse=reference, bias=bias, paraphrases=paraphrases, variant="bi")
    return sae.decode(made.latents)


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def main() -> int:
    numbers = [int(word) for word in sys.argv[1:]]
    latents, width = numbers[:2] or (16_384, 512)
    calls = numbers[2] if len(numbers) > 2 else QUERIES
    torch.set_num_threads(1)
    sae, diverse_texts, classes, queries, told = material(latents, width)
    # The published class encodes the diverse prompts once, when it is made; so does this for both.
    diverse = sae.encode(diverse_texts)
    active = float((diverse > 0).float().mean())
    seconds, made = min(
        (timed(lambda: batched(sae, diverse, classes, queries, told)) for _ in range(3)), key=lambda t: t[0]
    )
    rows = [timed(lambda q=q: published(sae, diverse, classes, queries[q], told[q])) for q in range(calls)]
    scaled = sum(t for t, _ in rows) / calls * QUERIES * FOLDS
    difference = max(float((row - made[q]).abs().max()) for q, (_, row) in enumerate(rows))
    print(
        f"{latents} latents, width {width}, {active:.0%} active; {QUERIES} queries, {FOLDS} folds, {CLASSES} bias classes"
    )
    print(f"batched {seconds:.2f} s; published form {scaled:.0f} s ({calls} of {QUERIES * FOLDS} calls timed, scaled)")
    print(
        f"ratio {scaled / seconds:.0f} x; largest difference {difference:.1e} of entries up to {float(made.abs().max()):.2g}"
    )
    return 0 if scaled / seconds >= 50 and difference <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
