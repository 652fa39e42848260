"""SITH's steps on a very small CLIP: codes, grounding, TextSpan and SpLiCE, each against an independent computation."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from sith_clip import load_clip
from sith_towers import pictures, tower
from torch.nn.functional import normalize

from results.tables import arrow_table
from runner.artifacts import Datasets, ImageFeatures
from runner.context import local_context
from runner.data.sources import open_source
from runner.errors import DataError, StepError
from runner.nodes.sith.coding import comp
from runner.nodes.sith.coding_relaxed import lasso
from runner.nodes.sith.concept_steps import dictionary, explain, ground, splice, textspan
from runner.nodes.sith.dictionary_specs import ConceptList
from runner.nodes.sith.splice import admm
from runner.nodes.sith.textspan import head_outputs, mean_ablated
from runner.nodes.sith.textspan import textspan as span_of
from runner.nodes.sith.weight_steps import decompose

WORDS = [
    f"{a} {b}" for a in ("red", "old", "wet", "tall") for b in ("dog", "house", "sea", "tree", "wine", "man", "sun")
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model, its dictionary, its directions."""
    root = tmp_path_factory.mktemp("made")
    ctx, clip = local_context(root / "work"), load_clip(root / "clip")
    words = dictionary(ctx, clip=clip, concepts=ConceptList(list=WORDS))
    return clip, words, decompose(ctx, clip=clip, layers=[-1], image_mean="zero", side="both")


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


def centred(words):
    unit = normalize(torch.from_numpy(np.load(words.index / "embeddings.npy")).double())
    return normalize(unit - unit.mean(0)).float(), unit.float()


def features_of(clip, count=20, seed=0):
    vectors = normalize(torch.randn(count, clip.dim, generator=torch.Generator().manual_seed(seed))).numpy()
    rows = [
        {"dataset": "d", "split": "test", "sample_id": f"s{i}", "target": "x", "class_index": 0} for i in range(count)
    ]
    import pyarrow as pa

    encoder = {"name": clip.name, "identity": clip.identity, "dim": clip.dim, "family": "x", "logit_scale": 1.0}
    return ImageFeatures([], encoder, {"features": vectors}, pa.Table.from_pylist(rows))


def test_codes_are_comps_of_the_centred_dictionary(ctx, made):
    _, words, directions = made
    found = explain(ctx, directions=directions, dictionary=words, k=[4, 2], coherence=[0.3, 0.0])
    G, unit = centred(words)
    joint = torch.from_numpy(directions.arrays["L1.joint"]).flatten(0, 1)
    rows, codes = found.concepts.to_pylist(), found.codes.to_pylist()
    assert len(codes) == 4 * len(joint) and len(rows) == len(joint) * 2 * (4 + 2)
    assert found.settings["main"] == {"method": "comp", "k": 4, "coherence": 0.3}
    for k, coherence in ((4, 0.3), (2, 0.0)):
        wanted = comp(joint, G, k, coherence)
        own = [r for r in rows if (r["k"], r["coherence"]) == (k, coherence)]
        assert [r["atom"] for r in own] == wanted.support.flatten().tolist()
        assert all(r["concept"] == WORDS[r["atom"]] for r in own)
        np.testing.assert_allclose([r["coef"] for r in own], wanted.coefficients.flatten(), atol=1e-5)
        assert all((r["rank"] is None) == (r["coef"] == 0) for r in own)
    first = next(c for c in codes if (c["k"], c["coherence"], c["head"], c["sv"]) == (4, 0.3, 0, 0))
    active = [r for r in rows if (r["k"], r["coherence"], r["head"], r["sv"]) == (4, 0.3, 0, 0) and r["coef"] > 0]
    for name, space in (("atom_cosine", G), ("atom_cosine_raw", unit)):
        chosen = space[[r["atom"] for r in active]].double()
        gram, n = chosen @ chosen.T, len(active)
        assert first[name] == pytest.approx(float(gram.sum() - gram.trace()) / (n * (n - 1)), abs=1e-5)
    total = sum(r["coef"] * G[r["atom"]].double() for r in active)
    assert first["joint_cos"] == pytest.approx(float(normalize(total, dim=0) @ joint[0].double()), abs=1e-5)
    assert first["n_active"] == len(active) and -1 <= first["fidelity"] <= 1


@pytest.mark.parametrize("method", ["nnomp", "omp", "mp", "top_k", "lasso"])
def test_every_coder_fills_the_tables(ctx, made, method):
    _, words, directions = made
    found = explain(ctx, directions=directions, dictionary=words, method=method, k=3, top_singular=2, signs="both", side="both", l1=0.1)  # fmt: skip
    codes = found.codes.to_pylist()
    assert len(codes) == 4 * 2 * 2 * 2 and {(c["side"], c["sign"]) for c in codes} == {("right", 1), ("right", -1), ("left", 1), ("left", -1)}  # fmt: skip
    for code in codes:
        own = [r for r in found.concepts.to_pylist() if all(r[n] == code[n] for n in ("head", "sv", "side", "sign"))]
        assert code["n_active"] == sum(r["coef"] != 0 for r in own)
        assert (code["fidelity"] is None) == (code["n_active"] == 0)
        coefs = [abs(r["coef"]) for r in sorted(own, key=lambda r: (r["rank"] is None, r["rank"] or 0))]
        assert coefs == sorted(coefs, reverse=True)


def test_what_cannot_be_explained_is_refused(ctx, made):
    _, words, directions = made
    with pytest.raises(StepError, match=r"k is 29, and the dictionary has 28"):
        explain(ctx, directions=directions, dictionary=words, k=29)
    explain(ctx, directions=directions, dictionary=words, k=17, top_singular=1)
    assert any("not unique" in m["text"] for m in ctx.journal.messages)
    with pytest.raises(StepError, match="k names a value twice"):
        explain(ctx, directions=directions, dictionary=words, k=[3, 3])
    other = dataclasses.replace(words, info=words.info | {"encoder": {"name": "other", "identity": "x"}})
    with pytest.raises(DataError, match="embedded by other"):
        explain(ctx, directions=directions, dictionary=other)
    with pytest.raises(DataError, match="left vectors of layer 1"):
        one = {k: v for k, v in directions.arrays.items() if "left" not in k}
        explain(ctx, directions=dataclasses.replace(directions, arrays=one), dictionary=words, side="left")
    broken = directions.arrays | {"L1.joint": directions.arrays["L1.joint"] * np.nan}
    with pytest.raises(DataError, match="NaN"):
        explain(ctx, directions=dataclasses.replace(directions, arrays=broken), dictionary=words)


def test_grounding_finds_the_nearest_pictures(ctx, made):
    clip, words, directions = made
    mu = np.full(clip.dim, 0.1, np.float32)
    directions = dataclasses.replace(directions, arrays=directions.arrays | {"mu": mu})
    concepts = explain(ctx, directions=directions, dictionary=words, k=3)
    features = features_of(clip)
    found = ground(ctx, directions=directions, features=features, concepts=concepts, dictionary=words, top=3)
    query = directions.arrays["L1.joint"][1, 2].astype(np.float64) + mu
    scores = features.features["features"].astype(np.float64) @ (query / np.linalg.norm(query))
    own = [r for r in found.pictures.to_pylist() if (r["head"], r["sv"]) == (1, 2)]
    order = np.argsort(-scores)[:3]
    assert [r["sample_id"] for r in own] == [f"s{i}" for i in order] and [r["rank"] for r in own] == [0, 1, 2]
    np.testing.assert_allclose([r["score"] for r in own], scores[order], atol=1e-6)
    active = [r["atom"] for r in concepts.concepts.to_pylist() if (r["head"], r["sv"]) == (1, 2) and r["coef"] > 0]
    fits = features.features["features"][order] @ centred(words)[1][active].numpy().T
    np.testing.assert_allclose([r["concept_score"] for r in own], fits.mean(1), atol=1e-5)
    with pytest.raises(StepError, match="together with the dictionary"):
        ground(ctx, directions=directions, features=features, concepts=concepts)


def test_splice_writes_pictures_as_concepts(ctx, made):
    clip, words, _ = made
    features = features_of(clip)
    found = splice(ctx, features=features, dictionary=words, l1=0.2)
    images = torch.from_numpy(features.features["features"])
    mean, (G, _) = images.mean(0), centred(words)
    code = lasso(normalize(images - mean), G, 0.2)
    codes = found.codes.to_pylist()
    for i, row in enumerate(found.images.to_pylist()):
        own = [r for r in codes if r["sample_id"] == row["sample_id"]]
        active = code.support[i][code.coefficients[i] > 0].tolist()
        assert [r["atom"] for r in own] == active and row["l0"] == len(active)
        total = sum(r["coef"] * G[r["atom"]].double() for r in own)
        again = normalize(normalize(total, dim=0) + mean.double(), dim=0)
        assert row["cosine"] == pytest.approx(float(again @ images[i].double()), abs=1e-4)
    published = splice(ctx, features=features, dictionary=words, l1=0.2, solver="admm").codes.to_pylist()
    assert {(r["sample_id"], r["atom"]) for r in published if r["coef"] > 1e-3} == {(r["sample_id"], r["atom"]) for r in codes if r["coef"] > 1e-3}  # fmt: skip


def test_admm_reaches_the_lasso():
    g = torch.Generator().manual_seed(0)
    G, X = normalize(torch.randn(60, 12, generator=g)), normalize(torch.randn(5, 12, generator=g))
    ours, theirs = lasso(X, G, 0.1), admm(X, G, 0.1)
    torch.testing.assert_close(theirs.residual_norm, ours.residual_norm, atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs.coefficients.sum(1), ours.coefficients.sum(1), atol=1e-3, rtol=0)


def test_head_outputs_add_up_to_what_the_attention_adds():
    visual, x = tower(3), pictures(1)
    outputs = head_outputs(visual, x, [0, 1])
    last = {}
    handle = visual.ln_post.register_forward_pre_hook(lambda m, inputs: last.update(x=inputs[0]))
    total = visual(x)
    handle.remove()
    assert outputs.shape == (3, 2, 4, 12)
    cls = last["x"] if last["x"].ndim == 2 else last["x"][:, 0]
    scale = (cls.var(-1, unbiased=False, keepdim=True) + visual.ln_post.eps).sqrt()
    stream = visual._embeds(x)
    for layer, block in enumerate(visual.transformer.resblocks):
        y = block.ln_1(stream)
        added = block.attn(y, y, y, need_weights=False)[0][:, 0] - block.attn.out_proj.bias
        wanted = ((added - added.mean(-1, keepdim=True)) / scale * visual.ln_post.weight) @ visual.proj
        torch.testing.assert_close(outputs[:, layer].sum(1), wanted, atol=1e-9, rtol=0)
        stream = block(stream)
    ablated = mean_ablated(total, outputs, {1: [0, 2]}, [0, 1])
    torch.testing.assert_close(ablated.mean(0), total.mean(0))
    shift = (outputs[:, 1, [0, 2]] - outputs[:, 1, [0, 2]].mean(0)).sum(1)
    torch.testing.assert_close(total - ablated, shift)


def test_textspan_is_the_plain_loop_and_stops_when_nothing_is_left():
    g = torch.Generator().manual_seed(5)
    data = torch.randn(40, 10, generator=g, dtype=torch.float64) * torch.arange(1, 11) + 2
    texts = torch.randn(30, 10, generator=g, dtype=torch.float64)
    span = span_of(data, texts, 6, 4)
    basis = torch.linalg.svd(data, full_matrices=False).Vh[:6]
    t, d, picked = texts @ basis.T @ basis, data - data.mean(0), []
    whole = d.var(0).sum()
    for pick in range(4):
        deviation = (d @ t.T).std(0)
        deviation[picked] = -1
        best = int(deviation.argmax())
        picked.append(best)
        assert float(span.deviation[pick]) == pytest.approx(float(deviation[best]))
        own = t[best].clone()
        d = d - torch.outer(d @ own / (own @ own), own)
        t = t - torch.outer(t @ own / (own @ own), own)
        assert float(span.explained[pick]) == pytest.approx(float(1 - d.var(0).sum() / whole), abs=1e-9)
    assert span.picked.tolist() == picked
    assert len(span_of(data, texts, 6, 30).picked) == 6
    with pytest.raises(ValueError, match="at least two outputs"):
        span_of(data[:1], texts, 6, 4)


def test_textspan_step_reads_photographs(ctx, made):
    clip, words, _ = made
    source = open_source({"packaged": "cifar10-train-sample"})
    uris = sorted(source.labels())[:12]
    rows = [{"dataset": "c", "split": "test", "sample_id": u, "source_id": source.source_id, "uri": u, "target": "x", "class_index": 0, "thumbnail": None} for u in uris]  # fmt: skip
    images = Datasets([], [source.spec], arrow_table("dataset_image", rows))
    found = textspan(ctx, clip=clip, images=images, dictionary=words, layers=[-1], texts_per_head=3, rank=5)
    concepts = found.concepts.to_pylist()
    assert [(r["layer"], r["head"], r["pick"]) for r in concepts] == [(1, h, p) for h in range(4) for p in range(3)]
    assert all(r["concept"] == WORDS[r["atom"]] for r in concepts)
    assert all(a["explained"] < b["explained"] <= 1 for a, b in itertools.pairwise(concepts[:3]))
    with pytest.raises(DataError, match="at least two pictures"):
        textspan(ctx, clip=clip, images=images, dictionary=words, layers=[-1], split="val")
