"""Steps classify.vocabulary, classify.cased and classify.clip_retrieval on pictures of one colour and on photographs."""

import io
import json

import numpy as np
import pytest
from photographs import ColourEncoder, about, cifar, row
from PIL import Image

from results.tables import arrow_schema, arrow_table
from runner.artifacts import Datasets, ImageFeatures
from runner.context import local_context
from runner.data.sources import FolderSource, PackagedSource
from runner.errors import DataError, Interrupted, ModelRefused
from runner.models.contrastive.vocabulary import read_vocabulary
from runner.nodes.classify.vocabulary_steps import cased, clip_retrieval, vocabulary
from runner.nodes.text_specs import CaptionTexts, FileTexts, WordNetTexts, WordTexts
from runner.steps import load_steps

COLOURS = {"red": (250, 5, 5), "green": (0, 240, 10), "blue": (5, 0, 250)}
THINGS = {"red": "apple", "green": "frog", "blue": "ship"}


class CountingEncoder(ColourEncoder):
    """Counts the texts that it is given."""

    texts = 0

    def encode_texts(self, texts):
        self.texts += len(texts)
        return super().encode_texts(texts)


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run", seed=4)


@pytest.fixture
def pictures(tmp_path):
    """A dataset of three colours, five test pictures each, and one file that is no picture."""
    folder, rows = tmp_path / "photos", []
    folder.mkdir()
    for index, (colour, rgb) in enumerate(COLOURS.items()):
        for n in range(5):
            noise = np.random.default_rng(10 * index + n).integers(-4, 5, (12, 12, 3))
            buffer = io.BytesIO()
            Image.fromarray(np.clip(np.array(rgb) + noise, 0, 255).astype(np.uint8)).save(buffer, "PNG")
            (folder / f"{colour}{n}.png").write_bytes(buffer.getvalue())
            rows.append(row("colours", "test", f"{colour}/{n}", "photos", f"{colour}{n}.png", THINGS[colour], index))
    (folder / "zzz.png").write_bytes(b"no picture")
    rows.append(row("colours", "test", "zzz", "photos", "zzz.png", "apple", 0))
    source = FolderSource(folder=str(folder), name="photos")
    return Datasets([about("colours", list(THINGS.values()))], [source.plain()], arrow_table("dataset_image", rows))


CAPTIONS = [f"{article} {colour} {thing}{end}" for colour, thing in THINGS.items()
            for article, end in (("a", ""), ("the", " on a table"), ("one", ", photo"), ("my", " outside"))]  # fmt: skip


def captions_of(ctx, encoder):
    return vocabulary(ctx, encoder=encoder, texts=WordTexts(words=CAPTIONS))


# --- vocabulary ------------------------------------------------------------------------------------------------------


def test_each_distinct_text_is_embedded_once(ctx):
    encoder = CountingEncoder()
    made = vocabulary(
        ctx, encoder=encoder, texts=[WordTexts(words=["red", " Red ", "blue"]), WordTexts(words=["blue"])]
    )
    found = read_vocabulary(made.index, encoder.identity)
    assert found.texts == ("red", "blue") and encoder.texts == 2
    np.testing.assert_allclose(found.vectors, encoder.encode_texts(["red", "blue"]))
    assert made.encoder == {"name": "colours", "family": "test-colours", "identity": "colours-1", "dim": 64, "logit_scale": 10.0}  # fmt: skip


def test_the_template_is_what_is_embedded(ctx):
    made = vocabulary(ctx, encoder=ColourEncoder(), texts=WordTexts(words=["red"]), template="a blue and {} thing")
    found = read_vocabulary(made.index)
    assert found.texts == ("red",) and found.template == "a blue and {} thing"
    np.testing.assert_allclose(found.vectors, ColourEncoder().encode_texts(["a blue and red thing"]))


def test_an_interruption_loses_one_batch(ctx):
    words = [f"word {n}" for n in range(20)]
    encoder, checks = CountingEncoder(), iter(range(3))

    def stop():
        if next(checks, None) is None:
            raise Interrupted("stopped")

    allow, ctx.stop.check = ctx.stop.check, stop
    with pytest.raises(Interrupted):
        vocabulary(ctx, encoder=encoder, texts=WordTexts(words=words), batch_size=4)
    ctx.stop.check = allow
    before = encoder.texts
    found = read_vocabulary(vocabulary(ctx, encoder=encoder, texts=WordTexts(words=words), batch_size=7).index)
    assert 0 < before < 20 and encoder.texts == 20
    np.testing.assert_allclose(found.vectors, ColourEncoder().encode_texts(words))


def test_captions_and_files_are_texts(ctx, tmp_path):
    (tmp_path / "captioned").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "captioned" / "a.png")
    (tmp_path / "captioned" / "a.txt").write_text("a red\nsquare", "utf8")
    (tmp_path / "more.json").write_text(json.dumps(["a blue one"]), "utf8")
    sources = [
        CaptionTexts(captions=FolderSource(folder=str(tmp_path / "captioned"))),
        FileTexts(file=str(tmp_path / "more.json")),
    ]
    made = vocabulary(ctx, encoder=ColourEncoder(), texts=sources)
    assert read_vocabulary(made.index).texts == ("a red square", "a blue one")


def test_sources_without_texts_are_refused(ctx, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n", "utf8")
    with pytest.raises(DataError, match="no text"):
        vocabulary(ctx, encoder=ColourEncoder(), texts=FileTexts(file=str(tmp_path / "empty.txt")))


@pytest.mark.assets
def test_wordnet_and_captions_of_packaged_pictures(ctx):
    texts = [
        WordNetTexts(wordnet="physical"), CaptionTexts(captions=PackagedSource(packaged="google-emoji", limit=50)),
    ]  # fmt: skip
    found = read_vocabulary(vocabulary(ctx, encoder=ColourEncoder(), texts=texts, batch_size=1024).index)
    assert "automobile" in found.texts and 2000 < len(found.texts) <= 8000


# --- answers ---------------------------------------------------------------------------------------------------------


def test_cased_names_the_thing_of_that_colour(ctx, pictures):
    encoder = CountingEncoder()
    made = captions_of(ctx, encoder)
    before = encoder.texts
    answers = cased(ctx, encoder=encoder, images=pictures, vocabulary=made, captions=4, alpha=0.0)
    table = answers.answers
    assert table.schema == arrow_schema("owc_prediction") and answers.method == "cased"
    rows = table.to_pylist()
    said = {r["sample_id"]: r["prediction"] for r in rows}
    for colour, thing in THINGS.items():  # the caption's own words: the colour and the thing
        assert {said[f"{colour}/{n}"] for n in range(5)} <= {colour, thing}
    assert encoder.texts - before <= 6  # each candidate word once for all pictures
    assert [r["sample_id"] for r in rows] == pictures.images["sample_id"].to_pylist()
    assert {(r["prompt_key"], r["model"], r["seed"], r["n_images"]) for r in rows} == {("cased", "colours", 4, 1)}


def test_a_picture_that_cannot_be_read_is_a_failure_and_no_answer(ctx, pictures):
    made = captions_of(ctx, ColourEncoder())
    rows = clip_retrieval(ctx, encoder=ColourEncoder(), images=pictures, vocabulary=made).answers.to_pylist()
    lost = [r for r in rows if r["failure"]]
    assert [(r["sample_id"], r["prediction"], r["n_items"]) for r in lost] == [("zzz", None, None)]
    assert [item for item, _ in ctx.failures] == ["colours/zzz"]
    assert all(r["prediction"] and r["failure"] is None for r in rows if r["sample_id"] != "zzz")


def test_retrieval_answers_with_the_nearest_text(ctx, pictures):
    encoder = ColourEncoder()
    found = clip_retrieval(ctx, encoder=encoder, images=pictures, vocabulary=captions_of(ctx, encoder), label="nearest")
    assert found.method == "nearest"
    rows = [r for r in found.answers.to_pylist() if not r["failure"]]
    assert {r["method"] for r in rows} == {"nearest"} and {r["prompt_key"] for r in rows} == {"clip_retrieval"}
    for r in rows:
        assert r["sample_id"].partition("/")[0] in r["prediction"]
        assert r["prediction"] == r["judged"] == r["first_item"] and r["prediction"] in CAPTIONS


def test_features_that_are_there_are_used_and_those_missing_are_failures(ctx, pictures):
    import pyarrow as pa

    encoder, made = ColourEncoder(), captions_of(ctx, ColourEncoder())
    fresh = clip_retrieval(ctx, encoder=encoder, images=pictures, vocabulary=made).answers.to_pylist()
    known = [r for r in pictures.images.to_pylist() if r["sample_id"] not in ("zzz", "red/0")]
    data = [Image.open(f"{pictures.corpus[0]['folder']}/{r['uri']}") for r in known]
    features = ImageFeatures(
        pictures.datasets, made.encoder, {"features": encoder.encode_images(data)},
        pa.Table.from_pylist([{k: r[k] for k in ("dataset", "split", "sample_id", "target", "class_index")} for r in known]),
    )  # fmt: skip
    unused = ColourEncoder()
    reused = clip_retrieval(ctx, encoder=unused, images=pictures, vocabulary=made, features=features)
    rows = reused.answers.to_pylist()
    assert unused.embedded == 0
    assert {r["sample_id"] for r in rows if r["failure"]} == {"zzz", "red/0"}
    answers = {r["sample_id"]: r["prediction"] for r in fresh}
    assert all(r["prediction"] == answers[r["sample_id"]] for r in rows if not r["failure"])
    with pytest.raises(DataError, match="another space"):
        foreign = ImageFeatures(features.datasets, made.encoder | {"identity": "x"}, features.features, features.rows)
        clip_retrieval(ctx, encoder=encoder, images=pictures, vocabulary=made, features=foreign)


def test_answers_come_again_and_do_not_hang_on_the_limit(ctx, pictures):
    encoder, made = ColourEncoder(), captions_of(ctx, ColourEncoder())
    every = cased(ctx, encoder=encoder, images=pictures, vocabulary=made, captions=4)
    again = cased(ctx, encoder=encoder, images=pictures, vocabulary=made, captions=4)
    assert every.answers.equals(again.answers)
    some = cased(ctx, encoder=encoder, images=pictures, vocabulary=made, captions=4, limit=6).answers.to_pylist()
    answers = {r["sample_id"]: r["prediction"] for r in every.answers.to_pylist()}
    assert len(some) == 6 and all(r["prediction"] == answers[r["sample_id"]] for r in some)


def test_a_vocabulary_smaller_than_the_number_of_captions_will_do(ctx, pictures):
    made = vocabulary(ctx, encoder=ColourEncoder(), texts=WordTexts(words=["!!!"]))
    rows = cased(ctx, encoder=ColourEncoder(), images=pictures, vocabulary=made, captions=10).answers.to_pylist()
    assert {r["prediction"] for r in rows if not r["failure"]} == {"object"}


def test_what_does_not_fit_is_refused_before_work(ctx, pictures):
    made = captions_of(ctx, ColourEncoder())
    other = ColourEncoder("2")
    with pytest.raises(ModelRefused, match="another encoder"):
        cased(ctx, encoder=other, images=pictures, vocabulary=made)
    with pytest.raises(DataError, match="no picture in the split 'val'"):
        clip_retrieval(ctx, encoder=other.__class__(), images=pictures, vocabulary=made, split="val")
    assert other.embedded == 0


@pytest.mark.assets
def test_photographs_are_named(ctx):
    encoder, images = ColourEncoder(), cifar()
    words = vocabulary(ctx, encoder=encoder, texts=WordTexts(words=["a blue ship", "a green frog", "a grey truck"]))
    rows = cased(ctx, encoder=encoder, images=images, vocabulary=words, captions=1, limit=9).answers.to_pylist()
    assert len(rows) == 9 and all(r["prediction"] in ["blue", "ship", "green", "frog", "grey", "truck"] for r in rows)


def test_the_steps_are_registered():
    steps = load_steps()
    assert steps["classify.vocabulary"].outputs["index"].kind == "folder"
    for name in ("classify.cased", "classify.clip_retrieval"):
        assert (
            steps[name].output.__name__ == "OpenAnswers" and {"features", "label", "limit"} <= steps[name].params.keys()
        )
