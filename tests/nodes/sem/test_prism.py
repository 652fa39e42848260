"""PRISM's learned map and ZSDebias's adaptor: losses written out, and what training must do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.sem.baselines import apply_map, prism_mini_map
from runner.nodes.sem.prism import prism_loss, prism_map
from runner.nodes.sem.zsdebias import Weights, debias_images, kernel_cka, loss_terms, nearest_bias_texts, train_zsdebias
from runner.nodes.sem.zsdebias import ZsDebias as Adaptor

SEEDS = st.integers(0, 10_000)


def normal(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


def cos(a, b):
    return float(a @ b / (a.norm() * b.norm()))


@given(SEEDS, st.floats(-0.5, 0.9))
@settings(max_examples=25, deadline=None)
def test_the_loss_is_its_formula_scene_by_scene(seed, margin):
    positives, negatives = normal(seed, 5, 3, 8), normal(seed + 1, 5, 4, 8)
    near, far = [], []
    for scene in positives:
        centre = (scene / scene.norm(dim=1, keepdim=True)).mean(0)
        near += [1 - cos(text, centre) for text in scene]
    for scene in negatives:
        far += [max(cos(scene[i], scene[j]) - margin, 0) for i in range(4) for j in range(i + 1, 4)]
    assert float(prism_loss(positives, negatives, margin)) == pytest.approx(np.mean(near) + np.mean(far), abs=1e-5)


def scenes(seed, count=200, d=24, targets=3, values=2):
    """Sentences = scene + target + attribute value, plus noise: (positives, negatives, directions of the values)."""
    parts = [normal(seed + i, n, d) for i, n in enumerate((count, targets, values))]
    rng = np.random.default_rng(seed)
    scene = 0.3 * parts[0][:, None]
    own_target, own_value = rng.integers(0, targets, count), rng.integers(0, values, count)
    positives = scene + parts[1][own_target][:, None] + parts[2][None]
    negatives = scene + parts[2][own_value][:, None] + parts[1][None]
    noise = 0.5 * normal(seed + 9, count, values + targets, d)
    return positives + noise[:, :values], negatives + noise[:, values:], parts[2]


@pytest.mark.parametrize("how", [{"init": "random"}, {"init": "identity"}, {"init": "orthogonal"}, {"rank": 2}])
def test_training_lowers_the_loss_and_depends_on_its_seed_alone(how):
    positives, negatives, values = scenes(0)
    spurious = {"spurious": values} if how.get("init") == "orthogonal" else {}
    before = prism_map(positives, negatives, epochs=0, seed=1, **how, **spurious)
    state = torch.random.get_rng_state()
    after = prism_map(positives, negatives, epochs=20, seed=1, **how, **spurious)
    assert torch.equal(torch.random.get_rng_state(), state)
    losses = [float(prism_loss(positives @ m, negatives @ m, 0.6)) for m in (before, after)]
    assert losses[1] < losses[0]
    assert torch.equal(after, prism_map(positives, negatives, epochs=20, seed=1, **how, **spurious))
    if how.get("init") == "identity":
        assert torch.equal(before, torch.eye(24))
    if how.get("init") == "orthogonal":
        torch.testing.assert_close(before, prism_mini_map(values).float())
    if "rank" in how:
        torch.testing.assert_close(after @ after, after, atol=1e-4, rtol=0)
        assert torch.linalg.matrix_rank(after, tol=1e-3) == 22


def test_mapped_versions_of_a_target_come_together():
    positives, negatives, _ = scenes(3)
    map_ = prism_map(positives, negatives, epochs=20, lr=0.01)
    test, _, _ = scenes(3)

    def alike(x):
        return float((x[:, 0] * x[:, 1]).sum(1).mean())

    mapped = apply_map(test.flatten(0, 1), map_).view(test.shape)
    assert alike(mapped) > alike(torch.nn.functional.normalize(test, dim=-1)) + 0.05


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, n: prism_map(p[:, :1], n), "at least 2"),
        (lambda p, n: prism_map(p, n[:5]), "200 scenes of positives and 5"),
        (lambda p, n: prism_map(p, n * torch.nan), "NaN"),
        (lambda p, n: prism_map(p, n, init="orthogonal"), "spurious"),
        (lambda p, n: prism_map(p, n, rank=24), r"1 \.\. 23"),
    ],
)
def test_scenes_that_teach_nothing_are_refused(call, words):
    positives, negatives, _ = scenes(0)
    with pytest.raises(ValueError, match=words):
        call(positives, negatives)


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_kernel_alignment_sees_geometry_only(seed):
    x = normal(seed, 30, 6)
    turned, _ = torch.linalg.qr(normal(seed + 1, 6, 6))
    assert float(kernel_cka(x, x)) == pytest.approx(1, abs=1e-5)
    assert float(kernel_cka(x, 3 * x @ turned + 5)) == pytest.approx(1, abs=1e-4)
    y = normal(seed + 2, 30, 6)
    assert -1e-6 <= float(kernel_cka(x, y)) < 1
    k, m = (centred(z.double()) for z in (x, y))
    assert float(kernel_cka(x, y)) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())), abs=1e-4)


def centred(x):
    """Gaussian kernel with explicit distances, centred by H K H."""
    squares = torch.cdist(x, x) ** 2
    apart = squares[~torch.eye(len(x), dtype=torch.bool)]
    kernel = torch.exp(-squares / (2 * apart.sort().values[(len(apart) - 1) // 2]))
    h = torch.eye(len(x), dtype=x.dtype) - 1 / len(x)
    return h @ kernel @ h


def test_nearest_texts_of_the_corpus():
    images, corpus = torch.tensor([[2.0, 0.1]]), torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    expected = torch.tensor([[1 + 0.5**0.5, 0.5**0.5]])
    torch.testing.assert_close(nearest_bias_texts(images, corpus, 2), expected / expected.norm())


def people(seed, n=600, d=16):
    """Images whose last coordinates hold a strong binary attribute, and texts about it."""
    rng = np.random.default_rng(seed)
    attribute = rng.integers(0, 2, n)
    axis = np.eye(d)[-1] * 3
    images = rng.normal(size=(n, d)) + np.where(attribute[:, None] == 1, axis, -axis)
    texts = 0.2 * rng.normal(size=(40, d)) + np.where(np.arange(40)[:, None] % 2 == 1, axis, -axis)
    return torch.tensor(images, dtype=torch.float32), torch.tensor(texts, dtype=torch.float32), attribute


def test_the_adaptor_learns_and_its_images_hide_the_attribute():
    images, corpus, attribute = people(0, n=400)
    state = torch.random.get_rng_state()
    # The published weights ask for far more data; reconstruction would drown the attribute here.
    weights = Weights(reconstruction=1.0, independence=20.0, bias_alignment=20.0, contrast=0.5)
    trained = train_zsdebias(images, corpus, epochs=30, batch=140, lr=3e-3, weights=weights, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert min(trained.validation) == trained.validation[trained.epoch - 1] < trained.validation[0]
    made = debias_images(trained.model, images, seed=2)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(len(images)))
    assert torch.equal(made, debias_images(trained.model, images, seed=2))
    assert separation(made, attribute) < 0.5 * separation(torch.nn.functional.normalize(images, dim=1), attribute)


def separation(x, attribute):
    """Distance of the two class means in units of the pooled spread along it."""
    one, other = x[attribute == 1], x[attribute == 0]
    axis = one.mean(0) - other.mean(0)
    along = [part @ (axis / axis.norm()) for part in (one, other)]
    return float(axis.norm() / (sum(a.var() for a in along) / 2).sqrt())


def test_terms_of_the_loss():
    torch.manual_seed(0)
    model, images, targets = Adaptor(8).eval().requires_grad_(False), normal(0, 20, 8), normal(1, 20, 8)
    terms = loss_terms(model, images, targets)
    mean, log_variance = model.encode(images)
    kl = 0.5 * (mean.double() ** 2 + log_variance.double().exp() - 1 - log_variance.double()).sum(1).mean()
    assert float(terms.kl) == pytest.approx(float(kl), rel=1e-4)
    assert all(bool(torch.isfinite(t)) for t in terms)
    torch.manual_seed(3)
    right = loss_terms(model, images, targets)
    torch.manual_seed(3)
    swapped = loss_terms(model, images, targets, swapped=True)
    assert float(right.contrast) != float(swapped.contrast)
    assert float(right.reconstruction) == float(swapped.reconstruction)


@pytest.mark.parametrize("swapped", [False, True])
def test_only_the_term_of_shuffled_bias_swaps_the_halves(swapped):
    model, images, targets = Adaptor(8).eval().requires_grad_(False), normal(0, 20, 8), normal(1, 20, 8)
    torch.manual_seed(3)
    terms = loss_terms(model, images, targets, swapped=swapped)
    torch.manual_seed(3)
    mean, log_variance = model.encode(images)
    z = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
    order = torch.randperm(20)
    neutral, bias = z[:, :4], z[:, 4:]
    made = {
        "bias": [bias[order], neutral] if swapped else [neutral, bias[order]],
        "neutral": [neutral[order], bias],
    }
    errors = {name: ((model.decoder(torch.cat(h, 1)) - images) ** 2).sum() / 20 for name, h in made.items()}
    assert float(terms.contrast) == pytest.approx(float(errors["bias"] + errors["neutral"]), rel=1e-5)


def test_too_little_to_train_on_is_refused():
    images, corpus, _ = people(0)
    with pytest.raises(ValueError, match="16 images"):
        train_zsdebias(images[:15], corpus)
    with pytest.raises(ValueError, match="more than 10 texts"):
        train_zsdebias(images, corpus[:10])
    with pytest.raises(ValueError, match="one epoch"):
        train_zsdebias(images, corpus, epochs=0)
    with pytest.raises(ValueError, match="wide"):
        train_zsdebias(images, corpus[:, :4])
