"""Retrieval and classification with debiased queries: figures counted out here, folds, second steps, and what is refused."""

import dataclasses

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.stats import t as student
from steps_material import BIRDS, bird_pictures, bird_prompts, exact_sae, load_clip, messages, write_clip

from results.tables import arrow_table
from runner.context import local_context
from runner.errors import DataError
from runner.nodes.sem.folds import repeated_halves
from runner.nodes.sem.methods_specs import BendSpec, Methods, Relevant
from runner.nodes.sem.steps import compare, retrieval, texts, zero_shot

SPECS = ["vanilla", "sem", "orth_proj", "prism_mini", "roboshot"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluating")


@pytest.fixture(scope="module")
def clip(home):
    return load_clip(write_clip(home / "clip"))


@pytest.fixture(scope="module")
def debiased(clip, home):
    methods = TypeAdapter(Methods).validate_python(SPECS)
    sae = exact_sae(clip, home / "sae")
    return texts(local_context(home / "texts"), clip=clip, prompts=bird_prompts(), sae=sae, methods=methods)


@pytest.fixture(scope="module")
def pictures(clip):
    return bird_pictures(clip)


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


def asked(pictures, debiased, **more):
    return {"features": pictures[0], "images": pictures[1], "texts": [debiased], "attribute": "place", **more}


def halves(n, folds, seed=42):
    """Published halves: one order, shuffled in place again and again."""
    rng, order = np.random.RandomState(seed), np.arange(n)
    for _ in range(folds):
        rng.shuffle(order)
        yield order[: n // 2].copy(), order[n // 2 :].copy()


def truth(pictures):
    target = np.array(pictures[0].rows.column("class_index").to_pylist())
    places = [r["value"] for r in pictures[1].attributes.to_pylist() if r["attribute"] == "place"]
    return target, np.array([place == "water" for place in places], int)


def answers_of(pictures, debiased, label):
    images = pictures[0].features["features"].astype(np.float64)
    image_map = debiased.vectors.get(f"{label}/image_map")
    if image_map is not None:
        images = images @ image_map.astype(np.float64)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    return images @ debiased.vectors[label].T.astype(np.float64)


def figure(scores, label, metric, kind):
    rows = scores.summary.to_pylist()
    return next(r for r in rows if (r["method"], r["metric"], r["ci_kind"]) == (label, metric, kind))


# --- classification --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classified(pictures, debiased, home):
    ctx = local_context(home / "zero")
    return zero_shot(ctx, **asked(pictures, debiased, folds=4, draws=400))


@pytest.mark.parametrize("label", ["vanilla", "sem_bi", "orth_proj", "prism_mini", "roboshot"])
def test_groups_are_those_counted_one_picture_at_a_time(classified, pictures, debiased, label):
    target, value = truth(pictures)
    said = answers_of(pictures, debiased, label).argmax(1)
    expected, pooled, by_fold = {}, [], []
    for fold, (_, rows) in enumerate(halves(240, 4)):
        for row in rows:
            n, correct = expected.get((fold, target[row], value[row]), (0, 0))
            expected[fold, target[row], value[row]] = (n + 1, correct + int(said[row] == target[row]))
            pooled.append(float(said[row] == target[row]))
        by_fold.append(np.mean(said[rows] == target[rows]))
    names, places = ["landbird", "waterbird"], ["land", "water"]
    found = {
        (r["fold"], names.index(r["target"]), places.index(r["value"])): (r["n"], r["correct"])
        for r in classified.groups.to_pylist()
        if r["method"] == label
    }
    assert found == expected
    cells = [[sum(expected[f, t, v][i] for f in range(4)) for i in (0, 1)] for t in (0, 1) for v in (0, 1)]
    worst = min(correct / n for n, correct in cells)
    assert figure(classified, label, "accuracy", "published")["mean"] == pytest.approx(np.mean(pooled))
    assert figure(classified, label, "worst_group", "by_image")["mean"] == pytest.approx(worst)
    assert figure(classified, label, "gap", "by_image")["mean"] == pytest.approx(np.mean(pooled) - worst)
    half = student.ppf(0.975, 3) * np.std(by_fold, ddof=1) / 2
    row = figure(classified, label, "accuracy", "by_fold")
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((np.mean(by_fold) - half, np.mean(by_fold) + half))


def test_projection_helps_the_groups_that_the_place_misleads(classified):
    base, projected = (figure(classified, label, "worst_group", "by_image") for label in ("vanilla", "orth_proj"))
    assert projected["mean"] > base["mean"] + 0.1 and base["n"] <= 240
    assert all(r["ci_low"] <= r["mean"] <= r["ci_high"] for r in (base, projected))


def test_pictures_that_change_are_those_right_before_and_wrong_after(classified, pictures, debiased):
    target, value = truth(pictures)
    before, after = (answers_of(pictures, debiased, label).argmax(1) for label in ("vanilla", "orth_proj"))
    names = {"lost": (before == target) & (after != target), "gained": (before != target) & (after == target)}
    rows = [r for r in classified.changes.to_pylist() if r["method"] == "orth_proj"]
    assert {r["baseline"] for r in rows} == {"vanilla"} and rows
    for change, marked in names.items():
        found = {int(r["sample_id"][1:]) for r in rows if r["change"] == change}
        assert found <= set(np.flatnonzero(marked))
        for t in (0, 1):
            for v in (0, 1):
                group = marked & (target == t) & (value == v)
                assert len(found & set(np.flatnonzero(group))) == min(12, group.sum())


def test_target_maps_queries_to_classes(ctx, pictures, debiased, classified):
    swapped = zero_shot(ctx, **asked(pictures, debiased, folds=4, draws=0, target=["waterbird", "landbird"]))
    for label in ("vanilla", "orth_proj"):
        there, here = (figure(s, label, "accuracy", "published")["mean"] for s in (classified, swapped))
        assert here == pytest.approx(1 - there)
    for wrong, said in ((["landbird"] * 2, "stands twice"), (["landbird", "gull"], "names 'gull'")):
        with pytest.raises(DataError, match=said):
            zero_shot(ctx, **asked(pictures, debiased, target=wrong))
    with pytest.raises(DataError, match="2 class texts for 3 classes"):
        zero_shot(ctx, **asked(pictures, debiased, target=["landbird", "waterbird", "gull"]))
    with pytest.raises(DataError, match="baseline: no method is called 'sem'"):
        zero_shot(ctx, **asked(pictures, debiased, baseline="sem"))


def test_folds_and_intervals_can_be_had_again(ctx, pictures, debiased, classified):
    again = zero_shot(ctx, **asked(pictures, debiased, folds=4, draws=400))
    for name in ("groups", "summary", "changes", "answers"):
        assert getattr(again, name).equals(getattr(classified, name))
    other = zero_shot(ctx, **asked(pictures, debiased, folds=4, draws=400, seed=1))
    assert not other.groups.equals(classified.groups)


def test_a_method_alone_scores_as_among_others(ctx, pictures, debiased, classified):
    alone = dataclasses.replace(debiased, methods=[m for m in debiased.methods if m["label"] == "sem_bi"])
    scores = zero_shot(ctx, **asked(pictures, alone, folds=4, draws=400))
    among = [r for r in classified.summary.to_pylist() if r["method"] == "sem_bi"]
    assert scores.summary.to_pylist() == among


# --- retrieval -------------------------------------------------------------------------------------------------------


def test_divergences_are_those_counted_one_query_at_a_time(ctx, pictures, debiased):
    relevant = {BIRDS[0]: Relevant(target="landbird"), BIRDS[1]: Relevant(attribute="place", value="water")}
    scores = retrieval(ctx, **asked(pictures, debiased, k=30, folds=3, draws=20, relevant=relevant))
    target, value = truth(pictures)
    rows = {(r["method"], r["fold"], r["query"]): r for r in scores.retrieval.to_pylist()}
    counts = scores.counts.to_pylist()
    for label in ("vanilla", "orth_proj", "roboshot"):
        cosines, kls = answers_of(pictures, debiased, label), []
        for fold, (_, held) in enumerate(halves(240, 3)):
            for q, query in enumerate(BIRDS):
                best = held[np.argsort(-cosines[held, q])[:30]]
                ratios = [(np.mean(value[best] == v), np.mean(value[held] == v)) for v in (0, 1)]
                kl = sum(r * np.log(r / p) for r, p in ratios if r)
                skew = max(0.0, max(np.log(max(r / p, 1e-10)) for r, p in ratios))
                shows = target[best] == 0 if q == 0 else value[best] == 1
                row = rows[label, fold, query]
                got = (row["kl"], row["max_skew"], row["precision"], row["k"])
                assert got == pytest.approx((kl, skew, shows.mean(), 30))
                own = [c for c in counts if (c["method"], c["fold"], c["query"]) == (label, fold, query)]
                assert [c["retrieved"] for c in own] == [np.sum(value[best] == v) for v in (0, 1)]
                assert sum(c["prior"] for c in own) == len(held)
                kls.append(kl)
        half = student.ppf(0.975, 5) * np.std(kls, ddof=1) / np.sqrt(6)
        row = figure(scores, label, "kl", "published")
        assert (row["mean"], row["ci_high"], row["n"]) == pytest.approx((np.mean(kls), np.mean(kls) + half, 6))
        assert figure(scores, label, "kl", "by_image")["mean"] == pytest.approx(np.mean(kls))


def test_precision_is_known_only_where_a_label_says_so(ctx, pictures, debiased):
    scores = retrieval(ctx, **asked(pictures, debiased, k=10, folds=2, draws=0))
    assert {r["precision"] for r in scores.retrieval.to_pylist()} == {None}
    assert {r["metric"] for r in scores.summary.to_pylist()} == {"kl", "max_skew"}
    assert {r["ci_kind"] for r in scores.summary.to_pylist()} == {"published", "by_fold"}
    with pytest.raises(DataError, match="there is no query 'a gull'"):
        retrieval(ctx, **asked(pictures, debiased, k=10, relevant={"a gull": Relevant(target="landbird")}))
    with pytest.raises(DataError, match="no picture shows what"):
        retrieval(ctx, **asked(pictures, debiased, k=10, relevant={BIRDS[0]: Relevant(target="gull")}))


def test_the_second_step_makes_retrieval_fairer(ctx, pictures, debiased):
    bend = [BendSpec(base="vanilla", neighbours=15), BendSpec(base="sem_bi", neighbours=15, label="BendSEM")]
    scores = retrieval(ctx, **asked(pictures, debiased, k=30, folds=4, draws=0, bend=bend))
    fair = {
        label: figure(scores, label, "kl", "published")["mean"] for label in ("vanilla", "bend(vanilla)", "BendSEM")
    }
    assert fair["bend(vanilla)"] < 0.7 * fair["vanilla"]
    zero = zero_shot(ctx, **asked(pictures, debiased, folds=4, draws=0, bend=bend))
    assert {r["method"] for r in zero.groups.to_pylist()} == {m["label"] for m in debiased.methods} | {
        "bend(vanilla)",
        "BendSEM",
    }
    per_fold = {r["fold"]: 0 for r in zero.groups.to_pylist()}
    for row in zero.groups.to_pylist():
        per_fold[row["fold"]] += row["n"] * (row["method"] == "BendSEM")
    assert set(per_fold.values()) == {120}


def bent(pictures, start, rows, shared, neighbours=15):
    """The second step written out for two places: nearest pictures of each among ``rows``, their difference taken out."""
    images = pictures[0].features["features"].astype(np.float64)
    value, near, out = truth(pictures)[1], images @ start.T.astype(np.float64), []
    for q, z in enumerate(start.astype(np.float64)):
        means = []
        for v in (0, 1):
            members = rows[value[rows] == v]
            told = near[members].mean(1) if shared else near[members, q]
            means.append(images[members[np.argsort(-told)[:neighbours]]].mean(0))
        axis = (means[1] - means[0]) / np.linalg.norm(means[1] - means[0])
        out.append(z - (z @ axis) * axis)
    return images @ (np.array(out) / np.linalg.norm(out, axis=1, keepdims=True)).T


def test_the_second_step_of_retrieval_takes_each_query_s_neighbours_in_the_reference_half(ctx, pictures, debiased):
    bend = [BendSpec(base="sem_bi", neighbours=15)]
    scores = retrieval(ctx, **asked(pictures, debiased, k=30, folds=1, draws=0, bend=bend))
    value, (reference, held) = truth(pictures)[1], next(halves(240, 1))

    def water(rows, shared):
        near = bent(pictures, debiased.vectors["sem_bi"], rows, shared)
        return [int(value[held[np.argsort(-near[held, q])[:30]]].sum()) for q in (0, 1)]

    rows = {(r["method"], r["query"], r["value"]): r["retrieved"] for r in scores.counts.to_pylist()}
    found = [rows["bend(sem_bi)", query, "water"] for query in BIRDS]
    assert found == water(reference, False)
    assert found not in (water(reference, True), water(held, False))


def test_the_second_step_of_classes_shares_neighbours_of_the_reference_half(ctx, pictures, debiased):
    bend = [BendSpec(base="vanilla", neighbours=2)]
    scores = zero_shot(ctx, **asked(pictures, debiased, folds=1, draws=0, bend=bend))
    (target, _), (reference, held) = truth(pictures), next(halves(240, 1))

    def right(rows, shared):
        said = bent(pictures, debiased.vectors["vanilla"], rows, shared, neighbours=2).argmax(1)
        return {f"b{i}" for i in held if said[i] == target[i]}

    answers = [r for r in scores.answers.to_pylist() if r["method"] == "bend(vanilla)"]
    found = {r["sample_id"] for r in answers if r["correct"]}
    assert len(answers) == 120 and found == right(reference, True)
    assert found not in (right(reference, False), right(held, True))


def test_what_leaves_nothing_names_dataset_and_method(ctx, pictures, debiased):
    features, images = pictures
    gone = debiased.vectors | {"prism_mini/image_map": np.zeros((16, 16), np.float32)}
    with pytest.raises(DataError, match="birds: 'prism_mini': row 0"):
        zero_shot(ctx, **asked(pictures, dataclasses.replace(debiased, vectors=gone)))
    # Pictures of each place are one vector, and the queries lie along their difference.
    ends = np.eye(16, dtype=np.float32)[:2]
    two = dataclasses.replace(features, features={"features": ends[truth(pictures)[1]]})
    along = debiased.vectors | {"vanilla": np.repeat(ends[1:] - ends[:1], 2, 0) / np.float32(2**0.5)}
    with pytest.raises(DataError, match=r"birds: 'bend\(vanilla\)': row 0"):
        retrieval(
            ctx,
            **asked((two, images), dataclasses.replace(debiased, vectors=along), k=10),
            bend=[BendSpec(base="vanilla", neighbours=5)],
        )


@pytest.mark.parametrize(
    ("n", "share", "size"), [(10, 0.9, 1), (10, 0.8, 2), (100, 0.71, 29), (7, 0.5, 3), (240, 0.3, 168)]
)
def test_the_reference_is_the_share_that_is_not_evaluated(n, share, size):
    assert repeated_halves(n, 2, share).reference.shape == (2, size)


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (BendSpec(base="sem", neighbours=5), "no method is called 'sem'"),
        (BendSpec(base="roboshot", neighbours=5), "acts on images"),
        (BendSpec(base="vanilla", neighbours=100), "and 100 neighbours are asked for"),
        (BendSpec(base="vanilla", neighbours=5, label="sem_bi"), "two methods are called 'sem_bi'"),
    ],
)
def test_a_second_step_that_cannot_be_made_is_refused(ctx, pictures, debiased, bend, said):
    for step, more in ((retrieval, {"k": 10}), (zero_shot, {})):
        with pytest.raises(DataError, match=said):
            step(ctx, **asked(pictures, debiased, bend=[bend], **more))


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_what_cannot_be_evaluated_is_refused(ctx, pictures, debiased):
    features, images = pictures
    for more, said in (
        ({"k": 121}, "k is 121, and 120 pictures are searched"),
        ({"attribute": "colour"}, "no dataset has the attribute 'colour'"),
        ({"values": ["land", "sky"]}, "place has no value 'sky'"),
        ({"val_fraction": 0.999, "k": 1}, None),
        ({"texts": []}, "no debiased texts"),
        ({"texts": [debiased, debiased]}, "two methods are called 'vanilla'"),
    ):
        if said is not None:
            with pytest.raises(DataError, match=said):
                retrieval(ctx, **asked(pictures, debiased) | {"k": 10} | more)
    about = [images.about[0] | {"attributes": {"place": ["land", "water", "ice"]}}]
    with pytest.raises(DataError, match="no picture has the place 'ice'"):
        zero_shot(ctx, **asked((features, dataclasses.replace(images, about=about)), debiased))
    broken = dataclasses.replace(features, features={"features": np.full((240, 16), np.nan, np.float32)})
    with pytest.raises(DataError, match="NaN, infinity or zero"):
        zero_shot(ctx, **asked((broken, images), debiased))
    other = dataclasses.replace(features, encoder=features.encoder | {"identity": "another"})
    with pytest.raises(DataError, match="in another space"):
        zero_shot(ctx, **asked((other, images), debiased))
    gone = dataclasses.replace(debiased, vectors=debiased.vectors | {"sem_bi": np.full((2, 16), np.nan, np.float32)})
    with pytest.raises(DataError, match="vectors of 'sem_bi' contain NaN"):
        zero_shot(ctx, **asked(pictures, gone))


def test_a_value_that_a_half_lacks_is_refused_and_may_be_left_out(ctx, clip, debiased):
    features, images = bird_pictures(clip, n=40)
    rows = images.attributes.to_pylist()
    place = [r for r in rows if r["attribute"] == "place"]
    place[0]["value"] = "ice"
    about = [images.about[0] | {"attributes": {"place": ["land", "water", "ice"]}}]
    rare = dataclasses.replace(images, about=about, attributes=arrow_table("dataset_attribute", place))
    with pytest.raises(DataError, match=r"half \d has no picture of 'ice'"):
        zero_shot(ctx, **asked((features, rare), debiased))
    zero_shot(ctx, **asked((features, rare), debiased, values=["land", "water"]))
    assert any("1 of 40 pictures have no such place" in text for text in messages(ctx))


def test_one_split_may_be_evaluated_alone(ctx, pictures, debiased):
    scores = zero_shot(ctx, **asked(pictures, debiased, split="test", folds=1, draws=0))
    tests = sum(row["split"] == "test" for row in pictures[1].images.to_pylist())
    assert sum(r["n"] for r in scores.groups.to_pylist() if r["method"] == "vanilla") == tests - tests // 2


# --- comparison ------------------------------------------------------------------------------------------------------


def test_comparison_pairs_the_same_pictures(ctx, clip, pictures, debiased, classified):
    found = compare(ctx, scores={"before": classified, "after": classified}, draws=500)
    rows = {(r["second"], r["metric"]): r for r in found.differences.to_pylist()}
    assert found.reference == "before/vanilla" == next(iter(rows.values()))["first"]
    for metric in ("accuracy", "worst_group", "gap"):
        same = rows["after/vanilla", metric]
        assert (same["difference"], same["ci_low"], same["ci_high"]) == (0, 0, 0)
        own, base = (figure(classified, label, metric, "by_image")["mean"] for label in ("orth_proj", "vanilla"))
        row = rows["after/orth_proj", metric]
        assert row["difference"] == pytest.approx(own - base) == pytest.approx(row["second_value"] - row["first_value"])
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]
    assert rows["before/orth_proj", "worst_group"]["ci_low"] > 0
    named = compare(ctx, scores={"before": classified}, reference="before/sem_bi", draws=200)
    assert {r["second"] for r in named.differences.to_pylist()} == {
        f"before/{m['label']}" for m in debiased.methods if m["label"] != "sem_bi"
    }


def test_evaluations_that_differ_in_more_than_the_method_are_not_compared(ctx, pictures, debiased, classified):
    other = zero_shot(ctx, **asked(pictures, debiased, folds=4, draws=0, seed=7))
    with pytest.raises(DataError, match="differ on class, value or halves"):
        compare(ctx, scores={"before": classified, "after": other})
    with pytest.raises(DataError, match="there is no 'before/none'"):
        compare(ctx, scores={"before": classified}, reference="before/none")
    found = retrieval(ctx, **asked(pictures, debiased, k=10, folds=2, draws=0))
    with pytest.raises(DataError, match="is an evaluation of retrieval"):
        compare(ctx, scores={"before": classified, "after": found})
    single = zero_shot(
        ctx, **asked(pictures, dataclasses.replace(debiased, methods=debiased.methods[:1]), folds=4, draws=0)
    )
    with pytest.raises(DataError, match="nothing to compare"):
        compare(ctx, scores={"only": single})
