import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from runner.nodes.clip.augment import composed, pasted, plain_view, random_grid, random_view
from runner.nodes.clip.losses import cosine_distance, student_losses
from runner.nodes.clip.network import build, encode_texts, tokenize, without_unused_rows
from runner.nodes.clip.specs import MEAN, STD, ClipSize, Training
from runner.nodes.clip.teacher import fit_text_space, ridge_targets, standardised
from runner.nodes.clip.training import draw, learning_rate

TINY = ClipSize(
    image_size=16,
    patch=8,
    width=16,
    layers=2,
    head_width=8,
    text_width=16,
    text_layers=2,
    context_length=12,
    embed_dim=8,
)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_transparent_pixel_shows_the_background_and_an_opaque_one_does_not():
    pixels = torch.zeros(1, 4, 1, 3, dtype=torch.uint8)
    pixels[0, :3, 0, 0] = 255  # nothing but background: white on white
    pixels[0, :, 0, 1] = torch.tensor([10, 20, 30, 255])  # opaque
    pixels[0, :, 0, 2] = torch.tensor([255, 128, 128, 127])  # half red: stored on white
    out = composed(pixels, torch.tensor([0.0, 0.5, 1.0])[None, :, None, None])[0, :, 0]
    assert out[:, 0].tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert out[:, 1].tolist() == pytest.approx([10 / 255, 20 / 255, 30 / 255])
    a = 127 / 255  # a F + (1 - a) B with F = pure red
    assert out[:, 2].tolist() == pytest.approx([a, (1 - a) * 0.5, 1 - a], abs=0.01)


def test_a_plain_view_of_white_is_white_after_normalisation():
    view = plain_view(torch.full((2, 4, 18, 18), 255, dtype=torch.uint8), 16)
    expected = [(1 - m) / s for m, s in zip(MEAN, STD, strict=True)]
    assert view.shape == (2, 3, 16, 16)
    assert view[1, :, 8, 8].tolist() == pytest.approx(expected, abs=1e-4)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_crops_stay_inside_and_only_what_may_be_mirrored_is(seed):
    torch.manual_seed(seed)
    grid = random_grid(torch.tensor([True] * 20 + [False] * 20), 8)
    assert grid.abs().max() <= 1 + 1e-5
    left_to_right = grid[:, 0, -1, 0] > grid[:, 0, 0, 0]
    assert left_to_right[20:].all()


def test_some_flippable_pictures_are_mirrored():
    torch.manual_seed(0)
    grid = random_grid(torch.ones(50, dtype=torch.bool), 8)
    mirrored = int((grid[:, 0, -1, 0] < grid[:, 0, 0, 0]).sum())
    assert 10 < mirrored < 40


def test_the_same_seed_gives_the_same_views_and_another_one_others():
    pixels = torch.randint(0, 256, (3, 4, 18, 18), dtype=torch.uint8)
    flippable = torch.ones(3, dtype=torch.bool)

    def view(seed):
        torch.manual_seed(seed)
        return random_view(pixels, flippable, 16)

    assert torch.equal(view(1), view(1))
    assert not torch.equal(view(1), view(2))


def test_cut_outs_are_pasted_on_opaque_pictures_of_the_batch_alone():
    torch.manual_seed(0)
    pixels = torch.zeros(3, 4, 4, 4, dtype=torch.uint8)
    pixels[0, :3] = 255  # all transparent
    pixels[1, 0], pixels[1, 3] = 200, 255  # opaque, red
    pixels[2, 1], pixels[2, 3] = 100, 255  # opaque, green
    colours = torch.full((3, 3, 1, 1), 0.5)
    background = pasted(pixels, colours, 1.0)
    reds, greens = (torch.tensor(rgb)[:, None, None] / 255 for rgb in ([200.0, 0, 0], [0, 100.0, 0]))
    assert all(torch.allclose(b, reds.expand_as(b)) or torch.allclose(b, greens.expand_as(b)) for b in background)
    assert torch.allclose(composed(pixels, background)[0], background[0])
    assert torch.allclose(composed(pixels, background)[1], pixels[1, :3] / 255)  # an opaque picture hides it
    assert pasted(pixels, colours, 0.0) is colours
    assert pasted(pixels[:1], colours[:1], 1.0).shape == (1, 3, 1, 1)  # nothing to paste on


# --- teachers --------------------------------------------------------------------------------------------------------


def test_a_text_space_of_all_dimensions_keeps_the_centred_cosines():
    t = torch.randn(40, 6)
    space = fit_text_space(t, 6)
    centred = functional.normalize(t - t.mean(0), dim=1)
    mine = space.project(t)
    assert torch.allclose(mine @ mine.T, centred @ centred.T, atol=1e-5)


def test_a_text_space_keeps_the_directions_of_most_variance():
    t = torch.randn(500, 3) * torch.tensor([0.1, 5.0, 1.0])
    axes = fit_text_space(t, 2).axes
    assert axes[1, 0] > 0.99
    assert axes[2, 1] > 0.99


def test_a_text_space_of_too_many_dimensions_is_refused():
    with pytest.raises(ValueError, match="4 dimensions"):
        fit_text_space(torch.randn(9, 3), 4)


def test_ridge_targets_recover_a_linear_map_and_ignore_rows_that_are_held_out():
    v = functional.normalize(torch.randn(200, 5), dim=1)
    t = v @ torch.randn(5, 4)
    train = torch.arange(200) < 150
    t[150:] = torch.randn(50, 4)
    true = functional.normalize((v - v[train].mean(0)) @ torch.linalg.lstsq(v[train], t[train]).solution, dim=1)
    assert torch.allclose(ridge_targets(v, t, train, 1e-9), true, atol=1e-3)


def test_standardised_features_have_unit_length_and_no_mean():
    v = torch.randn(300, 4) * torch.tensor([1.0, 10.0, 0.1, 1.0]) + 5
    out = standardised(v, torch.ones(300, dtype=torch.bool))
    assert torch.allclose(out.norm(dim=1), torch.ones(300), atol=1e-5)
    assert out.mean(0).abs().max() < 0.1
    assert out.std(0).max() / out.std(0).min() < 1.3


# --- losses and schedule ---------------------------------------------------------------------------------------------


def test_cosine_distance_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    y = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    assert float(cosine_distance(x, y)) == pytest.approx((0 + 2 + 1 - math.sqrt(0.5)) / 3)


def test_losses_of_a_perfect_student_are_as_small_as_they_can_be():
    x = torch.eye(4)
    losses = student_losses(
        x, torch.cat((x, -x)), torch.arange(4), torch.tensor(50.0),
        image_target=x, text_target=torch.cat((x, -x)), features=x, feature_target=x,
    )  # fmt: skip
    assert [float(value) for value in losses] == pytest.approx([0.0] * 4, abs=1e-6)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    plan = Training(steps=110, warmup=10, lr=2e-3)
    rates = [learning_rate(step, plan) for step in range(111)]
    assert rates[0] == pytest.approx(2e-4)
    assert max(rates) == pytest.approx(2e-3)
    assert rates[60] == pytest.approx(1e-3)
    assert rates[110] == pytest.approx(0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@given(n=st.integers(2, 40), batch=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_every_epoch_draws_everything_once(n, batch, seed):
    drawn = torch.cat([draw(n, batch, seed, step) for step in range(math.ceil(2 * n / batch))])
    for epoch in (drawn[:n], drawn[n : 2 * n]):
        assert sorted(epoch.tolist()) == list(range(n))


# --- network ---------------------------------------------------------------------------------------------------------


def test_texts_without_their_padding_are_encoded_as_open_clip_encodes_them():
    torch.manual_seed(0)
    network = build(TINY).eval()
    tokens = tokenize(["dog", "a photo of a dog on a beach", "word " * 40], TINY.context_length)
    with torch.inference_mode():
        for part in (tokens, tokens[:2]):
            assert torch.allclose(encode_texts(network, part), network.encode_text(part), atol=1e-5)


def test_only_rows_that_no_text_used_become_zero():
    table = torch.randn(6, 3)
    out = without_unused_rows({"token_embedding.weight": table, "other": table}, torch.tensor([0, 4]))
    kept = out["token_embedding.weight"]
    assert torch.equal(kept[[0, 4]], table[[0, 4]])
    assert not kept[[1, 2, 3, 5]].any()
    assert torch.equal(out["other"], table)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_size": 60}, "image_size 60 is no multiple of patch 8"),
        ({"width": 200}, "width 200 is no multiple of head_width 32"),
        ({"text_width": 100}, "text_width 100 is no multiple of head_width 32"),
        ({"embed_dim": 256}, "embed_dim 256 is larger than width 192"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_sentence(fields, said):
    with pytest.raises(ValueError, match=said):
        ClipSize(**fields)
