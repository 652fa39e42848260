import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny import write_backbone, write_sentences

from results.tables import arrow_schema
from runner.context import local_context
from runner.errors import DataError, Interrupted
from runner.models.encoders.clip import SMALL_FAMILY, load_local
from runner.nodes.backbone_features import SourceFeatures
from runner.nodes.clip.corpus import captioned, labelled, number_captions, picture_tensor, text_list
from runner.nodes.clip.specs import ClipSize, Training
from runner.nodes.clip.steps import evaluate, train
from runner.nodes.clip.training import STATE
from runner.references import ResolvedPath

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
SIZE = ClipSize(
    image_size=16,
    patch=8,
    width=16,
    layers=2,
    head_width=8,
    text_width=16,
    text_layers=1,
    context_length=12,
    embed_dim=8,
)


@pytest.fixture
def towers(tmp_path):
    return {
        "backbone": ResolvedPath(write_backbone(tmp_path / "backbone.onnx")),
        "sentences": ResolvedPath(write_sentences(tmp_path / "sentences")),
    }


@pytest.fixture
def photos(tmp_path):
    """Cut-out squares of three colours; the class is the folder, the caption lies beside."""
    folder = tmp_path / "photos"
    for colour, value in COLOURS.items():
        (folder / colour).mkdir(parents=True)
        for number in range(8):
            image = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
            image.paste(Image.new("RGBA", (14 + number, 20), value), (number, 3))
            image.save(folder / colour / f"{number}.png")
            (folder / colour / f"{number}.txt").write_text(f"a {colour} square" if number % 2 else f"photo of {colour}")
    return folder


def run(tmp_path, photos, towers, *, steps=6, name="run", ctx=None, **more):
    ctx = ctx or local_context(tmp_path / name, step="train")
    plan = Training(steps=steps, batch=8, text_batch=4, warmup=2, log_every=2, save_every=2)
    fields = {"corpus": {"folder": str(photos)}, "training": plan, "model": SIZE, "wordnet": None, "threads": 1}
    return train(ctx, **{**fields, **towers, **more})


def weights(trained):
    return load_file(trained.checkpoint / "open_clip_model.safetensors")


class StopAfter:
    """Asks the run to end at the n-th check that follows ``armed``."""

    def __init__(self, path, checks):
        self.path, self.left = path, checks

    def check(self):
        self.left -= self.path.exists()
        if self.left < 0:
            raise Interrupted("stopped by the test")


def test_a_training_leaves_a_log_scores_and_a_folder_that_stock_open_clip_loads(tmp_path, photos, towers):
    trained = run(tmp_path, photos, towers, holdout_captions=0.34)
    assert trained.log.schema == arrow_schema("clip_train_log")
    assert trained.log.column("train_step").to_pylist() == [2, 4, 6]
    assert trained.scores.schema == arrow_schema("encoder_score")
    assert set(trained.scores.column("metric").to_pylist()) == {"recall@1", "recall@5"}
    assert trained.summary["captions_held_out"] == 2
    assert trained.summary["pictures_trained"] == 16
    assert {value.dtype for value in weights(trained).values()} == {torch.float16}
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{trained.checkpoint}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{trained.checkpoint}")(["a red square"])
    mine = load_local(trained.checkpoint, None, device="cpu", half=False)
    with torch.inference_mode():
        theirs = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(mine.encode_texts(["a red square"]), theirs, atol=1e-6)
    assert (mine.small, mine.family, mine.context_length) == (True, SMALL_FAMILY, 12)


def test_the_card_says_what_it_is_and_how_good(tmp_path, photos, towers):
    trained = run(tmp_path, photos, towers, holdout_captions=0.34)
    card = (trained.checkpoint / "README.md").read_text("utf8")
    assert "no published CLIP" in card
    for row in trained.scores.to_pylist():
        assert f"| {row['dataset']} | {row['metric']} | {row['value']:.3f} |" in card


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, photos, towers):
    whole = run(tmp_path, photos, towers, name="whole")
    ctx = local_context(tmp_path / "halves", step="train")
    stopping = replace(ctx, stop=StopAfter(ctx.scratch / STATE, 1))
    with pytest.raises(Interrupted):
        run(tmp_path, photos, towers, ctx=stopping)
    assert torch.load(ctx.scratch / STATE, weights_only=True)["done"] == 3
    resumed = run(tmp_path, photos, towers, ctx=ctx)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert resumed.log.column("train_step").to_pylist() == [2, 4, 6]
    assert resumed.log.column("loss").to_pylist() == whole.log.column("loss").to_pylist()


def test_a_half_written_state_is_not_taken_up(tmp_path, photos, towers):
    ctx = local_context(tmp_path / "torn", step="train")
    (ctx.scratch / STATE).with_suffix(".part").write_bytes(b"torn")
    again = run(tmp_path, photos, towers, ctx=ctx)
    assert again.log.num_rows == 3


def test_training_lowers_the_loss_and_tells_colours_apart(tmp_path, photos, towers):
    trained = run(tmp_path, photos, towers, steps=60, holdout_captions=0.0)
    losses = trained.log.column("loss_contrastive").to_pylist()
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) - 0.3
    encoder = load_local(trained.checkpoint, None, device="cpu", half=False)
    ctx = local_context(tmp_path / "scored", step="score")
    found = evaluate(ctx, encoders={"mine": encoder}, dataset=tree(photos), templates=["a {} square"])
    (row,) = found.scores.to_pylist()
    assert (row["head"], row["n"], row["chance"]) == ("mine", 24, pytest.approx(1 / 3))
    assert row["value"] > 0.6


def tree(photos):
    return {"folder": str(photos), "label_from_folder": True}


def test_class_names_serve_as_captions_and_are_never_held_out(tmp_path, photos, towers):
    other = tmp_path / "classes"
    photos.rename(other)
    own = tmp_path / "photos"
    own.mkdir()
    for number in range(12):
        Image.new("RGB", (20, 20), (number * 20, 90, 90)).save(own / f"{number}.png")
        (own / f"{number}.txt").write_text(f"photo {number}")
    trained = run(tmp_path, own, towers, labelled={**tree(other), "name": "classes"}, holdout_captions=0.5)
    assert trained.summary["captions_held_out"] == 6
    assert trained.summary["pictures_trained"] == 6 + 24
    assert set(trained.scores.column("dataset").to_pylist()) == {trained.scores["dataset"][0].as_py()}


def test_a_batch_larger_than_the_data_is_refused_before_training(tmp_path, photos, towers):
    with pytest.raises(DataError, match="a batch of 64 is more than the 24 pictures"):
        run(tmp_path, photos, towers, training=Training(steps=1, batch=64), holdout_captions=0.0)


def test_pictures_without_captions_are_refused(tmp_path, photos, towers):
    for text in photos.rglob("*.txt"):
        text.unlink()
    with pytest.raises(DataError, match="no captioned picture"):
        run(tmp_path, photos, towers)


def test_a_source_without_labels_cannot_be_labelled(tmp_path, photos, towers):
    found = SourceFeatures("here", ["a.png"], [None], [b""], np.zeros((1, 2), np.float32), 0)
    with pytest.raises(DataError, match="here: no labels"):
        labelled(found, None)
    with pytest.raises(DataError, match=r"no label for a\.png"):
        labelled(found, {"b.png": "cat"})


def test_more_dimensions_than_the_sentence_encoder_has_are_refused(tmp_path, photos, towers):
    wide = SIZE.model_copy(update={"width": 24, "embed_dim": 24})
    with pytest.raises(DataError, match="embed_dim 24 is more than the 16 dimensions"):
        run(tmp_path, photos, towers, model=wide)


def test_plans_that_cannot_be_are_refused():
    with pytest.raises(ValidationError):
        Training(steps=0)
    with pytest.raises(ValidationError):
        Training(steps=5, patch_dropout=1.0)


# --- captions and pictures -------------------------------------------------------------------------------------------


def part(name, captions):
    count = len(captions)
    return captioned(
        SourceFeatures(
            name, [str(i) for i in range(count)], captions, [b""] * count, np.zeros((count, 2), np.float32), 0
        )
    )


def test_no_training_text_reads_like_a_held_out_caption():
    captions = number_captions([part("a", [f"thing {i}" for i in range(10)])], 0.3, 0)
    unseen = {name for name, held in zip(captions.names, captions.held, strict=True) if held}
    texts, variants, extra = text_list(captions, [*captions.names, "something else", "THING 1"])
    assert len(unseen) == 3
    assert not {text.casefold() for text in texts} & unseen
    assert "something else" in {texts[row] for row in extra}
    for index, name in enumerate(captions.names):
        if name not in unseen:
            assert all(name in texts[row] for row in variants[index])


def test_a_caption_is_never_read_as_a_template():
    captions = number_captions([part("a", ["{} {0} {self}", "b"])], 0.0, 0)
    texts, _, _ = text_list(captions, [])
    assert "a photo of {} {0} {self}" in texts


def test_pictures_keep_their_transparency_on_a_square(tmp_path):
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    image.paste(Image.new("RGBA", (10, 10), (255, 0, 0, 255)), (0, 0))
    image.save(tmp_path / "a.png")
    out = picture_tensor((tmp_path / "a.png").read_bytes(), 20)
    assert out.shape == (4, 20, 20)
    assert out[:, 10, 4].tolist() == [255, 0, 0, 255]
    assert out[:, 10, 16].tolist() == [255, 255, 255, 0]
    assert out[3, 1].max() == 0  # beside the picture


def test_an_opaque_picture_is_opaque_where_it_is(tmp_path):
    Image.new("RGB", (10, 20), (1, 2, 3)).save(tmp_path / "a.png")
    out = picture_tensor((tmp_path / "a.png").read_bytes(), 20)
    assert out[3, :, 10].min() == 255
    assert out[3, :, 1].max() == 0


def test_the_config_carries_the_marker(tmp_path, photos, towers):
    config = json.loads((run(tmp_path, photos, towers).checkpoint / "open_clip_config.json").read_text("utf8"))
    assert config["runner"]["small"] is True
    assert config["preprocess_cfg"]["size"] == [16, 16]
