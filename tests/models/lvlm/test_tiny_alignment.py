"""Aligning a projector with words: the loss against its definition, and that it learns what can be learnt."""

import math

import pytest
import torch

from runner.models.lvlm.alignment import LENGTH_WEIGHT, SHARPNESS, bag_loss, bag_scores, fit


def test_the_loss_is_its_definition():
    torch.manual_seed(0)
    tokens, words, centre = torch.randn(2, 3, 5), torch.randn(4, 5), torch.randn(5)
    targets = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1]])
    total = 0.0
    for b in range(2):
        scores = []
        for word in words:
            cosines = [torch.cosine_similarity(t - centre, word - centre, dim=0).item() for t in tokens[b]]
            scores.append(math.log(sum(math.exp(SHARPNESS * c) for c in cosines) / 3))
        likely = [s - math.log(sum(math.exp(x) for x in scores)) for s in scores]
        total -= sum(p for p, t in zip(likely, targets[b], strict=True) if t) / int(targets[b].sum()) / 2
    lengths = sum((t.norm().item() / 2 - 1) ** 2 for row in tokens for t in row) / 6
    assert bag_loss(tokens, words, centre, targets, 2.0).item() == pytest.approx(
        total + LENGTH_WEIGHT * lengths, abs=1e-4
    )


def test_scores_do_not_hang_on_the_order_of_tokens():
    torch.manual_seed(1)
    tokens, words, centre = torch.randn(2, 6, 5), torch.randn(4, 5), torch.zeros(5)
    assert torch.allclose(
        bag_scores(tokens, words, centre), bag_scores(tokens[:, torch.randperm(6)], words, centre), atol=1e-5
    )


def test_a_projector_learns_which_word_stands_where():
    torch.manual_seed(2)
    table = torch.randn(50, 16)
    kinds = torch.randint(0, 4, (200,))
    features = 0.1 * torch.randn(200, 5, 8)
    features[torch.arange(200), torch.randint(0, 5, (200,)), kinds] += 3  # one token of five tells
    targets = torch.nn.functional.one_hot(kinds, 4).float()
    projector = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 16))

    def batches():
        yield from zip(features.split(20), targets.split(20), strict=True)

    losses = [*fit(projector, batches, table[:4], table, epochs=25, lr=3e-3)]
    with torch.no_grad():
        said = bag_scores(projector(features), table[:4], table.mean(0)).argmax(1)
    assert losses[-1] < 0.3 * losses[0] and (said == kinds).float().mean() > 0.95
