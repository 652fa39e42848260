"""Steps sem.train_sae and sem.import_sae on a tiny open_clip model with random weights."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from results.tables import arrow_schema
from runner.artifacts import ImageFeatures
from runner.context import local_context
from runner.errors import DataError, Interrupted, ModelRefused
from runner.models.encoders.providers import OpenClip
from runner.models.registry import Services
from runner.nodes.sem import sae_runs
from runner.nodes.sem.sae import SaeAbout, SparseAutoencoder, initialise, read_sae, write_sae
from runner.nodes.sem.sae_steps import import_sae, train_sae
from runner.nodes.text_specs import TemplateTexts, WordTexts
from runner.steps import load_steps

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NOUNS = WordTexts(words=[f"{colour} {thing}" for colour in ("red", "green", "blue", "old", "new") for thing in
                         ("cat", "dog", "car", "house", "tree", "bird", "lamp", "boat", "hat", "cup")])  # fmt: skip
TEXTS = TemplateTexts(templates=["a photo of a {}", "a drawing of a {}", "the {} in the rain", "one {}"], of=NOUNS)
SMALL = {"latents": 64, "batch": 32, "epochs": 4, "lr": 3e-3, "val_fraction": 0.1}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"size": 32}}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        # A text projection of some size, so that raw embeddings are far from unit norm.
        model.text_projection.data.mul_(20)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return OpenClip.model_validate({"provider": "open_clip", "checkpoint": str(folder)}).load(Services())


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run", seed=5)


def row_of(made):
    return made.models.to_pylist()[0]


def pictures(clip, n=60):
    x = np.random.default_rng(0).normal(size=(n, clip.dim)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return ImageFeatures([], {"identity": clip.identity, "name": clip.name}, {"features": x}, None)


def test_texts_are_encoded_raw_and_once(ctx, clip):
    made = train_sae(ctx, clip=clip, texts=[TEXTS, NOUNS, NOUNS], **SMALL)
    model, log = row_of(made), made.log.to_pylist()
    assert made.models.schema.names == [n for n in arrow_schema("sae_model").names if n in made.models.schema.names]
    assert model["n_train"] + model["n_val"] == 250 and model["n_val"] == 25
    assert model["levels"] == [8, 16, 64] and model["weighting"] == "reverse" and model["layout"] == "sem"
    assert (model["d"], model["latents"], model["modality"], model["backbone"]) == (16, 64, "text", clip.name)
    assert [row["epoch"] for row in log] == [1, 2, 3, 4] and log[-1]["loss"] < log[0]["loss"]
    assert len(log[0]["level_losses"]) == 3 and log[-1]["fvu"] == pytest.approx(model["fvu"], rel=1e-3)
    sae = read_sae(made.folder)
    assert sae.digest() == model["sae_id"] and sae.about.encoder == clip.identity
    raw = torch.from_numpy(clip.raw_texts(["a photo of a red cat"]))
    assert float(raw.norm()) > 5 and float(torch.cosine_similarity(raw, sae(raw))) > 0.8
    # Not trained on unit vectors: the bias of the decoder alone is longer than these.
    assert float((sae(raw / raw.norm()) - raw / raw.norm()).norm()) > 1


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(sae_runs, "SAVE_SECONDS", 0.0)
    whole = train_sae(local_context(tmp_path / "whole", seed=5), clip=clip, texts=TEXTS, patience=3, **SMALL)
    ctx = local_context(tmp_path / "stopped", seed=5)
    steps = iter(range(14))

    def stop():
        if next(steps, None) is None:
            raise Interrupted("stopped")

    allow, ctx.stop.check = ctx.stop.check, stop
    with pytest.raises(Interrupted):
        train_sae(ctx, clip=clip, texts=TEXTS, patience=3, **SMALL)
    assert (ctx.scratch / "training.pt").is_file()
    ctx.stop.check = allow
    again = train_sae(ctx, clip=clip, texts=TEXTS, patience=3, **SMALL)
    assert row_of(again) == row_of(whole)
    drop = [{**row, "seconds": 0} for row in again.log.to_pylist()]
    assert drop == [{**row, "seconds": 0} for row in whole.log.to_pylist()]


def test_the_seed_decides(tmp_path, clip):
    ids = [row_of(train_sae(local_context(tmp_path / str(i)), clip=clip, texts=TEXTS, seed=seed, **SMALL))["sae_id"]
           for i, seed in enumerate((1, 1, 2))]  # fmt: skip
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("more", "levels"),
    [({"architecture": "topk", "levels": [5]}, [5]), ({"architecture": "batch_topk", "levels": [5]}, [5]), ({"architecture": "relu_l1"}, []),
     ({"levels": [4, 8, 64], "loss": "nmse", "average_levels": True, "weighting": "uniform"}, [4, 8, 64]), ({"centre": True}, [8, 16, 64])],
)  # fmt: skip
def test_architectures_through_the_step(ctx, clip, more, levels):
    made = train_sae(ctx, clip=clip, texts=TEXTS, **(SMALL | {"epochs": 2} | more))
    model, sae = row_of(made), read_sae(made.folder)
    assert model["levels"] == levels and sae.about.levels == tuple(levels)
    assert model["l0"] <= (5 if levels == [5] else 64)
    assert model["layout"] == ("msae" if more.get("centre") else "sem")
    if more.get("centre"):
        standard = sae.standardised(torch.from_numpy(clip.raw_texts(["a photo of a red cat", "one old hat"])))
        assert sae.about.target_norm == 4.0 and 1 < float(standard.norm(dim=1).mean()) < 16


def test_pictures_alone_and_with_texts(tmp_path, clip):
    alone = train_sae(local_context(tmp_path / "a"), clip=clip, images=pictures(clip), modality="image", **SMALL)
    both = train_sae(
        local_context(tmp_path / "b"), clip=clip, texts=TEXTS, images=pictures(clip), modality="both", **SMALL
    )
    assert row_of(alone)["n_train"] + row_of(alone)["n_val"] == 60 and row_of(alone)["modality"] == "image"
    assert row_of(both)["n_train"] + row_of(both)["n_val"] == 260


def test_a_poor_reconstruction_and_cut_texts_are_said(ctx, clip):
    long = WordTexts(words=["word " * 30, "short"])
    train_sae(ctx, clip=clip, texts=[TEXTS, long], **(SMALL | {"epochs": 1, "lr": 1e-9}), init="sem")
    said = [message["text"] for message in ctx.journal.messages]
    assert any(text.startswith("1 texts have more than 16 tokens") for text in said)
    assert any("below 0.8" in text for text in said)


def test_an_autoencoder_that_overshoots_is_said(tmp_path, clip):
    twice = SparseAutoencoder(16, 32, SaeAbout("x", levels=(4,)))
    both = torch.cat([torch.eye(16), -torch.eye(16)])
    with torch.no_grad():
        twice.encoder.weight.copy_(both)
        twice.encoder.bias.zero_()
        twice.decoder.weight.copy_(2 * both.T)
    ctx = local_context(tmp_path / "run")
    made = import_sae(ctx, path=str(write_sae(twice, tmp_path, "sem")), clip=clip, texts=NOUNS)
    assert row_of(made)["cosine"] == pytest.approx(1) and row_of(made)["fvu"] == pytest.approx(1)
    assert "1.00 of the variance" in ctx.journal.messages[0]["text"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"levels": [8, 4]}, "ascend"), ({"levels": [8, 100]}, "between 1 and the number of latents"), ({"texts": None}, "needs text"),
     ({"architecture": "topk", "levels": [2, 4]}, "exactly one level"), ({"modality": "both"}, "texts and images"),
     ({"texts": WordTexts(words=["a", "b"])}, "too few"), ({"architecture": "topk", "export": ["sem"]}, "cannot hold topk")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(ctx, clip, changes, message):
    with pytest.raises(DataError, match=message):
        train_sae(ctx, clip=clip, **({"texts": TEXTS} | SMALL | changes))


def test_pictures_of_another_encoder_or_with_nan_are_refused(ctx, clip):
    found = pictures(clip)
    found.features["features"][3, 2] = np.nan
    with pytest.raises(DataError, match="NaN"):
        train_sae(ctx, clip=clip, images=found, modality="image", **SMALL)
    other = ImageFeatures([], {"identity": "another"}, found.features, None)
    with pytest.raises(DataError, match="another encoder"):
        train_sae(ctx, clip=clip, images=other, modality="image", **SMALL)


# --- import ----------------------------------------------------------------------------------------------------------


def test_exported_layouts_are_imported_as_the_same_function(tmp_path, clip):
    made = train_sae(
        local_context(tmp_path / "a"), clip=clip, texts=TEXTS, centre=True, export=["sem", "msae"], **SMALL
    )
    first, z = read_sae(made.folder), torch.from_numpy(clip.raw_texts(NOUNS.words))
    files = sorted(made.folder.glob("*.pth"))
    assert len(files) == 2 and any("_16_64_8x16x64_reverse" in file.name for file in files)
    for n, file in enumerate(files):
        ctx = local_context(tmp_path / f"import{n}")
        found = import_sae(ctx, path=str(file), clip=clip, levels=[8, 16, 64], texts=NOUNS)
        model = row_of(found)
        assert (model["backbone"], model["d"], model["latents"], model["n_val"]) == (clip.name, 16, 64, 50)
        assert model["layout"] == ("msae" if file.name.startswith("scaled_") else "sem")
        torch.testing.assert_close(read_sae(found.folder)(z), first(z), rtol=1e-3, atol=1e-3)
        assert not ctx.journal.messages


def test_a_file_without_a_model_is_known_by_its_name(tmp_path):
    sae = SparseAutoencoder(512, 40, SaeAbout("ViT-B-16", levels=(4, 8), weighting="reverse"))
    file = write_sae(sae, tmp_path, "sem")
    model = row_of(import_sae(local_context(tmp_path / "run"), path=str(file)))
    assert (model["backbone"], model["levels"], model["weighting"]) == ("ViT-B-16", [4, 8], "reverse")
    assert model["fvu"] is None and model["decoder_coherence"] > 0


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, ("msae", [4, 8], "reverse")),
        ({"weighting": "uniform"}, ("msae", [4, 8], "uniform")),
        ({"levels": [3]}, ("msae", [3], "reverse")),
        ({"architecture": "relu_l1"}, ("relu_l1", [], None)),
        ({"architecture": "topk", "levels": [5]}, ("topk", [5], None)),
    ],
)
def test_what_the_spec_says_goes_before_the_name_and_the_rest_is_the_name_s(tmp_path, claims, expected):
    file = write_sae(SparseAutoencoder(12, 40, SaeAbout("B", levels=(4, 8), weighting="reverse")), tmp_path, "sem")
    model = row_of(import_sae(local_context(tmp_path / "run"), path=str(file), **claims))
    assert (model["architecture"], model["levels"], model["weighting"]) == expected and model["backbone"] == "B"


def test_claims_that_cannot_be_met_are_refused(tmp_path):
    sae = SparseAutoencoder(12, 40, SaeAbout("B", levels=(4, 8), weighting="reverse"))
    file = write_sae(sae, tmp_path, "sem")
    with pytest.raises(ModelRefused, match="exactly one level"):
        import_sae(local_context(tmp_path / "a"), path=str(file), architecture="topk")
    nameless = file.rename(tmp_path / "weights.pth")
    with pytest.raises(ModelRefused, match="does not say what"):
        import_sae(local_context(tmp_path / "b"), path=str(nameless), backbone="B", weighting="uniform")
    native = write_sae(SparseAutoencoder(12, 40, SaeAbout("B", "topk", (3,))), tmp_path / "native")
    assert row_of(import_sae(local_context(tmp_path / "c"), path=str(native)))["architecture"] == "topk"


def test_imports_that_do_not_fit_are_refused_or_said(tmp_path, clip):
    wide = write_sae(SparseAutoencoder(20, 40, SaeAbout("x", levels=(4,))), tmp_path, "sem")
    with pytest.raises(DataError, match=r"width 20, and those of .* have 16"):
        import_sae(local_context(tmp_path / "a"), path=str(wide), clip=clip)
    with pytest.raises(DataError, match="must be encoded"):
        import_sae(local_context(tmp_path / "b"), path=str(wide), texts=NOUNS)
    with pytest.raises(ModelRefused, match="pre_bias"):
        import_sae(local_context(tmp_path / "c"), path=str(wide), layout="msae", backbone="x", levels=[4])
    narrow = SparseAutoencoder(16, 40, SaeAbout("x", levels=(4,)))
    initialise(narrow, generator=torch.Generator().manual_seed(0))
    ctx = local_context(tmp_path / "d")
    import_sae(ctx, path=str(write_sae(narrow, tmp_path, "sem")), clip=clip, texts=NOUNS)
    assert "below 0.8" in ctx.journal.messages[0]["text"]


def test_the_steps_are_registered():
    steps = load_steps()
    assert steps["sem.train_sae"].outputs["log"].table == "sae_train_log"
    assert steps["sem.import_sae"].outputs["models"].table == "sae_model"
