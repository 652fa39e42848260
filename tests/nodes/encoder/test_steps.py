import numpy as np
import pytest
from PIL import Image
from tiny import write_backbone, write_sentences

from results.tables import arrow_schema
from runner.context import local_context
from runner.data.images import decode
from runner.errors import DataError, ModelRefused
from runner.models.encoders import backbone as backbone_module
from runner.models.encoders.heads import load_heads
from runner.models.encoders.providers import EmbeddedMiniConfig
from runner.models.registry import Services
from runner.nodes.encoder.steps import evaluate_mini, fit_mini
from runner.references import ResolvedPath

COLOURS = ("red", "green", "blue")


@pytest.fixture
def towers(tmp_path):
    return {
        "backbone": ResolvedPath(write_backbone(tmp_path / "backbone.onnx")),
        "sentences": ResolvedPath(write_sentences(tmp_path / "sentences")),
    }


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for colour in COLOURS:
        for shape in range(6):
            image = Image.new("RGB", (30, 20), "white")
            image.paste(Image.new("RGB", (10, 4 + shape), colour), (shape, 2))
            (folder / colour).mkdir(parents=True, exist_ok=True)
            image.save(folder / colour / f"{shape}.png")
            text = f"a {colour} square" if shape % 2 else f"photo of {colour}"
            (folder / colour / f"{shape}.txt").write_text(text)
    return folder


def fit(tmp_path, photos, towers, **more):
    ctx = local_context(tmp_path / "run", step="fit")
    return ctx, fit_mini(ctx, corpus={"folder": str(photos)}, epochs=3, threads=1, **towers, **more)


def encoder(fitted, towers, kind):
    config = EmbeddedMiniConfig.model_validate(
        {"provider": "embedded_mini", "head": "$fit.head", "head_kind": kind, "threads": 1, **towers}
    )
    return config.load(Services(linked={"head": fitted.head}))


def test_fit_returns_heads_scores_and_what_they_rest_on(tmp_path, photos, towers):
    (photos / "broken.png").write_bytes(b"\x89PNG nothing")
    (photos / "broken.txt").write_text("a blue square")
    ctx, fitted = fit(tmp_path, photos, towers, holdout_captions=0.5)
    assert fitted.scores.schema == arrow_schema("encoder_score")
    assert fitted.summary["captions"] == 6
    assert fitted.summary["captions_held_out"] == 3
    assert fitted.summary["unreadable"] == 1
    assert any("cannot be read" in message["text"] for message in ctx.journal.messages)
    assert len(load_heads(fitted.head).known) == len({p.read_bytes() for p in photos.glob("*/*.png")})
    rows = fitted.scores.to_pylist()
    assert {(r["head"], r["metric"]) for r in rows} == {(h, m) for h in ("ridge", "contrastive", "mean") for m in ("recall@1", "recall@5")}  # fmt: skip
    assert all(r["low"] <= r["value"] <= r["high"] for r in rows)


@pytest.mark.parametrize("kind", ["ridge", "contrastive", "mean"])
def test_the_fitted_encoder_encodes(kind, tmp_path, photos, towers):
    _, fitted = fit(tmp_path, photos, towers, holdout_captions=0.0)
    mini = encoder(fitted, towers, kind)
    images = [Image.new("RGB", (40, 30), colour) for colour in COLOURS]
    vectors, texts = mini.encode_images(images), mini.encode_texts(["red", "a blue square"])
    assert vectors.shape == (3, mini.dim)
    assert texts.shape == (2, mini.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    assert mini.family == "embedded-mini"
    assert mini.logit_scale >= 1
    assert mini.encode_images([]).shape == (0, mini.dim)


def test_further_pictures_are_fitted_on_and_not_scored(tmp_path, photos, towers):
    more = tmp_path / "more"
    more.mkdir()
    for colour in COLOURS:
        Image.new("RGB", (8, 8), colour).save(more / f"{colour}.png")
        (more / f"{colour}.txt").write_text(f"the colour {colour}")
    _, fitted = fit(tmp_path, photos, towers, train_only={"folder": str(more)}, holdout_captions=0.5)
    assert fitted.summary["sources"] == {"photos": 18, "more": 3}
    assert fitted.summary["captions"] == 9
    assert fitted.summary["captions_held_out"] == 3
    assert {row["dataset"] for row in fitted.scores.to_pylist()} == {"photos"}


def test_identity_names_head_and_kind(tmp_path, photos, towers):
    _, fitted = fit(tmp_path, photos, towers)
    _, other = fit(tmp_path / "other", photos, towers, seed=1)
    kinds = [encoder(f, towers, k).identity for f in (fitted, other) for k in ("ridge", "mean")]
    assert len(set(kinds)) == 4
    assert encoder(fitted, towers, "mean").identity == kinds[1]


def test_pictures_of_the_fit_are_not_computed_again(tmp_path, photos, towers, monkeypatch):
    _, fitted = fit(tmp_path, photos, towers)
    mini = encoder(fitted, towers, "ridge")
    seen = []
    run = backbone_module.Backbone._run
    monkeypatch.setattr(backbone_module.Backbone, "_run", lambda self, b: seen.append(len(b)) or run(self, b))
    mini.encode_images([decode(p.read_bytes()) for p in sorted(photos.glob("*/*.png"))])
    assert seen == []
    mini.encode_images([Image.new("RGB", (9, 9), "pink")])
    assert seen == [1]


def test_an_interrupted_fit_goes_on_from_the_saved_features(tmp_path, photos, towers, monkeypatch):
    first, fitted = fit(tmp_path, photos, towers)
    again = local_context(tmp_path / "again", step="fit")
    again.items = first.items
    monkeypatch.setattr(backbone_module.Backbone, "_run", lambda self, b: pytest.fail("computed again"))
    second = fit_mini(again, corpus={"folder": str(photos)}, epochs=3, threads=1, **towers)
    assert second.scores == fitted.scores


def test_a_head_of_other_towers_is_refused(tmp_path, photos, towers):
    _, fitted = fit(tmp_path, photos, towers)
    other = {**towers, "backbone": ResolvedPath(write_backbone(tmp_path / "other.onnx", seed=7))}
    with pytest.raises(ModelRefused, match="fitted to another image backbone"):
        encoder(fitted, other, "ridge")
    data = {"folder": str(photos), "label_from_folder": True}
    with pytest.raises(ModelRefused, match="fitted to another image backbone"):
        evaluate_mini(local_context(tmp_path / "e"), fits={"a": fitted}, dataset=data, **other)


def test_zero_shot_scores_of_every_fit_head_and_prompt(tmp_path, photos, towers):
    _, fitted = fit(tmp_path, photos, towers)
    ctx = local_context(tmp_path / "e")
    data = {"folder": str(photos), "label_from_folder": True}
    scored = evaluate_mini(ctx, fits={"drawn": fitted}, dataset=data, threads=1, **towers)
    rows = scored.scores.to_pylist()
    assert scored.scores.schema == arrow_schema("encoder_score")
    assert {(r["head"], r["prompt"]) for r in rows} == {(f"drawn: {k}", p) for k in ("ridge", "contrastive", "mean") for p in ("{}", "a photo of a {}")}  # fmt: skip
    assert all(r["n"] == 18 and r["metric"] == "accuracy" and r["chance"] == pytest.approx(1 / 3) for r in rows)
    with pytest.raises(DataError, match="no labels"):
        evaluate_mini(ctx, fits={"drawn": fitted}, dataset={"folder": str(photos)}, **towers)


def test_a_corpus_without_captions_is_refused(tmp_path, photos, towers):
    for file in photos.glob("*/*.txt"):
        file.unlink()
    with pytest.raises(DataError, match="no captioned picture"):
        fit(tmp_path, photos, towers)
