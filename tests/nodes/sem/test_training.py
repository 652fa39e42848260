"""Training on a dictionary that was planted: what is learnt, what is refused, and that resuming changes nothing."""

import io

import numpy as np
import pytest
import torch
from torch.nn import functional

from runner.nodes.sem.losses import Objective, level_weights
from runner.nodes.sem.quality import decoder_coherence, measure
from runner.nodes.sem.sae import SaeAbout, SparseAutoencoder, initialise
from runner.nodes.sem.training import SaeTrainer, Schedule, learning_rate, remove_parallel_gradient

D, ATOMS = 32, 64


def planted(n, seed=0):
    """Five of 64 unit atoms in each row, of which the first two exclude each other; (rows [n, 32], atoms [64, 32])."""
    draw = torch.Generator().manual_seed(seed)
    atoms = functional.normalize(torch.randn(ATOMS, D, generator=draw), dim=1)
    active = torch.zeros(n, ATOMS)
    side = torch.rand(n, generator=draw)
    active[:, 0], active[:, 1] = side < 0.25, (side >= 0.25) & (side < 0.5)
    others = torch.rand(n, ATOMS - 2, generator=draw).topk(4, dim=1).indices + 2
    active.scatter_(1, others, 1.0)
    return active * (0.5 + torch.rand(n, ATOMS, generator=draw)) @ atoms, atoms


def fresh(architecture="msae", levels=(6, 12), latents=128, how="msae", seed=0, mean=None):
    sae = SparseAutoencoder(D, latents, SaeAbout("toy", architecture, levels))
    initialise(sae, how=how, mean=mean, generator=torch.Generator().manual_seed(seed))
    return sae


def trainer(rows, schedule, sae=None, objective=None, seed=0):
    held = max(1, len(rows) // 20)
    objective = objective or Objective("msae", (6, 12), level_weights(2, "reverse"))
    return SaeTrainer(sae or fresh(), rows[held:], rows[:held], objective, schedule, seed=seed)


@pytest.mark.large
def test_a_planted_dictionary_is_found():
    rows, atoms = planted(8000)
    sae = fresh(mean=rows.mean(0))
    trainer(rows, Schedule(lr=3e-3, batch=256, epochs=20), sae).run()
    unseen, _ = planted(2000, seed=0)
    quality = measure(sae, unseen)
    directions = sae.decoder.weight.detach().T
    found = (atoms @ directions.T).abs().max(1).values > 0.9
    assert quality.fvu < 0.1 and quality.cosine > 0.96
    assert found.float().mean() >= 0.9 and quality.dead <= 4
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(128))
    assert decoder_coherence(directions) < 0.1


@pytest.mark.parametrize(
    ("objective", "lr"),
    [(Objective("msae", (6, 12), (2.0, 1.0)), 1e-3), (Objective("msae", (6, 128), (1.0, 1.0), "nmse", True), 1e-3),
     (Objective("msae", (6, 12), (2.0, 1.0), "cosine"), 1e-3), (Objective("topk", (8,), (1.0,)), 1e-3),
     (Objective("batch_topk", (8,), (1.0,)), 1e-3), (Objective("relu_l1", (), (1.0,), l1=0.003), 1e-3)],
    ids=["sem", "msae", "cosine", "topk", "batch_topk", "relu_l1"],
)  # fmt: skip
@pytest.mark.parametrize("how", ["sem", "msae"])
def test_each_architecture_lowers_its_loss(objective, lr, how):
    rows, _ = planted(3000)
    sae = fresh(objective.architecture, objective.levels, how=how)
    made = trainer(rows, Schedule(lr=lr, batch=256, epochs=5), sae, objective)
    made.run()
    first, last = made.log[0], made.log[-1]
    assert last.loss < 0.8 * first.loss and last.quality.cosine > first.quality.cosine


def interrupted(made, after):
    """The saved bytes of a trainer's state after some epochs."""
    saved = io.BytesIO()

    def stop():
        if len(made.log) == after:
            torch.save(made.state(), saved)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.run(stop)
    return io.BytesIO(saved.getvalue())


@pytest.mark.parametrize("patience", [None, 3])
def test_a_resumed_training_ends_with_the_same_bits(patience):
    rows, _ = planted(1500)
    schedule = Schedule(lr=3e-3, batch=128, epochs=7, patience=patience, check_every=5)
    whole = trainer(rows, schedule)
    whole.run()
    saved = interrupted(trainer(rows, schedule), 3)
    resumed = trainer(rows, schedule, fresh(seed=9))
    resumed.restore(torch.load(saved, weights_only=True))
    resumed.run()
    assert resumed.sae.digest() == whole.sae.digest()
    assert [row._replace(seconds=0) for row in resumed.log] == [row._replace(seconds=0) for row in whole.log]
    assert whole.log[0].rare is not None


def test_seeds_draw_other_batches():
    rows, _ = planted(600)
    schedule = Schedule(lr=1e-3, batch=100, epochs=2)
    ends = [trainer(rows, schedule, seed=seed).run().digest() for seed in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]


def test_patience_stops_and_keeps_the_best_weights():
    rows, _ = planted(800)
    # The rate is so high that the error on unseen rows soon rises again.
    made = trainer(rows, Schedule(lr=0.3, batch=100, epochs=60, patience=4, unit_norm_decoder=False))
    sae = made.run()
    fvus = [row.quality.fvu for row in made.log]
    assert len(fvus) < 60 and len(fvus) == made.best_epoch + 4
    assert measure(sae, made.held_out, 100).fvu == pytest.approx(min(fvus), rel=1e-6)


def test_rate_is_constant_then_falls_to_nothing():
    rates = [learning_rate(epoch, Schedule(lr=1.0, epochs=10)) for epoch in range(11)]
    assert rates == [1.0] * 9 + [0.5, 0.0]
    assert [learning_rate(e, Schedule(lr=1.0, epochs=4, constant_share=0)) for e in range(4)] == [1, 0.75, 0.5, 0.25]


def test_the_gradient_along_a_direction_is_removed():
    sae = fresh()
    sae.decoder.weight.grad = torch.randn(sae.decoder.weight.shape)
    before = sae.decoder.weight.grad.clone()
    remove_parallel_gradient(sae.decoder)
    weight, gradient = sae.decoder.weight.detach(), sae.decoder.weight.grad
    np.testing.assert_allclose((weight * gradient).sum(0), 0, atol=1e-6)
    unit = functional.normalize(weight, dim=0)
    torch.testing.assert_close(gradient, before - unit * (unit * before).sum(0))


def test_rare_latents_are_counted_at_checks():
    rows, _ = planted(400)
    sae = fresh()
    with torch.no_grad():
        sae.encoder.bias[:3] = -100
    made = trainer(rows, Schedule(lr=1e-5, batch=100, epochs=2, check_every=4), sae)
    made.run()
    assert [row.rare for row in made.log] == [3, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda rows: rows[:, :5], "wide, expected 32"), (lambda rows: rows.index_fill(0, torch.tensor([50]), torch.nan), "NaN"),
     (lambda rows: rows[:1], "at least one row")],
)  # fmt: skip
def test_rows_that_cannot_be_trained_on_are_refused(change, message):
    rows, _ = planted(100)
    with pytest.raises(ValueError, match=message):
        trainer(change(rows), Schedule())


def test_divergence_is_said():
    rows, _ = planted(200)
    with pytest.raises(ValueError, match="diverged in epoch"):
        trainer(rows * 1e19, Schedule(lr=1.0, batch=50, epochs=3)).run()
