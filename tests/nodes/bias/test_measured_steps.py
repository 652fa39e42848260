"""c2b.measure and c2b.separability on real files, through to the assessment."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from results.tables import arrow_table
from retrieval.steps import index, search
from runner.artifacts import Bindings, Captions, CheckedTargets, RetrievedImages
from runner.context import local_context
from runner.errors import DataError, StepError
from runner.models.base import Classifier, ImageTextEncoder
from runner.nodes.bias import measuring
from runner.nodes.bias.measured_steps import measure, separability
from runner.nodes.bias.steps import assess

CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """For each class 120 textured pictures from dark to light, in an order that says nothing; blue channel = class."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for target in CLASSES:
        (root / target).mkdir()
        for i, level in enumerate(rng.permutation(120)):
            pixels = np.clip(level * 1.7 + rng.integers(0, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
            pixels[0, 0] = (0, 0, 255) if target == "dog" else (0, 0, 0)
            Image.fromarray(pixels).save(root / target / f"{i:03}.png")
    return root


def caption(target, attribute, value):
    return {
        "resample": 0, "caption_id": f"{target}-{attribute}-{value}", "target": target, "attribute": attribute, "value": value,
        "text": f"a {target}", "is_neutral": attribute is None, "status": "kept", "drop_reason": None,
    }  # fmt: skip


def level(corpus, uri):
    return np.asarray(Image.open(corpus / uri), float).mean()


def retrieved(corpus, *, honest=True, ranked=True, broken=False):
    """Captions dim and bright; honest ones fetch dark and light pictures, others the same ones in another order."""
    captions, found = [], []
    rng = np.random.default_rng(1)
    for target in CLASSES:
        uris = [f"{target}/{i:03}.png" for i in range(120)]
        by_level = sorted(uris, key=lambda uri: level(corpus, uri))
        nearest = {"dim": by_level[:60], "bright": by_level[60:]}
        if not honest:
            nearest = {value: list(rng.permutation(uris[:70])) for value in nearest}
        for value, listed in nearest.items():
            captions.append(caption(target, "lighting", value))
            other = set(nearest["dim"][:30]) if value == "bright" else set()
            found += [_candidate(captions[-1], rank, uri, kept=rank < 60 and uri not in other, ranked=ranked)
                      for rank, uri in enumerate(listed)]  # fmt: skip
        captions.append(caption(target, None, None))
        found += [_candidate(captions[-1], rank, uri, kept=True, ranked=ranked) for rank, uri in enumerate(uris)]
    if broken:
        (corpus / "cat" / "broken.png").write_bytes(b"no picture")
        found.append(_candidate(captions[2], 200, "cat/broken.png", kept=True, ranked=ranked))
    return RetrievedImages(
        task={"description": "", "outputs": [
            {"name": "animal", "type": "multi", "values": list(CLASSES), "caption_names": {}}]},
        targets=list(CLASSES), corpus=[{"folder": str(corpus), "name": "shots", "label_from_folder": True}],
        encoder={"family": "stub"}, captions=arrow_table("c2b_caption", captions),
        retrieval=arrow_table("c2b_retrieval", found), counts=arrow_table("c2b_retrieval_count", []),
    )  # fmt: skip


def _candidate(of, rank, uri, *, kept, ranked):
    return {
        "caption_id": of["caption_id"], "rank": rank, "source_id": "shots", "uri": uri, "row": None,
        "similarity": 0.3 - 0.001 * rank if ranked else None, "kept": kept, "reject_reason": None if kept else "surplus",
        "duplicate_of": None,
    }  # fmt: skip


def bindings(*rows):
    rows = rows or [("lighting", "luminance", ["dim", "bright"])]
    return Bindings(
        arrow_table("c2b_binding", [
            {"target": t, "attribute": a, "measure": m, "bias_values": v, "source": "user", "reason": None}
            for t in CLASSES for a, m, v in rows
        ])
    )  # fmt: skip


def checked(uris, *, no=(), sensitivity=0.9, specificity=0.8, rejects=True, values=()):
    verifier = {
        "verifier": "v", "target": "cat", "labels": ["cat"], "positives": 100, "negatives": 100, "sensitivity": sensitivity,
        "specificity": specificity, "usable": True, "reason": None,
    } | {f"{rate}_{end}": None for rate in ("sensitivity", "specificity") for end in ("low", "high")}  # fmt: skip
    return CheckedTargets(
        rejects,
        arrow_table("c2b_verifier", [verifier]),
        arrow_table("c2b_target_check", [
            {"source_id": "shots", "uri": u, "target": "cat", "shows": u not in no, "score": None} for u in uris]),
        arrow_table("c2b_value_check", [
            {"source_id": "shots", "uri": u, "target": "cat", "attribute": "lighting", "value": v} for u, v in values]),
        arrow_table("c2b_precision", []),
    )  # fmt: skip


def test_thirds_of_the_pool_by_measured_light(corpus, tmp_path):
    done = measure(local_context(tmp_path), images=retrieved(corpus), bindings=bindings())
    bins = {(r["target"], r["value"]): r for r in done.bins.to_pylist()}
    assert {(n, b["n"], b["pool"]) for n, b in bins.items()} == {
        ((t, v), 40, 120) for t in CLASSES for v in ("dim", "bright")
    }
    members = [r for r in done.members.to_pylist() if r["target"] == "cat"]
    uris = sorted((f"cat/{i:03}.png" for i in range(120)), key=lambda u: level(corpus, u))
    agree = {m["uri"] for m in members if m["value"] == "dim"} & set(uris[:40])
    assert len(agree) >= 38  # L* and the mean of the bytes order nearly equal pictures otherwise
    for m in members:
        b = bins["cat", m["value"]]
        assert b["low"] <= m["measured"] <= b["high"] and b["unit"] == "L*"
    assert len(done.measurements) == 240 and len(done.precisions) == 0


def test_every_picture_is_measured_once_and_never_again(corpus, tmp_path, monkeypatch):
    ctx, fresh = local_context(tmp_path), []
    monkeypatch.setattr(
        measuring, "_fresh", lambda data, names, real=measuring._fresh: fresh.append(names) or real(data, names)
    )
    first = measure(ctx, images=retrieved(corpus), bindings=bindings())
    assert len(fresh) == 240
    again = measure(ctx, images=retrieved(corpus), bindings=bindings())
    assert len(fresh) == 240 and again.members.equals(first.members)
    both = bindings(("lighting", "luminance", ["dim", "bright"]), ("view", "contrast", ["foggy", "harsh"]))
    measure(ctx, images=retrieved(corpus), bindings=both)
    assert set(fresh[240:]) == {("contrast",)}


def test_refused_pictures_are_left_out_and_counted_where_they_belong(corpus, tmp_path):
    uris = [f"cat/{i:03}.png" for i in range(120)]
    dark = sorted(uris, key=lambda u: level(corpus, u))[:20]
    done = measure(
        local_context(tmp_path), images=retrieved(corpus), bindings=bindings(),
        checked=checked(uris, no=dark, values=[(u, "dim") for u in uris]),
    )  # fmt: skip
    members = {r["uri"] for r in done.members.to_pylist() if r["target"] == "cat"}
    assert not members & set(dark)
    rows = {(r["target"], r["value"]): r for r in done.precisions.to_pylist()}
    dim, bright = rows["cat", "dim"], rows["cat", "bright"]
    assert (dim["said_no"], bright["said_no"], bright["said_yes"]) == (20, 0, bright["images"])
    yes = dim["said_yes"] / dim["images"]
    q = (yes + 0.8 - 1) / (0.9 + 0.8 - 1)
    assert dim["retrieved_precision"] == pytest.approx(q)
    assert dim["target_precision"] == pytest.approx(0.9 * q / (0.9 * q + 0.2 * (1 - q)))
    assert dim["value_precision"] == 1 and bright["value_precision"] == 0 and dim["value_source"] == "measured"
    assert rows["dog", "dim"]["target_precision"] is None


def test_cuts_of_the_user_and_what_does_not_suit(corpus, tmp_path):
    ctx = local_context(tmp_path)
    done = measure(ctx, images=retrieved(corpus), bindings=bindings(), cuts={"Lighting": [30, 60]})
    values = {v: [r["measured"] for r in done.members.to_pylist() if r["value"] == v] for v in ("dim", "bright")}
    assert max(values["dim"]) < 30 and min(values["bright"]) >= 60
    for wrong, says in (({"weather": [1]}, "'weather'"), ({"lighting": [1, 2, 3]}, "1 cuts, not 3")):
        with pytest.raises(StepError, match=says):
            measure(ctx, images=retrieved(corpus), bindings=bindings(), cuts=wrong)


def test_what_cannot_be_measured_or_cut_is_said(corpus, tmp_path):
    ctx = local_context(tmp_path)
    rows = bindings(
        ("lighting", "luminance", ["dim", "bright"]), ("shape", "aspect", ["tall", "wide"]), ("age", None, ["a", "b"])
    )
    done = measure(ctx, images=retrieved(corpus, broken=True), bindings=rows)
    warned = {(m["item"], m["text"]) for m in ctx.journal.messages}
    assert {item for item, _ in warned} == {"cat / shape", "dog / shape"} and all("the same" in t for _, t in warned)
    broken = [r for r in done.measurements.to_pylist() if r["uri"] == "cat/broken.png"]
    assert len(broken) == 2 and all(r["measured"] is None for r in broken)
    assert all(r["pool"] == 120 for r in done.bins.to_pylist())
    (corpus / "cat" / "broken.png").unlink()


@pytest.mark.parametrize("honest", [True, False])
def test_measured_light_decides_whether_captions_can_be_believed(corpus, tmp_path, honest):
    ctx, images = local_context(tmp_path), retrieved(corpus, honest=honest)
    measured = measure(ctx, images=images, bindings=bindings())
    rows = separability(ctx, images=images, measured=measured, nearest=40).groups.to_pylist()
    assert (
        len(rows) == 4 and {r["separable"] for r in rows} == {honest} and {r["measure"] for r in rows} == {"luminance"}
    )
    assert all((r["auc"] > 0.95) == honest and (r["overlap"] < 0.3) == honest for r in rows)
    alone = separability(ctx, images=images, nearest=40, max_overlap=0.3).groups.to_pylist()
    assert {r["separable"] for r in alone} == {honest} and {r["auc"] for r in alone} == {None}


def test_pictures_without_a_ranking_are_not_judged(corpus, tmp_path):
    rows = separability(local_context(tmp_path), images=retrieved(corpus, ranked=False)).groups.to_pylist()
    assert {r["separable"] for r in rows} == {None} and all("nothing could be tested" in r["reason"] for r in rows)


def test_half_an_encoder_is_refused(corpus, tmp_path):
    with pytest.raises(StepError, match="belong together"):
        separability(local_context(tmp_path), images=retrieved(corpus), encoder=object())


class LightEncoder(ImageTextEncoder):
    """Pictures by how light they are; texts that name a light by it, if it sees any difference."""

    name, family, dim, logit_scale = "light", "light", 2, 10.0

    def __init__(self, sees):
        self.identity, self.sees = f"light {sees}", sees

    def prepare(self, image):
        return np.asarray(image, np.float32).transpose(2, 0, 1)

    def encode_prepared(self, batch):
        return self._at(batch.mean((1, 2, 3)) / 255 * np.pi / 2)

    def encode_texts(self, texts):
        return self._at(
            np.array([np.pi / 2 * (0.8 if "bright" in t else 0.2) if self.sees else len(t) / 40 for t in texts])
        )

    def _at(self, angle):
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


@pytest.mark.parametrize("sees", [True, False])
def test_the_margin_comes_from_the_index_that_was_searched(corpus, tmp_path, sees):
    ctx, encoder = local_context(tmp_path), LightEncoder(sees)
    sources = {"folder": str(corpus / "cat"), "name": "cats"}
    made = index(ctx, encoder=encoder, corpus=sources)
    asked = [
        caption("cat", "light", "dim") | {"text": "cat, dim"},
        caption("cat", "light", "bright") | {"text": "cat, bright"},
    ]
    task = {
        "description": "",
        "outputs": [{"name": "animal", "type": "multi", "values": ["cat", "dog"], "caption_names": {}}],
    }
    queries = Captions(task, ["cat"], arrow_table("c2b_caption", asked))
    images = search(ctx, encoder=encoder, corpus=made, queries=queries, k=30, overfetch=4, min_side=1, relevance=False)
    rows = separability(ctx, images=images, corpus=made, encoder=encoder, nearest=30).groups.to_pylist()
    assert {r["separable"] for r in rows} == {sees}
    assert all((r["overlap"] < 0.1) == sees for r in rows) and (min(r["margin"] for r in rows) > 0.8) == sees
    other = index(
        local_context(tmp_path / "other"), encoder=encoder, corpus={"folder": str(corpus / "dog"), "name": "cats"}
    )
    fewer = arrow_table("c2b_retrieval", [r | {"uri": "x" + r["uri"]} for r in images.retrieval.to_pylist()])
    with pytest.raises(DataError, match="not the one"):
        separability(ctx, images=replace(images, retrieval=fewer), corpus=other, encoder=encoder)


class DarkClassifier(Classifier):
    """Reads the class from the first pixel; in the dark it guesses."""

    name, format, labels, head, identity = "dark", "test", CLASSES, "softmax", "dark"

    def prepare(self, image):
        return np.asarray(image, np.float32).transpose(2, 0, 1)

    def logits(self, batch):
        truth = (batch[:, 2, 0, 0] > 128).astype(int)
        luck = [int(hashlib.sha256(x.tobytes()).hexdigest(), 16) % 2 for x in batch]
        said = np.where(batch[:, :, 1:].mean((1, 2, 3)) < 80, luck, truth)
        return np.eye(2, dtype=np.float32)[said] * 5


def test_a_bias_hidden_from_captions_is_found_by_measuring(corpus, tmp_path):
    """The captions fetch the same pictures for dim and bright, so only measured groups may carry a finding."""
    ctx, images = local_context(tmp_path), retrieved(corpus, honest=False)
    measured = measure(ctx, images=images, bindings=bindings())
    apart = separability(ctx, images=images, measured=measured, nearest=40)
    done = assess(ctx, classifier=DarkClassifier(), images=images, measured=measured, separability=apart)
    verdicts = {(r["target"], r["value"], r["value_source"]): r["verdict"] for r in done.groups.to_pylist()}
    for target in CLASSES:
        assert verdicts[target, "dim", "measured"] == "disfavoured"
        assert verdicts[target, "dim", "caption"] == "not_testable"
