"""A world with a planted bias: a small autoencoder is trained on it, and the methods must fall into their known order.

Embeddings are sums of a few of 64 atoms; atoms 0 and 1 stand for the two values of an attribute. Male and female versions of a
concept should come together (BN), and both stay near the neutral concept (CP). A shortened form of the full check: 1000 steps at
three times the learning rate in place of 3000, and one seed of three.
"""

import numpy as np
import pytest
import torch

from runner.nodes.sem.baselines import orth_proj, sae_top_k
from runner.nodes.sem.losses import Objective, training_losses
from runner.nodes.sem.modulation import bias_sensitivity, modulate, sort_reference
from runner.nodes.sem.quality import measure
from runner.nodes.sem.sae import SaeAbout, SparseAutoencoder, initialise
from runner.nodes.sem.studies import cp_bn

WIDTH, ATOMS, LATENTS, ITEMS = 32, 64, 128, 40


class World:
    """Texts as sums of atoms with strengths from 0.5 to 1.5."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        atoms = self.rng.normal(size=(ATOMS, WIDTH))
        self.atoms = torch.tensor(atoms / np.linalg.norm(atoms, axis=1, keepdims=True), dtype=torch.float32)

    def texts(self, n, gender=None, fixed=(), extra=4):
        """n texts: ``fixed`` atoms, ``extra`` others, and one gender atom (``random``: each with probability 1/4)."""
        strength = np.zeros((n, ATOMS))
        for row in strength:
            others = self.rng.choice(np.setdiff1d(np.arange(2, ATOMS), fixed), extra, replace=False)
            row[[*fixed, *others]] = self.rng.uniform(0.5, 1.5, len(fixed) + extra)
            own = self.rng.choice([0, 1, -1, -1]) if gender == "random" else gender
            if own is not None and own >= 0:
                row[own] = self.rng.uniform(0.5, 1.5)
        return torch.tensor(strength, dtype=torch.float32) @ self.atoms


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def sae(world):
    rows = world.texts(20_000, gender="random")
    generator = torch.Generator().manual_seed(0)
    made = SparseAutoencoder(WIDTH, LATENTS, SaeAbout(backbone="planted", levels=(6, 12)))
    initialise(made, mean=rows.mean(0), generator=generator)
    objective = Objective("msae", (6, 12), (2.0, 1.0))
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    for _ in range(1000):
        optimiser.zero_grad()
        batch = rows[torch.randint(len(rows), (256,), generator=generator)]
        training_losses(made, batch, objective).total.backward()
        optimiser.step()
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def moved(world, sae):
    """Male and female versions of concepts [p, 2, d] by method, and the neutral ones [p, d]."""
    diverse, classes = world.texts(328), [world.texts(20, gender=g, extra=2) for g in (0, 1)]
    reference = sort_reference(sae.encode(diverse))
    bias = bias_sensitivity(reference, [sae.encode(c) for c in classes])
    concepts = [world.rng.choice(np.arange(2, ATOMS), 3, replace=False) for _ in range(ITEMS)]
    neutral = torch.stack([world.atoms[c].sum(0) for c in concepts])
    versions = neutral[:, None] + world.atoms[:2]
    paraphrases = [sae.encode(world.texts(10, fixed=tuple(c), extra=1)) for c in concepts]
    out = {"base": versions, "projection": [], "top_k": []}
    spurious = torch.stack([c.mean(0) for c in classes])
    for g in (0, 1):
        h = sae.encode(versions[:, g])
        for variant in ("b", "bi", "i"):
            made = modulate(h, diverse=reference, bias=bias, paraphrases=paraphrases, variant=variant)
            out.setdefault(variant, []).append(sae.decode(made.latents))
        out["projection"].append(orth_proj(versions[:, g], spurious).vectors)
        out["top_k"].append(sae_top_k(versions[:, g], sae.encoder_rows, bias, 4).vectors)
    stacked = {name: v if torch.is_tensor(v) else torch.stack(v, dim=1) for name, v in out.items()}
    return stacked, neutral, bias


def test_the_autoencoder_found_the_atoms(world, sae):
    rows = world.texts(2000, gender="random")
    unexplained = (rows - sae(rows)).var(dim=1) / rows.var(dim=1)
    assert unexplained.mean() < 0.08
    directions = torch.nn.functional.normalize(sae.decoder.weight, dim=0)
    found = (world.atoms @ directions).abs().amax(1) > 0.9
    assert found.float().mean() > 0.95 and bool(found[:2].all())
    assert measure(sae, rows).dead == 0


def test_the_neurons_of_the_attribute_are_the_most_sensitive_ones(world, sae, moved):
    _, _, bias = moved
    directions = torch.nn.functional.normalize(sae.decoder.weight, dim=0)
    alike = (world.atoms[:2] @ directions).abs()
    assert bias[alike.argmax(1)].min() > 0.9
    assert bias[alike.amax(0) < 0.5].median() < 0.1


def test_versions_of_a_concept_come_together_in_the_known_order(moved):
    vectors, neutral, _ = moved
    bn = {name: cp_bn(v, neutral).bn for name, v in vectors.items()}
    assert bn["base"] + 0.1 < bn["b"] and bn["b"] + 0.01 < bn["bi"] <= bn["i"]
    assert bn["i"] == pytest.approx(1)
    assert bn["projection"] > bn["base"] and bn["top_k"] > bn["base"]


def test_modulated_concepts_are_nearer_to_the_neutral_ones(moved):
    vectors, neutral, _ = moved
    cp = {name: cp_bn(v, neutral).cp for name, v in vectors.items()}
    assert cp["b"] > cp["base"]
    assert cp["projection"] > cp["base"]
