"""Debiasing methods applied to the texts of a spec: from ``MethodSpec`` and encoded prompts to vectors, maps and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.context import StepContext
from runner.data.sampling import sampled
from runner.errors import DataError
from runner.nodes.sem.baselines import (
    RANK_TOL,
    orth_cali,
    orth_proj,
    prism_mini_map,
    roboshot_map,
    sae_top_k,
    span_basis,
)
from runner.nodes.sem.bend import bend_step1
from runner.nodes.sem.checks import unit_rows
from runner.nodes.sem.methods_specs import Method, SemOptions
from runner.nodes.sem.modulation import (
    Modulated,
    SortedReference,
    bias_sensitivity,
    group_medians,
    modulate,
    sort_reference,
)
from runner.nodes.sem.prism import prism_map
from runner.nodes.sem.sae import SparseAutoencoder
from runner.nodes.sem.texts_gathering import Encoded, InsightPairs, Prompts, shown
from runner.nodes.sem.texts_prism import sentences

TEXTS_AT_ONCE = 64
"""Rows of every product with the autoencoder: a product of another shape may round a text's latents otherwise."""

Activate = Callable[[Sequence[str]], Tensor]
"""Activations [n, L] of texts."""


class Moved(NamedTuple):
    """What a modulation did to the latents of each query: all [queries, L] but ``s_bias`` [L] or None."""

    before: Tensor
    modulated: Modulated
    s_bias: Tensor | None


class Outcome(NamedTuple):
    """``vectors`` [queries, dim] at the method's own norm; ``image_map`` [dim, dim] or [queries, dim, dim]; ``rank`` [queries]."""

    vectors: Tensor
    image_map: Tensor | None = None
    rank: Tensor | None = None
    moved: Moved | None = None


@dataclass
class Material:
    """What methods work on.

    ``latents``: by ``top_k`` and text, since scores compare strictly: a text coded twice could be above itself by rounding.
    ``references``: sorted activations of neutral texts.
    """

    ctx: StepContext
    prompts: Prompts
    encoded: Encoded
    sae: SparseAutoencoder | None
    seed: int
    references: dict[Any, SortedReference] = field(default_factory=dict)
    latents: dict[int | None, dict[str, Tensor]] = field(default_factory=dict)

    def raw(self, texts: Sequence[str]) -> Tensor:
        """Raw embeddings float32 [n, dim]."""
        self.encoded.load(self.ctx, texts)
        return self.encoded(texts)

    def groups(self, groups: Iterable[Sequence[str]]) -> list[Tensor]:
        """Raw embeddings of each group, all encoded in one go."""
        every = [list(group) for group in groups]
        self.encoded.load(self.ctx, [text for group in every for text in group])
        return [self.encoded(group) for group in every]

    def coded(self, texts: Sequence[str], need: str, top_k: int | None = None) -> Tensor:
        """Latents [n, L] of texts, each distinct one coded once, in products of one shape."""
        known = self.latents.setdefault(top_k, {})
        new = sorted({*texts} - known.keys())
        self.encoded.load(self.ctx, new)
        for start in range(0, len(new), TEXTS_AT_ONCE):
            part = new[start : start + TEXTS_AT_ONCE]
            rows = torch.nn.functional.pad(self.encoded(part), (0, 0, 0, TEXTS_AT_ONCE - len(part)))
            known |= zip(part, self.coder(need).encode(rows, top_k)[: len(part)].clone(), strict=True)
        return torch.stack([known[text] for text in texts])

    def coder(self, need: str) -> SparseAutoencoder:
        """The autoencoder. Raises ``DataError`` where there is none."""
        if self.sae is None:
            raise DataError(
                f"{need} needs a sparse autoencoder", hint="Give debias.texts an `sae`: $step of sem.train_sae."
            )
        return self.sae


def apply_method(material: Material, method: Method) -> Outcome:
    """Debias the queries. Raises ``DataError`` naming the method where texts are missing or cannot be used."""
    try:
        return _METHODS[method.key](material, method.name, method.options)
    except ValueError as error:
        raise DataError(f"{shown(method.name)}: {error}") from error


# --- no change, projections ------------------------------------------------------------------------------------------


def _vanilla(material: Material, need: str, options: Any) -> Outcome:
    return Outcome(material.raw(material.prompts.queries))


def _orth_proj(material: Material, need: str, options: Any) -> Outcome:
    prompts = material.prompts
    spurious = _spurious(material, need, options.rank_tol)
    found = orth_proj(material.raw(prompts.queries), spurious, options.rank_tol)
    return Outcome(found.vectors, rank=found.rank)


def _orth_cali(material: Material, need: str, options: Any) -> Outcome:
    prompts, candidates = material.prompts, material.prompts.candidates(need)
    texts, spurious = material.raw(prompts.queries), _spurious(material, need, options.rank_tol)
    pairs = torch.tensor(candidates.pairs)
    found = orth_cali(texts, spurious, material.raw(candidates.texts), pairs, options.weight, options.rank_tol)
    return Outcome(found.vectors, rank=found.rank)


def _bend_step1(material: Material, need: str, options: Any) -> Outcome:
    prompts = material.prompts
    augmented = material.groups(prompts.augmented(need))
    spurious = _spurious(material, need, options.rank_tol)
    found = bend_step1(material.raw(prompts.queries), spurious, augmented, options.rank_tol)
    return Outcome(found.vectors, rank=found.rank)


def _prism_mini(material: Material, need: str, options: Any) -> Outcome:
    image_map = prism_mini_map(_spurious(material, need, options.rank_tol), options.rank_tol)
    return _mapped(material, image_map)


def _spurious(material: Material, need: str, rank_tol: float) -> Tensor:
    """Raw embeddings of the spurious texts; a warning where they are linearly dependent."""
    raw = material.raw(material.prompts.spurious(need))
    rank = len(span_basis(unit_rows("spurious texts", raw), rank_tol))
    if rank < len(raw):
        material.ctx.warn(
            f"{shown(need)}: the {len(raw)} spurious texts are linearly dependent; {rank} directions are removed for them"
        )
    return raw


def _mapped(material: Material, image_map: Tensor) -> Outcome:
    """A map that acts on texts and images alike."""
    texts = material.raw(material.prompts.queries)
    return Outcome(torch.nn.functional.normalize(texts.to(image_map), dim=1) @ image_map, image_map)


# --- maps of images --------------------------------------------------------------------------------------------------


def _roboshot(material: Material, need: str, options: Any) -> Outcome:
    prompts = material.prompts
    harmful = prompts.insights("harmful", need) if options.reject else None
    helpful = prompts.insights("helpful", need) if options.accept else None
    own = {query for pairs in (harmful, helpful) if pairs for query in pairs.query if query is not None}

    def of(query: str | None) -> Tensor:
        one, other = _sides(material, harmful, query)
        first, second = _sides(material, helpful, query)
        return roboshot_map(one, other, first, second, reject=options.reject, accept=options.accept)

    maps = torch.stack([of(query) for query in prompts.queries]) if own else of(None)
    return Outcome(material.raw(prompts.queries), maps)


def _sides(material: Material, pairs: InsightPairs | None, query: str | None) -> tuple[Tensor | None, Tensor | None]:
    """Raw embeddings of both sides of the pairs that hold for the query."""
    if pairs is None:
        return None, None
    places = [i for i, owner in enumerate(pairs.query) if owner in (None, query)]
    if not places:
        raise ValueError(f"no pair holds for the query {shown(str(query))}")
    return material.raw([pairs.first[i] for i in places]), material.raw([pairs.second[i] for i in places])


def _prism(material: Material, need: str, options: Any) -> Outcome:
    prompts, seed = material.prompts, options.seeds[0]
    drawn = sentences(prompts.scenes(need), prompts.target_words(), prompts.bias_words(), options.samples, seed)
    positives, negatives = (torch.stack(material.groups(side)) for side in drawn)
    spurious = _spurious(material, need, RANK_TOL) if options.init == "orthogonal" else None
    image_map = prism_map(
        positives, negatives, lr=options.lr, margin=options.margin, batch=options.batch, epochs=options.epochs,
        seed=seed, init=options.init, rank=options.rank, spurious=spurious,
    )  # fmt: skip
    return _mapped(material, image_map)


# --- sparse embedding modulation --------------------------------------------------------------------------------------


def _sem(material: Material, need: str, options: SemOptions) -> Outcome:
    encode = _encoder(material, need, options)
    prompts, queries = material.prompts, material.raw(material.prompts.queries)
    latents, reference = encode(prompts.queries), _reference(material, need, options, encode)
    s_bias = None if options.variant == "i" else _s_bias(material, need, options, encode, reference)
    told = options.variant != "b" and not options.content
    paraphrases = _activations(material, encode, _paraphrases(material, need, options)) if told else None
    content = encode(prompts.content(need)) if options.content else None
    moved = modulate(
        latents, diverse=reference, bias=s_bias, paraphrases=paraphrases, content=content,
        variant=options.variant, exponent=options.exponent, clamp_max=options.clamp_max, target=options.target,
        median=options.median,
    )  # fmt: skip
    vectors = moved.latents if options.space == "clip" else material.coder(need).decode(moved.latents)
    if options.add_residual and options.space == "sae":
        vectors = vectors + queries - material.coder(need).decode(latents)
    before = latents if options.variant != "i" else content if content is not None else _medians(paraphrases, options)
    return Outcome(vectors, moved=Moved(before, moved, s_bias))


def _medians(paraphrases: list[Tensor] | None, options: SemOptions) -> Tensor:
    return group_medians(paraphrases or [], options.median)


def _encoder(material: Material, need: str, options: SemOptions) -> Activate:
    """Activations of texts: latents, or the coordinates of their raw embeddings."""
    if options.space == "clip":
        return material.raw
    coder = material.coder(need)
    if options.top_k is not None and options.top_k > len(coder.encoder_rows):
        raise ValueError(f"top_k is {options.top_k}, and the autoencoder has {len(coder.encoder_rows)} latents")
    return lambda texts: material.coded(texts, need, options.top_k)


def _activations(material: Material, encode: Activate, groups: list[list[str]]) -> list[Tensor]:
    """Activations of each group, new texts of all of them encoded in one go."""
    material.encoded.load(material.ctx, [text for group in groups for text in group])
    return [encode(group) for group in groups]


def _reference(material: Material, need: str, options: SemOptions, encode: Activate) -> SortedReference:
    """Activations of the diverse prompts, sorted once for all methods that share them."""
    key = (options.space, options.top_k, options.n_diverse)
    if key not in material.references:
        texts = _drawn(material, material.prompts.diverse(need), options.n_diverse)
        material.references[key] = sort_reference(encode(texts))
    return material.references[key]


def _s_bias(
    material: Material,
    need: str,
    options: SemOptions,
    encode: Activate,
    reference: SortedReference,
) -> Tensor:
    texts = [_drawn(material, group, options.n_bias) for group in material.prompts.bias(need)]
    classes = _activations(material, encode, texts)
    return bias_sensitivity(reference, classes, options.bias_score, options.median)


def _paraphrases(material: Material, need: str, options: SemOptions) -> list[list[str]]:
    """By query; the first, which is the query itself, is never drawn away."""
    n = options.n_paraphrases
    groups = material.prompts.paraphrases(need)
    return [group[:1] + _drawn(material, group[1:], None if n is None else n - 1) for group in groups]


def _drawn(material: Material, texts: Sequence[str], n: int | None) -> list[str]:
    return sampled(texts, n, material.seed, str)


def _sae_top_k(material: Material, need: str, options: Any) -> Outcome:
    coder, prompts = material.coder(need), material.prompts
    shared = SemOptions(bias_score=options.bias_score)
    encode = _encoder(material, need, shared)
    scores = _s_bias(material, need, shared, encode, _reference(material, need, shared, encode))
    texts = material.raw(prompts.queries)
    found = sae_top_k(texts, coder.encoder_rows, scores, options.k, options.average)
    return Outcome(found.vectors, rank=found.rank)


_METHODS: dict[str, Callable[[Material, str, Any], Outcome]] = {
    "vanilla": _vanilla,
    "sem": _sem,
    "orth_proj": _orth_proj,
    "orth_cali": _orth_cali,
    "roboshot": _roboshot,
    "prism_mini": _prism_mini,
    "prism": _prism,
    "bend_vlm": _bend_step1,
    "sae_top_k": _sae_top_k,
}
