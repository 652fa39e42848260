"""Training of the keys: it raises training accuracy, follows its seed, and begins at the training-free logits."""

import numpy as np
import pytest
from test_tip_adapter import material

from runner.nodes.classify.tip_adapter import cache_model, tip_logits
from runner.nodes.classify.tip_adapter_f import train_keys


def trained(seed=0, *, views=None, epochs=20, **settings):
    pool, labels, _, _, weights = material(5, shots=8, dim=5, noise=1.5)
    keys, values = cache_model(pool, labels, 4)
    losses = []
    new = train_keys(
        pool if views is None else views(pool), labels, keys, values, weights,
        alpha=2.0, beta=3.0, epochs=epochs, batch_size=8, learning_rate=1e-2, seed=seed, on_epoch=losses.append, **settings,
    )  # fmt: skip
    return pool, labels, keys, values, weights, new, losses


def test_training_lowers_the_loss_and_raises_accuracy():
    pool, labels, keys, values, weights, new, losses = trained()
    assert len(losses) == 20 and losses[-1] < losses[0]

    def accuracy(F):
        return np.mean(tip_logits(pool, F, values, weights, 2.0, 3.0).argmax(1) == labels)

    assert accuracy(new) > accuracy(keys)


def test_training_follows_its_seed():
    first, again, other = trained(1)[5], trained(1)[5], trained(2)[5]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_first_loss_is_the_cross_entropy_of_the_training_free_logits():
    pool, labels, keys, values, weights = trained(epochs=1)[:5]
    losses = []
    train_keys(pool, labels, keys, values, weights, alpha=2.0, beta=3.0, epochs=1, on_epoch=losses.append)
    logits = tip_logits(pool, keys, values, weights, 2.0, 3.0)
    shifted = logits - logits.max(1, keepdims=True)
    nll = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    assert losses == [pytest.approx(nll.mean(), rel=1e-4)]


def test_views_take_turns():
    alone = trained(views=lambda pool: np.stack([pool, pool]))[5]
    assert np.array_equal(alone, trained()[5])
    assert not np.array_equal(trained(views=lambda pool: np.stack([pool, pool[::-1]]))[5], alone)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="0 epochs"):
        trained(epochs=0)
    with pytest.raises(ValueError, match="NaN"):
        trained(views=lambda pool: pool * np.nan)
