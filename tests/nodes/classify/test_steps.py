"""The steps on real photographs: pool, features, neighbours, three methods, one score."""

import dataclasses

import numpy as np
import pytest
from photographs import KINDS, ColourEncoder, about, cifar, row

from results.tables import arrow_table
from runner.artifacts import Datasets, ImageFeatures
from runner.context import local_context
from runner.errors import DataError, StepError
from runner.nodes.classify.answering import TipPlan
from runner.nodes.classify.knn import knn_vote
from runner.nodes.classify.steps import clip_zero_shot, features, knn, neighbours, pool, score, tip_adapter
from runner.nodes.classify.tip_adapter import cache_model, search_alpha_beta, tip_logits


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work", seed=3)


@pytest.fixture(scope="module")
def images():
    return cifar()


@pytest.fixture(scope="module")
def encoder():
    return ColourEncoder()


@pytest.fixture(scope="module")
def made(images, encoder, tmp_path_factory):
    """Features and a pool of four pictures a class."""
    ctx = local_context(tmp_path_factory.mktemp("made"))
    return features(ctx, encoder=encoder, images=images), pool(ctx, images=images, shots_per_class=4, seed=1)


def of(made, split):
    """Rows, vectors and classes of a split, as an independent reader finds them."""
    rows = made[0].rows.to_pylist()
    places = [i for i, r in enumerate(rows) if r["split"] == split]
    return (
        [rows[i] for i in places],
        made[0].features["features"][places],
        np.array([rows[i]["class_index"] for i in places]),
    )


def pool_of(made):
    rows = made[1].pool.to_pylist()
    place = {r["sample_id"]: i for i, r in enumerate(made[0].rows.to_pylist())}
    return rows, made[0].features["features"][[place[r["sample_id"]] for r in rows]]


def messages(ctx):
    return [m["text"] for m in ctx.journal.messages]


def test_features_are_unit_vectors_of_each_picture_in_order(made, images, encoder):
    rows, vectors = made[0].rows.to_pylist(), made[0].features["features"]
    assert [r["sample_id"] for r in rows] == images.images.column("sample_id").to_pylist()
    assert vectors.dtype == np.float32 and vectors.shape == (111, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert made[0].encoder == {
        "name": "colours", "family": "test-colours", "identity": "colours-1", "dim": 64, "logit_scale": 10.0
    }  # fmt: skip


def test_features_are_made_once_and_a_pool_adds_its_pictures(ctx, images, made):
    encoder = ColourEncoder()
    first = features(ctx, encoder=encoder, images=images, splits=["test"], pool=made[1], batch_size=7)
    assert encoder.embedded == len(first.rows) == 45 + 12
    again = features(ctx, encoder=encoder, images=images, splits=["test"], pool=made[1])
    assert encoder.embedded == 57
    assert np.array_equal(first.features["features"], again.features["features"])
    with pytest.raises(DataError, match="no picture in the splits"):
        features(ctx, encoder=encoder, images=images, splits=[])


def test_a_killed_step_loses_at_most_a_batch(ctx, images):
    class Breaks(ColourEncoder):
        def encode_prepared(self, batch):
            if self.embedded >= 40:
                raise KeyboardInterrupt
            return super().encode_prepared(batch)

    with pytest.raises(KeyboardInterrupt):
        features(ctx, encoder=Breaks(), images=images, batch_size=10)
    encoder = ColourEncoder()
    features(ctx, encoder=encoder, images=images, batch_size=10)
    assert encoder.embedded == 111 - 40


def test_pictures_that_cannot_be_read_are_counted_and_left_out(ctx, tmp_path, encoder, images):
    from PIL import Image

    (tmp_path / "p").mkdir()
    for n, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "p" / f"{n}.png")
    (tmp_path / "p" / "9.png").write_bytes(b"no picture")
    rows = [row("own", "test", f"s{n}", "p", f"{n}.png", "red", 0) for n in (0, 1, 9)]
    corpus = [{"folder": str(tmp_path / "p")}]
    own = Datasets([about("own", ["red"])], corpus, arrow_table("dataset_image", rows))
    found = features(ctx, encoder=encoder, images=own)
    assert found.rows.column("sample_id").to_pylist() == ["s0", "s1"]
    assert any("1 pictures cannot be read and are left out" in text for text in messages(ctx))
    answers = clip_zero_shot(ctx, encoder=encoder, features=found, images=own).answers.to_pylist()
    assert [(a["sample_id"], a["prediction"]) for a in answers] == [("s0", "red"), ("s1", "red"), ("s9", None)]
    assert "cannot be read" in answers[2]["failure"]
    scored = score(ctx, answers=[clip_zero_shot(ctx, encoder=encoder, features=found, images=own)])
    whole = next(r for r in scored.summary.to_pylist() if r["level"] == "all")
    assert (whole["value"], whole["n"], whole["failures"]) == (pytest.approx(2 / 3), 3, 1)
    broken = Datasets(own.datasets, corpus, arrow_table("dataset_image", rows[2:]))
    with pytest.raises(DataError, match="none of the 1 pictures can be read"):
        features(ctx, encoder=encoder, images=broken)


def test_a_pool_has_the_same_number_of_every_class_and_follows_its_seed(ctx, images, made):
    rows = made[1].pool.to_pylist()
    assert [r["slot"] for r in rows] == list(range(12))
    assert [r["class_index"] for r in rows] == [0] * 4 + [1] * 4 + [2] * 4
    train = {r["sample_id"] for r in images.images.to_pylist() if r["split"] == "train"}
    assert {r["sample_id"] for r in rows} <= train and len({r["sample_id"] for r in rows}) == 12
    assert (made[1].shots, made[1].seed) == (4, 1)
    assert pool(ctx, images=images, shots_per_class=4, seed=1).pool.equals(made[1].pool)
    assert not pool(ctx, images=images, shots_per_class=4, seed=2).pool.equals(made[1].pool)
    assert pool(ctx, images=images, shots_per_class=4).seed == 3


def test_a_pool_that_cannot_be_drawn_is_refused(ctx, images):
    with pytest.raises(DataError, match=r"3 classes .* fewer than 13 pictures in the split 'train'"):
        pool(ctx, images=images, shots_per_class=13)
    assert len(pool(ctx, images=images, shots_per_class=13, allow_fewer=True).pool) == 36
    info = images.datasets[0] | {"classes": [*KINDS, "dog"]}
    with pytest.raises(DataError, match="the class 'dog' has no picture"):
        pool(ctx, images=dataclasses.replace(images, datasets=[info]), shots_per_class=2, allow_fewer=True)


def test_neighbours_are_the_nearest_by_cosine(ctx, made):
    found = neighbours(ctx, features=made[0], pool=made[1], k=5)
    queries, vectors, _ = of(made, "test")
    pooled, keys = pool_of(made)
    cosines = vectors.astype(np.float64) @ keys.T.astype(np.float64)
    rows = found.neighbours.to_pylist()
    assert len(rows) == 45 * 5
    for i, query in enumerate(queries):
        own = rows[5 * i : 5 * i + 5]
        order = sorted(range(12), key=lambda slot: (-cosines[i, slot], slot))[:5]
        assert [r["pool_sample_id"] for r in own] == [pooled[slot]["sample_id"] for slot in order]
        assert [r["target"] for r in own] == [pooled[slot]["target"] for slot in order]
        assert {r["sample_id"] for r in own} == {query["sample_id"]} and [r["rank"] for r in own] == list(range(5))
        np.testing.assert_allclose([r["similarity"] for r in own], cosines[i, order], atol=1e-9)
    assert (found.how, found.shots, found.seed) == ("similarity", 4, 1)


def test_orders_hold_the_same_neighbours(ctx, made):
    def shown(**settings):
        table = neighbours(ctx, features=made[0], pool=made[1], k=4, **settings).neighbours
        return np.array(table.column("pool_sample_id").to_pylist()).reshape(-1, 4), table

    near, far, mixed = (shown(order=o)[0] for o in ("nearest_first", "farthest_first", "shuffle"))
    assert np.array_equal(near, far[:, ::-1])
    assert not np.array_equal(near, mixed) and np.array_equal(np.sort(near, 1), np.sort(mixed, 1))
    assert np.array_equal(mixed, shown(order="shuffle")[0])
    assert not np.array_equal(mixed, shown(order="shuffle", seed=9)[0])
    drawn, table = shown(how="random")
    assert set(table.column("similarity").to_pylist()) == {None}
    assert all(len(set(own)) == 4 for own in drawn) and not np.array_equal(drawn, near)


def test_knn_votes_of_the_pool_and_of_neighbours_agree(ctx, made):
    queries, vectors, _ = of(made, "test")
    pooled, keys = pool_of(made)
    order = np.argsort(-(vectors.astype(np.float64) @ keys.T.astype(np.float64)), axis=1, kind="stable")
    expected = knn_vote(np.array([r["target"] for r in pooled])[order], 5).tolist()
    alone = knn(ctx, features=made[0], pool=made[1], k=5)
    assert alone.answers.column("prediction").to_pylist() == expected
    assert alone.answers.column("sample_id").to_pylist() == [q["sample_id"] for q in queries]
    for shown in ("nearest_first", "farthest_first", "shuffle"):
        near = neighbours(ctx, features=made[0], pool=made[1], k=6, order=shown)
        assert knn(ctx, features=made[0], neighbours=near, k=5).answers.equals(alone.answers)
    first = knn(ctx, features=made[0], pool=made[1], k=1).answers.column("prediction").to_pylist()
    assert first == [pooled[slot]["target"] for slot in order[:, 0]]


def test_knn_refuses_what_does_not_fit(ctx, made):
    near = neighbours(ctx, features=made[0], pool=made[1], k=3)
    with pytest.raises(StepError, match="give pool or neighbours"):
        knn(ctx, features=made[0])
    with pytest.raises(DataError, match="has 3 neighbours, and 4 shall vote"):
        knn(ctx, features=made[0], neighbours=near, k=4)
    drawn = neighbours(ctx, features=made[0], pool=made[1], k=3, how="random")
    with pytest.raises(DataError, match="drawn at random"):
        knn(ctx, features=made[0], neighbours=drawn, k=3)
    with pytest.raises(DataError, match="k is 13, and its pool has 12"):
        knn(ctx, features=made[0], pool=made[1], k=13)
    with pytest.raises(DataError, match="12 queries are in the pool"):
        neighbours(ctx, features=made[0], pool=made[1], split="train", k=2)


def test_zero_shot_takes_the_nearest_prompt(ctx, made, encoder):
    _, vectors, _ = of(made, "test")
    weights = encoder.encode_texts([f"a photo of a {kind}." for kind in KINDS])
    expected = [KINDS[i] for i in (vectors.astype(np.float64) @ weights.T).argmax(1)]
    found = clip_zero_shot(ctx, encoder=encoder, features=made[0])
    assert found.answers.column("prediction").to_pylist() == expected
    first = found.answers.to_pylist()[0]
    assert (first["method"], first["model"], first["shots"], first["reply"]) == ("clip_zero_shot", "colours", 0, None)
    several = clip_zero_shot(ctx, encoder=encoder, features=made[0], templates=["{}", "a blue {}"], label="two")
    parts = [encoder.encode_texts([t.format(k) for k in KINDS]).astype(np.float64) for t in ("{}", "a blue {}")]
    mean = sum(p / np.linalg.norm(p, axis=1, keepdims=True) for p in parts)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert several.answers.column("prediction").to_pylist() == [KINDS[i] for i in (vectors @ mean.T).argmax(1)]
    assert several.method == "two"


def test_a_limit_draws_the_same_queries_for_every_method(ctx, made, encoder):
    settings = {"features": made[0], "limit": 7}
    found = [
        clip_zero_shot(ctx, encoder=encoder, **settings),
        knn(ctx, pool=made[1], k=3, **settings),
        tip_adapter(ctx, encoder=encoder, pool=made[1], augment_epochs=0, beta_steps=3, **settings),
    ]
    samples = [part.answers.column("sample_id").to_pylist() for part in found]
    assert len(samples[0]) == 7 and samples[0] == samples[1] == samples[2]


def test_tip_adapter_is_the_search_and_the_logits(ctx, made, encoder):
    pooled, raw = pool_of(made)
    keys, values = cache_model(raw, [r["class_index"] for r in pooled], 3)
    weights = encoder.encode_texts([f"a photo of a {kind}." for kind in KINDS]).T.astype(np.float64)
    weights /= np.linalg.norm(weights, axis=0)
    _, val, val_truth = of(made, "val")
    betas, alphas = ([0.1 + i * (s - 0.1) / n for i in range(n)] for s, n in ((7, 8), (3, 5)))
    best = search_alpha_beta(val, val_truth, keys, values, weights, betas, alphas)
    _, test, _ = of(made, "test")
    expected = [KINDS[i] for i in tip_logits(test, keys, values, weights, best.alpha, best.beta).argmax(1)]
    found = tip_adapter(
        ctx, encoder=encoder, features=made[0], pool=made[1], augment_epochs=0, beta_steps=8, alpha_steps=5
    )
    assert found.answers.column("prediction").to_pylist() == expected
    grid = found.tip_grid.to_pylist()
    assert [(r["beta"], r["alpha"]) for r in grid] == [(b, a) for b in betas for a in alphas]
    assert [r["val_accuracy"] for r in grid] == best.grid.ravel().tolist()
    assert [(r["alpha"], r["beta"]) for r in grid if r["chosen"]] == [(best.alpha, best.beta)]
    assert found.settings["used"]["cifar"]["val_accuracy"] == best.accuracy
    assert {(r["method"], r["shots"], r["seed"]) for r in found.answers.to_pylist()} == {("tip_adapter", 4, 1)}


def test_tip_adapter_with_fixed_values(ctx, made, encoder):
    settings = {"encoder": encoder, "features": made[0], "pool": made[1], "search": False}
    nothing = tip_adapter(ctx, alpha=0.0, augment_epochs=0, **settings)
    zero_shot = clip_zero_shot(ctx, encoder=encoder, features=made[0])
    assert nothing.answers.column("prediction").equals(zero_shot.answers.column("prediction"))
    assert len(nothing.tip_grid) == 0
    heavy = tip_adapter(ctx, alpha=1e6, beta=30.0, augment_epochs=0, **settings)
    nearest = knn(ctx, features=made[0], pool=made[1], k=1)
    agree = np.mean(np.array(heavy.answers["prediction"]) == np.array(nearest.answers["prediction"]))
    assert agree > 0.9  # a sharp and heavy cache answers with the nearest picture
    linear = tip_adapter(ctx, variant="linear", omega=0.0, augment_epochs=0, **settings)
    assert linear.answers.column("prediction").equals(zero_shot.answers.column("prediction"))
    assert linear.method == "tip_adapter_linear"


def test_a_public_dataset_keeps_its_customary_values_under_another_name(ctx, made, encoder):
    def renamed(**entry):
        return dataclasses.replace(made[0], datasets=[made[0].datasets[0] | entry])

    settings = {"encoder": encoder, "pool": made[1], "augment_epochs": 0, "beta_steps": 2, "alpha_steps": 2}
    found = tip_adapter(ctx, features=renamed(known="eurosat"), **settings).tip_grid.to_pylist()
    # published ends of the search: beta 12, alpha 10
    assert sorted({r["beta"] for r in found}) == pytest.approx([0.1, 0.1 + (12 - 0.1) / 2])
    assert sorted({r["alpha"] for r in found}) == pytest.approx([0.1, 0.1 + (10 - 0.1) / 2])
    fixed = tip_adapter(ctx, features=renamed(known="flowers102"), search=False, **settings)
    assert fixed.settings["used"]["cifar"]["alpha"] == 10
    other = tip_adapter(ctx, features=renamed(known=None), search=False, **settings)
    assert other.settings["used"]["cifar"]["alpha"] == 1.17


def test_what_is_customary_follows_the_key_and_else_the_name():
    plan = TipPlan(
        variant="exponential", finetune=True, search=True, alpha=None, beta=None, alpha_scale=None, beta_scale=None,
        alpha_steps=1, beta_steps=1, augment_epochs=0, epochs=None, split="test", val_split="val", limit=None,
        batch_size=1,
    )  # fmt: skip
    entries = [{"known": "eurosat", "dataset": "small"}, {"dataset": "eurosat"}, {"known": "dtd", "dataset": "eurosat"}]
    assert [plan.training_epochs(entry) for entry in entries] == [100, 100, 20]
    assert [plan.grid(entry).alpha_scale for entry in entries] == [10, 10, 13]
    assert dataclasses.replace(plan, epochs=7).training_epochs(entries[0]) == 7


def test_views_of_pool_pictures_follow_the_seed_and_are_kept(ctx, made, images):
    encoder = ColourEncoder()
    settings = {"features": made[0], "pool": made[1], "search": False, "augment_epochs": 3, "batch_size": 8}
    first = tip_adapter(ctx, encoder=encoder, **settings)
    assert encoder.embedded == 3 * 12
    assert tip_adapter(ctx, encoder=encoder, **settings).answers.equals(first.answers)
    assert encoder.embedded == 36
    other = dataclasses.replace(made[1], seed=2)
    tip_adapter(ctx, encoder=encoder, **(settings | {"pool": other}))
    assert encoder.embedded == 72


def test_trained_keys_and_the_linear_variant_search_too(ctx, made, encoder):
    settings = {"encoder": encoder, "features": made[0], "pool": made[1], "augment_epochs": 0, "beta_steps": 4}
    trained = tip_adapter(ctx, finetune=True, epochs=3, alpha=2.0, **settings)
    assert trained.method == "tip_adapter_f" and len(trained.tip_grid) == 4 * 20
    assert trained.answers.equals(tip_adapter(ctx, finetune=True, epochs=3, alpha=2.0, **settings).answers)
    linear = tip_adapter(ctx, variant="linear", **settings)
    assert len(linear.tip_grid) == 20 and set(linear.tip_grid.column("beta").to_pylist()) == {0.0}


def test_tip_adapter_refuses_what_does_not_fit(ctx, made, encoder, images):
    settings = {"encoder": encoder, "features": made[0], "pool": made[1], "augment_epochs": 0}
    for wrong, said in (
        ({"alpha": 1.0}, "alpha is given, and would be searched"),
        ({"omega": 1.0, "search": False}, "omega means nothing to the exponential variant"),
        ({"variant": "linear", "beta": 1.0, "search": False}, "beta means nothing to the linear"),
        ({"variant": "linear", "finetune": True}, "no trained keys"),
        ({"val_split": "test"}, "searched on the queries"),
    ):
        with pytest.raises(StepError, match=said):
            tip_adapter(ctx, **settings, **wrong)
    no_val = features(ctx, encoder=encoder, images=images, splits=["test"], pool=made[1])
    with pytest.raises(DataError, match="no features of the split 'val'") as refused:
        tip_adapter(ctx, **(settings | {"features": no_val}))
    assert "search: false" in refused.value.hint
    frogs = [r for r in made[1].pool.to_pylist() if r["target"] != "frog"]
    without = dataclasses.replace(made[1], pool=arrow_table("few_shot_pool", frogs))
    for epochs in (0, 2):
        with pytest.raises(DataError, match="1 classes have no usable picture in the pool, the first is 'frog'"):
            tip_adapter(ctx, **(settings | {"pool": without, "augment_epochs": epochs}))
    with pytest.raises(DataError, match="in another space"):
        tip_adapter(ctx, **(settings | {"encoder": ColourEncoder("2")}))
    bad = made[0].features["features"].copy()
    bad[3, 3] = np.nan
    broken = ImageFeatures(made[0].datasets, made[0].encoder, {"features": bad}, made[0].rows)
    with pytest.raises(DataError, match="NaN or infinity"):
        tip_adapter(ctx, **(settings | {"features": broken}))


def test_several_datasets_methods_and_seeds_meet_in_one_score(ctx, encoder):
    a, b = cifar("a", group="g"), cifar("b", group="g", skip=40, kinds=("frog", "truck"))
    import pyarrow as pa

    both = Datasets([*a.datasets, *b.datasets], a.corpus, pa.concat_tables([a.images, b.images]))
    made = features(ctx, encoder=encoder, images=both)
    answers = [clip_zero_shot(ctx, encoder=encoder, features=made)]
    for seed in (0, 1, 2):
        drawn = pool(ctx, images=both, shots_per_class=5, seed=seed)
        answers.append(knn(ctx, features=made, pool=drawn, k=5))
    scored = score(ctx, answers=answers)
    summary = {(r["method"], r["name"], r["metric"]): r for r in scored.summary.to_pylist()}
    assert len(summary) == 2 * 4 * 2
    for method in ("knn", "clip_zero_shot"):
        parts = [summary[method, name, "accuracy_inclusion"] for name in ("a", "b")]
        whole, group = summary[method, "all", "accuracy_inclusion"], summary[method, "g", "accuracy_inclusion"]
        assert whole["value"] == group["value"] == pytest.approx(np.mean([p["value"] for p in parts]))
        assert all(p["low"] < p["value"] < p["high"] for p in (*parts, whole))
        assert (whole["sd"] is None) == (method == "clip_zero_shot")
    assert summary["knn", "a", "accuracy_strict"]["n"] == 3 * 45
    assert summary["knn", "a", "accuracy_strict"]["seeds"] == 3
    assert len(scored.predictions) == 4 * (45 + 30)
    with pytest.raises(DataError, match="set `label:`"):
        score(ctx, answers=[answers[0], answers[0]])
