"""``debias.texts``: every method on real (random) CLIP embeddings, against formulas written out here, and what is refused."""

import dataclasses
import hashlib

import numpy as np
import open_clip
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from steps_material import (
    BIRDS,
    added,
    bird_prompts,
    exact_sae,
    load_clip,
    messages,
    prompt,
    without,
    write_clip,
)

from runner.context import local_context
from runner.errors import DataError
from runner.nodes.sem.methods_specs import Methods
from runner.nodes.sem.sae import SparseAutoencoder
from runner.nodes.sem.steps import texts

ALL = [
    "vanilla", {"sem": {"variant": "i"}}, {"sem": {"variant": "b"}}, {"sem": {}}, "orth_proj", {"orth_cali": {"lambda": 50}},
    {"roboshot": {}}, "prism_mini", {"prism": {"samples": 20, "seeds": [0, 1]}}, {"bend_vlm": {}}, {"sae_top_k": {"k": 3}},
]  # fmt: skip
LABELS = [
    "vanilla", "sem_i", "sem_b", "sem_bi", "orth_proj", "orth_cali", "roboshot", "prism_mini", "prism[0]", "prism[1]",
    "bend_vlm", "sae_top_k",
]  # fmt: skip


def methods(*specs):
    return TypeAdapter(Methods).validate_python(list(specs))


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("debias")


@pytest.fixture(scope="module")
def clip(home):
    return load_clip(write_clip(home / "clip"))


@pytest.fixture(scope="module")
def sae(clip, home):
    return exact_sae(clip, home / "sae")


@pytest.fixture(scope="module")
def made(clip, sae, home):
    ctx = local_context(home / "made")
    return texts(ctx, clip=clip, prompts=bird_prompts(), sae=sae, methods=methods(*ALL))


def of_kind(kind, **wanted):
    rows = bird_prompts().prompts.to_pylist()
    return [r["text"] for r in rows if r["kind"] == kind and all(r[k] == v for k, v in wanted.items())]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_every_method_gives_a_unit_vector_a_query(made, clip):
    assert [m["label"] for m in made.methods] == LABELS
    for label in LABELS:
        assert made.vectors[label].shape == (2, 16) and made.vectors[label].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(made.vectors[label], axis=1), 1, atol=1e-6)
    maps = {name.partition("/")[0] for name in made.vectors if name.endswith("/image_map")}
    assert (
        maps
        == {"roboshot", "prism_mini", "prism[0]", "prism[1]"}
        == {m["label"] for m in made.methods if m["uses_images"]}
    )
    assert made.vectors["/encoder"].tobytes().decode() == clip.identity == made.encoder["identity"]
    assert {r["query"] for r in made.texts.to_pylist()} == set(BIRDS) and len(made.texts) == 2 * len(LABELS)


def test_base_and_projection_are_what_their_formulas_say(made, clip):
    raw = clip.raw_texts(BIRDS).astype(np.float64)
    np.testing.assert_allclose(made.vectors["vanilla"], unit(raw), atol=1e-6)
    spurious = unit(clip.raw_texts(of_kind("spurious")).astype(np.float64))
    np.testing.assert_allclose(made.vectors["orth_proj"] @ spurious.T, 0, atol=1e-6)
    np.testing.assert_allclose(made.vectors["orth_proj"], made.vectors["prism_mini"], atol=1e-5)
    np.testing.assert_allclose(made.vectors["prism_mini/image_map"] @ spurious.T, 0, atol=1e-5)
    np.testing.assert_array_equal(made.vectors["roboshot"], made.vectors["vanilla"])
    ranks = {r["method"]: r["rank_used"] for r in made.texts.to_pylist()}
    assert (ranks["orth_proj"], ranks["bend_vlm"], ranks["sae_top_k"], ranks["vanilla"]) == (2, 3, 3, None)


def both_signs(raw):
    """Latents of the autoencoder of these tests."""
    return np.maximum(np.concatenate([raw, -raw], 1), 0)


def published_sem_bi(clip, latents=both_signs, n_bias=None, n_paraphrases=None):
    """SEM_bi one query and neuron at a time, as the equations stand -> latents moved [queries, L], sensitivity [L].

    Of bias prompts and paraphrases those with the least SHA-256 of seed (0) and text are used, the query always.
    """

    def h(group):
        return latents(clip.raw_texts(group).astype(np.float32))

    def drawn(group, n):
        kept = sorted(group, key=lambda text: hashlib.sha256(f"0\0{text}".encode()).digest())[:n]
        return [text for text in group if text in kept]

    def median(rows):
        return np.sort(rows, 0)[(len(rows) - 1) // 2]

    def pct(rows, x):
        return (rows < x).sum(0) / len(rows)

    diverse = h(of_kind("diverse"))
    classes = [h(drawn(of_kind("bias", class_name=value), n_bias)) for value in ("land", "water")]
    sensitivity = np.zeros(diverse.shape[1])
    for own, other in (classes, classes[::-1]):
        sensitivity = np.maximum(sensitivity, np.minimum(pct(diverse, median(own)), pct(other, median(own))))
    vectors = []
    for query in BIRDS:
        first, *others = of_kind("paraphrase", query=query)
        told = [first, *drawn(others, n_paraphrases and n_paraphrases - 1)]
        concept = pct(diverse, median(h(told)))
        m = (1 + concept - sensitivity) ** 2
        vectors.append(h([query])[0] * m + (1 - m) * median(diverse))
    return np.array(vectors), sensitivity


def decoded(moved):
    return moved[:, :16] - moved[:, 16:]


def test_sem_bi_is_the_published_form_query_by_query(made, clip):
    moved, sensitivity = published_sem_bi(clip)
    np.testing.assert_allclose(made.vectors["sem_bi"], unit(decoded(moved)), atol=1e-5)
    rows = [r for r in made.neurons.to_pylist() if r["method"] == "sem_bi"]
    for row in rows:
        assert row["s_bias"] == pytest.approx(sensitivity[row["neuron"]])
        assert row["m"] == pytest.approx((1 + row["s_concept"] - row["s_bias"]) ** 2)
    for query in BIRDS:
        change = [abs(r["h_new"] - r["h"]) for r in rows if r["query"] == query]
        assert change == sorted(change, reverse=True) and 0 < len(change) <= 20
    assert all(r["s_bias"] is None for r in made.neurons.to_pylist() if r["method"] == "sem_i")


def test_one_query_at_a_time_gives_the_same_vectors(ctx, made, clip, sae):
    specs = methods(*(spec for spec in ALL if "orth_cali" not in spec and "prism" not in spec))
    for i, query in enumerate(BIRDS):
        alone = texts(ctx, clip=clip, prompts=bird_prompts([query]), sae=sae, methods=specs)
        for method in alone.methods:
            np.testing.assert_allclose(alone.vectors[method["label"]][0], made.vectors[method["label"]][i], atol=1e-5)


def test_each_distinct_text_is_encoded_once(ctx, clip, sae, monkeypatch):
    seen = []
    original = type(clip).raw_texts
    monkeypatch.setattr(type(clip), "raw_texts", lambda self, batch: seen.extend(batch) or original(self, batch))
    again = texts(ctx, clip=clip, prompts=bird_prompts(), sae=sae, methods=methods(*ALL))
    assert len(seen) == len(set(seen)) > 30
    assert all(m["label"] in again.vectors for m in again.methods)


def test_each_distinct_text_is_coded_once_in_products_of_one_shape(ctx, clip, sae, monkeypatch):
    seen, shapes = [], set()
    original = SparseAutoencoder.encode

    def watched(self, z, top_k=None):
        shapes.add(tuple(z.shape))
        seen.extend(row.tobytes() for row in z.numpy() if row.any())
        return original(self, z, top_k)

    monkeypatch.setattr(SparseAutoencoder, "encode", watched)
    texts(ctx, clip=clip, prompts=bird_prompts(), sae=sae, methods=methods(*ALL))
    assert len(seen) == len(set(seen)) > 15 and len(shapes) == 1


@pytest.mark.parametrize("method", ["orth_proj", "orth_cali", "prism_mini", "bend_vlm"])
def test_dependent_spurious_texts_are_said_with_the_rank(ctx, clip, method):
    texts(ctx, clip=clip, prompts=bird_prompts(), methods=methods(method))
    assert not messages(ctx)
    # With so coarse a cut only the largest direction of the two counts.
    made = texts(ctx, clip=clip, prompts=bird_prompts(), methods=methods({method: {"rank_tol": 0.999}}))
    said = f"{method!r}: the 2 spurious texts are linearly dependent; 1 directions are removed for them"
    assert said in messages(ctx) and method in made.vectors


def test_the_same_spec_gives_the_same_vectors(ctx, made, clip, sae):
    again = texts(ctx, clip=clip, prompts=bird_prompts(), sae=sae, methods=methods(*ALL))
    for name, array in made.vectors.items():
        np.testing.assert_array_equal(again.vectors[name], array)


def largest_five(raw):
    every = both_signs(raw)
    kept = np.argsort(-every, axis=1)[:, :5]
    out = np.zeros_like(every)
    np.put_along_axis(out, kept, np.take_along_axis(every, kept, 1), 1)
    return out


def with_rest(clip, latents):
    """The decoded vectors with what the latents do not hold of the query added."""
    raw = clip.raw_texts(BIRDS).astype(np.float32)
    return decoded(published_sem_bi(clip, latents)[0]) + raw - decoded(latents(raw))


SWITCHES = {
    "dense": ({"space": "clip"}, lambda clip: published_sem_bi(clip, lambda raw: raw)[0]),
    "dense with residual": (
        {"space": "clip", "add_residual": True},
        lambda clip: published_sem_bi(clip, lambda raw: raw)[0],
    ),
    "sparse": ({"top_k": 5}, lambda clip: decoded(published_sem_bi(clip, largest_five)[0])),
    "sparse with residual": ({"top_k": 5, "add_residual": True}, lambda clip: with_rest(clip, largest_five)),
    "few bias prompts": ({"n_bias": 2}, lambda clip: decoded(published_sem_bi(clip, n_bias=2)[0])),
    "few paraphrases": ({"n_paraphrases": 2}, lambda clip: decoded(published_sem_bi(clip, n_paraphrases=2)[0])),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_of_sem_does_what_its_formula_says(ctx, made, clip, sae, name):
    options, formula = SWITCHES[name]
    found = texts(
        ctx, clip=clip, prompts=bird_prompts(), sae=sae, methods=methods({"sem": options, "label": name}), seed=0
    ).vectors[name]
    np.testing.assert_allclose(found, unit(formula(clip)), atol=1e-5)
    assert np.abs(found - made.vectors["sem_bi"]).max() > 1e-3


def test_switches_of_sem_change_what_they_say(ctx, clip, sae):
    specs = methods(
        "sem",
        {"sem": {"exponent": 1e-9, "clamp_max": 1}, "label": "still"},
        {"sem": {"clamp_max": 1}, "label": "no boost"},
        {"sem": {"space": "clip"}, "label": "dense"},
        {"sem": {"n_diverse": 4, "n_bias": 2, "n_paraphrases": 1}, "label": "fewer"},
        {"sem": {"variant": "i", "content": True}, "label": "content"},
        {"sem": {"top_k": 5, "add_residual": True, "median": "midpoint", "target": "zero"}, "label": "sparse"},
    )
    made = texts(ctx, clip=clip, prompts=bird_prompts(), sae=sae, methods=specs)
    rows = made.neurons.to_pylist()
    # An exponent near 0 leaves every neuron as it is, but those of the score 0.
    assert {round(r["m"], 6) for r in rows if r["method"] == "still"} <= {0, 1}
    most = {label: max(r["m"] for r in rows if r["method"] == label) for label in ("no boost", "sem_bi")}
    assert most["no boost"] <= 1 < most["sem_bi"]
    fewer = {r["s_concept"] * 4 for r in rows if r["method"] == "fewer"}
    assert all(abs(share - round(share)) < 1e-6 for share in fewer)
    with_content = texts(
        ctx, clip=clip, prompts=added(without(bird_prompts(), kind="content"), *_content("a duck", "a gull")),
        sae=sae, methods=methods({"sem": {"variant": "i", "content": True}, "label": "content"}),
    )  # fmt: skip
    assert not np.allclose(with_content.vectors["content"], made.vectors["content"], atol=1e-3)


def _content(*words):
    return [prompt("content", word, query=query) for word, query in zip(words, BIRDS, strict=True)]


def test_pairs_of_one_query_give_each_query_a_map_of_its_own(ctx, clip):
    own = [prompt("harmful", f"{BIRDS[0]} {side}", value=side, query=BIRDS[0], idx=7) for side in "ab"]
    shared = texts(ctx, clip=clip, prompts=bird_prompts(), methods=methods("roboshot"))
    each = texts(ctx, clip=clip, prompts=added(bird_prompts(), *own), methods=methods("roboshot"))
    maps = each.vectors["roboshot/image_map"]
    assert maps.shape == (2, 16, 16)
    np.testing.assert_allclose(maps[1], shared.vectors["roboshot/image_map"], atol=1e-6)
    difference = clip.raw_texts([own[0]["text"]]) - clip.raw_texts([own[1]["text"]])
    rejected = texts(
        ctx, clip=clip, prompts=added(bird_prompts(), *own), methods=methods({"roboshot": {"accept": False}})
    )
    np.testing.assert_allclose(difference @ rejected.vectors["roboshot/image_map"][0], 0, atol=1e-4)


def test_templates_average_the_query_wherever_it_stands(ctx, clip, sae):
    made = texts(
        ctx, clip=clip, prompts=bird_prompts(), sae=sae, methods=methods("vanilla"), templates=["{}.", "a sketch: {}"]
    )
    raw = [clip.raw_texts([f"{query}.", f"a sketch: {query}"]).mean(0) for query in BIRDS]
    np.testing.assert_allclose(made.vectors["vanilla"], unit(np.array(raw)), atol=1e-5)


def test_imagenet_stands_for_the_templates_of_open_clip(ctx, clip):
    made = texts(ctx, clip=clip, prompts=bird_prompts(), methods=methods("vanilla"), templates="imagenet")
    filled = [[fill(query) for fill in open_clip.OPENAI_IMAGENET_TEMPLATES] for query in BIRDS]
    assert [len(set(each)) for each in filled] == [80, 80]
    raw = [clip.raw_texts(each).mean(0) for each in filled]
    np.testing.assert_allclose(made.vectors["vanilla"], unit(np.array(raw)), atol=1e-5)


def refusals():
    one_class = without(bird_prompts(classes=["land"]), kind="none")
    twice = prompt("diverse", "a cup in the morning", 99)
    strange = prompt("bias", "much fire", 0, value="fire")
    scene = prompt("scene", "a {target} alone", 9)
    return [
        (one_class, "sem", "there is only 'land'"),
        (without(bird_prompts(), kind="diverse"), "sem", "needs prompts of kind diverse"),
        (without(bird_prompts(), kind="bias", class_name="water"), "sem", "'water' has no prompt of kind bias"),
        (without(bird_prompts(), kind="paraphrase", query=BIRDS[1]), "sem", "has no prompt of kind paraphrase"),
        (without(bird_prompts(), kind="spurious"), "orth_proj", "needs prompts of kind spurious"),
        (without(bird_prompts(), kind="candidate", class_name="water"), "orth_cali", "no two differ so"),
        (without(bird_prompts(), kind="harmful", class_name="b"), "roboshot", "has not the two sides"),
        (added(bird_prompts(), twice), "vanilla", "stands twice"),
        (added(bird_prompts(), strange), "sem", "is of 'fire', which is unknown"),
        (added(bird_prompts(), scene), "prism", "needs {target} and {bias}"),
        (dataclasses.replace(bird_prompts(), queries=[]), "vanilla", "name no query"),
        (dataclasses.replace(bird_prompts(), queries=BIRDS[:1] * 2), "vanilla", "two queries are the same"),
    ]


@pytest.mark.parametrize(("prompts", "method", "said"), refusals())
def test_prompts_that_cannot_be_used_are_refused_in_one_sentence(ctx, clip, sae, prompts, method, said):
    with pytest.raises(DataError, match=said) as caught:
        texts(ctx, clip=clip, prompts=prompts, sae=sae, methods=methods(method))
    assert "\n" not in caught.value.message and len(caught.value.message) < 300


def test_an_autoencoder_that_does_not_fit_is_refused_or_told(ctx, clip, home):
    asked = {"clip": clip, "prompts": bird_prompts(), "methods": methods("sem")}
    with pytest.raises(DataError, match="codes embeddings of 8 numbers"):
        texts(ctx, sae=exact_sae(clip, home / "narrow", width=8), **asked)
    other = exact_sae(clip, home / "other", backbone="ViT-B-16/openai")
    with pytest.raises(DataError, match="trained on 'ViT-B-16/openai'"):
        texts(ctx, sae=other, **asked)
    texts(ctx, sae=other, other_backbone=True, **asked)
    assert any("other_backbone says" in text for text in messages(ctx))
    with pytest.raises(DataError, match="sem_bi needs a sparse autoencoder"):
        texts(ctx, **asked)
    texts(ctx, sae=exact_sae(clip, home / "scale", shift=1.0), **asked)
    assert any("mean cosine of" in text and "below 0.8" in text for text in messages(ctx))


def test_embeddings_that_are_not_numbers_are_refused(ctx, clip, monkeypatch):
    original = type(clip).raw_texts

    def broken(self, batch):
        vectors = original(self, batch)
        vectors[0] = np.nan
        return vectors

    monkeypatch.setattr(type(clip), "raw_texts", broken)
    with pytest.raises(DataError, match="zero or non-finite embedding"):
        texts(ctx, clip=clip, prompts=bird_prompts(), methods=methods("vanilla"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("orth_projj", "a debiasing method is one of"),
        ({"sem": {"variant": "x"}}, "'i', 'b' or 'bi'"),
        ({"orth_cali": {"lambda": -1}}, "greater than or equal to 0"),
        ({"roboshot": {"reject": False, "accept": False}}, "that is vanilla"),
        ({"sem": {"n_diverse": 0}}, "greater than or equal to 1"),
        ({"vanilla": {}, "label": "a/b"}, "match pattern"),
        ({"sme": {}}, "method sem"),
    ],
)
def test_methods_that_cannot_be_read_are_told_with_what_would_be_right(wrong, said):
    with pytest.raises(ValidationError) as caught:
        methods(wrong)
    assert said in str(caught.value)


def test_two_methods_of_one_name_are_refused_when_the_spec_is_read():
    with pytest.raises(ValidationError, match="two methods are called 'sem_bi'"):
        methods("sem", {"sem": {"exponent": 1}})
    with pytest.raises(ValidationError, match="two methods are called"):
        methods({"prism": {"seeds": [3, 3]}})
    assert [m.name for m in methods({"orth_proj": None, "label": "P"}, "sem")] == ["P", "sem_bi"]


def test_learnt_maps_follow_their_seed(made):
    assert not torch.allclose(*(torch.from_numpy(made.vectors[f"prism[{i}]/image_map"]) for i in (0, 1)))
