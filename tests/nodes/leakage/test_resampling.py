"""The paired bootstrap: exact resamples, their first-order form, and differences that are paired."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from runner.nodes.leakage.metrics import leakage_scores
from runner.nodes.leakage.ranking import MEASURES, Ranking, auroc, average_precision, rank
from runner.nodes.leakage.resampling import bootstrap, groups_among, interval, resample_counts


def columns(seed: int, rows: int, levels: int = 10_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    targets, valid = torch.rand(rows, 3, generator=g) < 0.4, torch.rand(rows, 3, generator=g) < 0.9
    scores = torch.randint(levels, (rows, 3), generator=g) + targets * levels * 0.3
    return scores.double(), targets, valid


def test_counts_sum_to_the_pictures_and_repeat() -> None:
    counts = resample_counts(250, 40, 7)
    assert counts.dtype == torch.uint8
    assert counts.sum(1, dtype=torch.int64).tolist() == [250] * 40
    assert torch.equal(counts, resample_counts(250, 40, 7))
    assert not torch.equal(counts, resample_counts(250, 40, 8))
    assert counts.double().mean(0).std().item() == pytest.approx(40**-0.5, rel=0.2)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.sampled_from([3, 10_000]))
def test_exact_form_is_the_measure_of_rows_repeated(seed: int, levels: int) -> None:
    scores, targets, valid = columns(seed, 40, levels)
    counts = resample_counts(40, 4, seed)
    ranking = rank(scores, targets, valid)
    found = {name: bootstrap(measure, ranking, counts, "exact") for name, measure in MEASURES.items()}
    for b in range(4):
        again = torch.repeat_interleave(torch.arange(40), counts[b].long())
        drawn = scores[again], targets[again], valid[again]
        base = (drawn[1] & drawn[2]).sum(0) / drawn[2].sum(0)
        torch.testing.assert_close(found["auroc"][b], auroc(*drawn), atol=1e-6, rtol=0, equal_nan=True)
        torch.testing.assert_close(found["ap"][b], average_precision(*drawn) - base, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("metric", ["auroc", "ap"])
@pytest.mark.parametrize("weighted", [False, True])
def test_projected_form_agrees_with_the_exact_one(metric: str, weighted: bool) -> None:
    scores, targets, valid = columns(3, 1500)
    weights = torch.rand(1500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) if weighted else None
    ranking, counts = rank(scores, targets, valid), resample_counts(1500, 400, 0)
    exact, projected = (bootstrap(MEASURES[metric], ranking, counts, form, weights) for form in ("exact", "projected"))
    error = exact.std(0)
    torch.testing.assert_close(projected.std(0), error, rtol=0.05, atol=0)
    correlation = torch.stack(
        [torch.corrcoef(torch.stack([e, p]))[0, 1] for e, p in zip(exact.T, projected.T, strict=True)]
    )
    assert correlation.min() > 0.99
    for one, other in zip(interval(exact), interval(projected), strict=True):
        assert ((one - other).abs() < 0.35 * error).all()


def test_projected_form_leaves_columns_of_one_class_alone() -> None:
    scores, targets, valid = columns(0, 50)
    whole = bootstrap(MEASURES["auroc"], rank(scores, targets, valid), resample_counts(50, 20, 0), "projected")
    targets[:, 1] = True
    found = bootstrap(MEASURES["auroc"], rank(scores, targets, valid), resample_counts(50, 20, 0), "projected")
    assert found[:, 1].isnan().all()
    torch.testing.assert_close(found[:, [0, 2]], whole[:, [0, 2]])


@pytest.mark.parametrize("form", ["exact", "projected"])
def test_a_difference_with_itself_has_no_width_and_paired_ones_are_narrow(form: str) -> None:
    scores, targets, valid = columns(5, 400)
    counts = resample_counts(400, 200, 1)
    owner = torch.tensor([0, 1, 0])

    def tables(other: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [bootstrap(MEASURES["auroc"], rank(s, targets, valid), counts, form) for s in (scores, other)], 1
        )

    single = tables(scores * 2)
    low, high = interval(leakage_scores(single, single, owner).excess_leakage)
    assert (low.item(), high.item()) == (0, 0)
    noisy = tables(scores + torch.randn(400, 3, generator=torch.Generator().manual_seed(2)) * 300)
    paired = leakage_scores(noisy, single, owner).excess_leakage.std()
    apart = leakage_scores(noisy, single[torch.randperm(200, generator=torch.Generator().manual_seed(0))], owner)
    assert paired < 0.5 * apart.excess_leakage.std()


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Scores N(1, 1) against N(0, 1): AUROC = Phi(1 / sqrt 2); 300 worlds, one column each."""
    truth = torch.distributions.Normal(0, 1).cdf(torch.tensor(0.5**0.5)).item()
    g = torch.Generator().manual_seed(0)
    targets = (torch.rand(120, 300, generator=g) < 0.5).int()
    scores = torch.randn(120, 300, generator=g) + targets
    replicates = bootstrap(MEASURES["auroc"], rank(scores, targets), resample_counts(120, 200, 0), "exact")
    low, high = interval(replicates)
    assert 0.90 <= ((low <= truth) & (truth <= high)).double().mean().item() <= 0.98


def test_interval_leaves_out_resamples_without_a_value() -> None:
    replicates = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None].repeat(1, 2)
    replicates[1::2, 0] = torch.nan
    low, high = interval(replicates)
    assert (low.tolist(), high.tolist()) == (pytest.approx([0.025, 0.025]), pytest.approx([0.975, 0.975]))


def test_chunks_do_not_change_values(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets, valid = columns(5, 90)
    ranking, counts = rank(scores, targets, valid), resample_counts(90, 33, 1)
    assert isinstance(ranking, Ranking)
    whole = bootstrap(MEASURES["ap"], ranking, counts, "exact")
    monkeypatch.setattr("runner.nodes.leakage.resampling._CHUNK", {"cpu": 100})
    assert torch.equal(bootstrap(MEASURES["ap"], ranking, counts, "exact"), whole)
    monkeypatch.setattr("runner.nodes.leakage.resampling._SORTED", 40)
    low, high = interval(whole.reshape(33, 3, 1).expand(-1, -1, 2))
    assert low.shape == high.shape == (3, 2)
    np.testing.assert_allclose(low[:, 0].numpy(), np.quantile(whole.numpy(), 0.025, axis=0))


def test_groups_are_drawn_whole_and_as_many_as_there_are() -> None:
    groups = torch.tensor([7, 2, 7, 7, 5, 2])
    counts = resample_counts(6, 50, 3, groups)
    assert counts.shape == (50, 6)
    assert torch.equal(counts[:, 0], counts[:, 2]) and torch.equal(counts[:, 0], counts[:, 3])
    assert torch.equal(counts[:, 1], counts[:, 5])
    assert (counts[:, [0, 1, 4]].sum(1) == 3).all()
    assert len(counts.unique(dim=0)) > 5
    assert torch.equal(resample_counts(6, 50, 3, torch.arange(6)), resample_counts(6, 50, 3))


def test_groups_that_have_a_known_picture_are_counted() -> None:
    known = torch.tensor([[1, 0], [1, 0], [0, 0], [1, 1]], dtype=torch.bool)
    assert groups_among(known, torch.tensor([4, 4, 9, 1])).tolist() == [2, 1]


def test_resamples_of_large_groups_keep_exact_sums() -> None:
    """One group of 4,000 pictures drawn three times holds more pictures than the set: sums must not lose digits."""
    g = torch.Generator().manual_seed(0)
    scores, targets = torch.rand(4002, 1, generator=g, dtype=torch.float64), torch.rand(4002, 1, generator=g) < 0.5
    counts = torch.ones(1, 4002, dtype=torch.uint8)
    counts[:, :4000] = 3
    repeated = counts[0].long()
    ranking = rank(scores, targets, torch.ones_like(targets))
    (found,) = bootstrap(MEASURES["auroc"], ranking, counts, "exact").flatten().tolist()
    drawn = scores.repeat_interleave(repeated, 0), targets.repeat_interleave(repeated, 0)
    assert found == pytest.approx(roc_auc_score(drawn[1][:, 0], drawn[0][:, 0]), abs=1e-12)
