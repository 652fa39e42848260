"""Steps ``leakage.answer`` and ``leakage.locality``: planted predictors whose response is known."""

import numpy as np
import pytest
from locality_material import PARTS, ColourEncoder, Reader, quadrant_images, rows_by
from scipy.special import expit, softmax

from runner.artifacts import ConceptAnswers
from runner.context import local_context
from runner.data.parts.answers import answers_of
from runner.errors import StepError
from runner.nodes.leakage.locality_answers import probabilities
from runner.nodes.leakage.locality_steps import YesNoTexts, answer, locality, mask_pictures

OWN = np.eye(4)
WHOLE = np.full((4, 4), 0.25)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hidden")
    images = quadrant_images(
        folder / "data", 40, extra={"warm": [i % 2 for i in range(40)], "wide": [i % 3 > 0 for i in range(40)]},
        owners={"warm": "global", "wide": ["top left", "top right"]},
    )  # fmt: skip
    return mask_pictures(local_context(folder / "run"), images=images, images_per_pair=15, draws=2)


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run", step="step")


def scored(ctx, *answers, resamples=200):
    return locality(ctx, answers=list(answers), resamples=resamples)


def test_a_predictor_of_its_own_part_is_local_and_right(ctx, hidden):
    told = answer(ctx, predictor=Reader(OWN), pictures=hidden)
    found = scored(ctx, told)
    rows = rows_by(found.locality, "concept", "measure")
    score = rows[None, "locality_score"]
    assert score["value"] == 1 and score["ci_low"] == score["ci_high"] == 1
    assert rows[None, "other"]["value"] == 0 < rows[None, "own"]["ci_low"] <= rows[None, "own"]["value"]
    assert rows[None, "accuracy"]["value"] == rows[None, "auroc"]["value"] == 1
    assert rows["red top left", "locality_score"]["value"] == 1
    assert rows[None, "accuracy"]["n"] == len(set(hidden.views["sample_id"].to_pylist()))
    matrix = rows_by(found.response, "concept_part", "masked_part")
    assert len(matrix) == 16  # warm and wide are no labels of this predictor
    for (q, k), row in matrix.items():
        assert (row["mean_abs_change"] > 0.2) if q == k else row["mean_abs_change"] == 0
        assert row["n_concepts"] == 1 and row["ci_low"] <= row["mean_abs_change"] <= row["ci_high"]
        assert abs(row["mean_change"]) <= row["mean_abs_change"]


def test_a_predictor_of_the_whole_picture_is_not_local(ctx, hidden):
    rows = rows_by(scored(ctx, answer(ctx, predictor=Reader(WHOLE), pictures=hidden)).locality, "concept", "measure")
    score = rows[None, "locality_score"]
    assert score["value"] == pytest.approx(0.5, abs=0.05) and score["ci_low"] < 0.5 < score["ci_high"]


def test_values_are_the_classifiers_probabilities_of_each_picture_once(ctx, hidden):
    reader = Reader(WHOLE)
    told = answer(ctx, predictor=reader, pictures=hidden)
    assert reader.pictures <= len(set(hidden.views["uri"].to_pylist()))
    assert len(told.answers) == 4 * len(hidden.views)
    first = told.answers.slice(0, 4).to_pylist()
    assert [row["concept"] for row in first] == [f"red {part}" for part in PARTS]
    assert len({row["value"] for row in first}) == 1 and 0 < first[0]["value"] < 1
    again = answer(ctx, predictor=reader, pictures=hidden, label="twin")
    assert reader.pictures <= len(set(hidden.views["uri"].to_pylist()))  # from the cache
    assert again.predictor == {"name": "twin", "identity": reader.identity, "kind": "classifier"}


def test_labels_of_another_name_and_a_softmax(ctx, hidden):
    reader = Reader(np.eye(4)[:2], ["a", "b"], head="softmax")
    told = answer(ctx, predictor=reader, pictures=hidden, concepts={"red top left": "a", "red top right": "b"})
    by_view = {}
    for row in told.answers.to_pylist():
        by_view.setdefault((row["sample_id"], row["masked_part"], row["draw"]), []).append(row["value"])
    assert all(sum(values) == pytest.approx(1) for values in by_view.values())
    found = rows_by(scored(ctx, told).locality, "concept", "measure")
    assert found[None, "locality_score"]["value"] < 0.9  # of two rivals, each depends on both


def test_probabilities_are_those_of_scipy():
    logits = np.random.default_rng(0).normal(0, 30, (5, 7))
    np.testing.assert_allclose(probabilities(logits, "softmax"), softmax(logits, 1), rtol=1e-12)
    np.testing.assert_allclose(probabilities(logits, "multilabel"), expit(logits), rtol=1e-9, atol=1e-16)


def test_an_encoder_answers_from_texts_of_yes_and_no(ctx, hidden):
    concepts = {f"red {part}": YesNoTexts(yes=[f"red {part}", f"red {part}"], no=[f"blue {part}"]) for part in PARTS}
    told = answer(ctx, predictor=ColourEncoder(), pictures=hidden, concepts=concepts)
    assert told.predictor["kind"] == "zero-shot"
    rows = rows_by(scored(ctx, told).locality, "concept", "measure")
    assert rows[None, "accuracy"]["value"] == 1
    assert rows[None, "locality_score"]["value"] > 0.9  # other quadrants act through the unit norm alone
    row = told.answers.slice(0, 1).to_pylist()[0]
    encoder = ColourEncoder()
    from PIL import Image

    with Image.open(hidden.pictures / hidden.views["uri"][0].as_py()) as image:
        vector = encoder.encode_images([image.convert("RGB")])[0]
    sides = encoder.encode_texts(["red top left", "blue top left"])
    assert row["value"] == pytest.approx(softmax(encoder.logit_scale * sides @ vector)[0], rel=1e-5)


def test_concepts_of_no_part_or_of_several_are_shown_and_not_scored(ctx, hidden):
    mix = np.concatenate([OWN, [[1, 1, 1, 1], [1, 0, 0, 0]]])
    reader = Reader(mix, [*(f"red {part}" for part in PARTS), "warm", "wide"])
    found = scored(ctx, answer(ctx, predictor=reader, pictures=hidden))
    matrix = rows_by(found.response, "concept_part", "masked_part")
    assert len(matrix) == 24 and matrix["global", "bottom left"]["mean_abs_change"] > 0
    assert matrix["top left+top right", "top left"]["mean_abs_change"] > 0
    assert matrix["top left+top right", "bottom left"]["mean_abs_change"] == 0
    rows = rows_by(found.locality, "concept", "measure")
    assert rows[None, "locality_score"]["value"] == 1
    assert ("warm", "own") not in rows and rows["warm", "accuracy"]["value"] is not None


def test_excluded_attributes_have_rows_and_do_not_count(ctx, hidden):
    from dataclasses import replace

    mix = OWN.copy()
    mix[0] = [0, 1, 0, 0]  # reads the wrong quadrant
    told = answer(ctx, predictor=Reader(mix), pictures=hidden)
    told = replace(told, about=told.about | {"excluded": {"red top left": "its mask tells it"}})
    found = scored(ctx, told)
    rows = rows_by(found.locality, "concept", "measure")
    assert rows[None, "locality_score"]["value"] == 1 and rows["red top left", "locality_score"]["value"] == 0
    assert {row["concept_part"] for row in found.response.to_pylist()} == set(PARTS[1:])


def by_hand(values, hidden_parts, visible, truth=()):
    """Answers of three pictures as plain tables: {(sample, part or None): value of concept ``a`` of part p, or None}."""
    import pyarrow as pa

    from results.tables import arrow_table
    from runner.nodes.leakage.locality_pictures import TRUTH, VISIBLE

    about = {"dataset": "d", "attributes": ["a", "b"], "owners": {"a": "p", "b": "q"}, "excluded": {}}
    rows = [
        {
            "dataset": "d", "predictor": "m", "sample_id": sample, "masked_part": part, "draw": -1 if part is None else 0,
            "concept": concept, "value": value, "reason": None if value is not None else "unreadable",
        }
        for (sample, part, concept), value in values.items()
    ]  # fmt: skip
    pairs = pa.Table.from_pylist(
        [dict(zip(VISIBLE.names, (s, q, k, 0, None), strict=True)) for s, q, k in visible], schema=VISIBLE
    )
    known = pa.Table.from_pylist([dict(zip(TRUTH.names, row, strict=True)) for row in truth], schema=TRUTH)
    return ConceptAnswers(
        about, {"parts": hidden_parts}, {"name": "m", "identity": "", "kind": "chat"},
        arrow_table("leak_masked_answer", rows), pairs, known,
    )  # fmt: skip


def test_by_hand_with_missing_answers_and_an_invisible_part(ctx):
    values = {
        ("1", None, "a"): 1.0, ("1", None, "b"): 0.0, ("1", "p", "a"): 0.0, ("1", "p", "b"): 0.0, ("1", "q", "a"): 1.0,
        ("1", "q", "b"): 1.0, ("2", None, "a"): 1.0, ("2", None, "b"): None, ("2", "p", "a"): None, ("2", "p", "b"): 1.0,
        ("3", None, "a"): 0.0, ("3", None, "b"): 1.0, ("3", "p", "a"): 0.0, ("3", "p", "b"): 0.0,
    }  # fmt: skip
    visible = [(s, *pair) for s in ("1", "2") for pair in (("p", "p"), ("p", "q"), ("q", "p"), ("q", "q"))]
    truth = [("1", "a", 1), ("2", "a", 0), ("3", "a", 0), ("1", "b", 0), ("3", "b", 0)]
    found = scored(ctx, by_hand(values, ["p", "q"], [*visible, ("3", "p", "p")], truth))
    matrix = rows_by(found.response, "concept_part", "masked_part")
    # Picture 3 does not show q, so that its change of b counts nowhere; picture 2 has no answer to compare with.
    assert {key: (row["mean_abs_change"], row["n"]) for key, row in matrix.items()} == {
        ("p", "p"): (0.5, 2), ("p", "q"): (0.0, 1), ("q", "p"): (0.0, 1), ("q", "q"): (1.0, 1),
    }  # fmt: skip
    assert matrix["p", "p"]["mean_change"] == -0.5 and matrix["p", "p"]["std"] == pytest.approx(0.5**0.5)
    assert matrix["q", "q"]["std"] is None  # one picture has no spread
    rows = rows_by(found.locality, "concept", "measure")
    assert rows[None, "own"]["value"] == 0.75 and rows[None, "locality_score"]["value"] == 1
    assert rows["a", "accuracy"]["value"] == pytest.approx(2 / 3) and rows["a", "accuracy"]["n"] == 3
    assert rows["a", "auroc"]["value"] == pytest.approx(0.75)  # 1 against 1 is a tie, 1 against 0 is right
    assert rows["b", "auroc"]["value"] is None and rows["b", "accuracy"]["value"] == pytest.approx(0.5)
    assert rows[None, "auroc"]["value"] == pytest.approx(0.75)


def test_a_pair_without_pictures_is_null_and_said(ctx):
    values = {("1", None, "a"): 1.0, ("1", "p", "a"): 0.5}
    found = scored(ctx, by_hand(values, ["p", "q"], [("1", "p", "p")]))
    matrix = rows_by(found.response, "concept_part", "masked_part")
    assert (
        matrix["p", "q"] | {"n": 0, "n_concepts": 0} == matrix["p", "q"] and matrix["p", "q"]["mean_abs_change"] is None
    )
    rows = rows_by(found.locality, "concept", "measure")
    assert rows[None, "locality_score"]["value"] is None and rows[None, "own"]["value"] == 0.5
    assert any(
        "no locality score, since no picture was answered with another part" in m["text"] for m in ctx.journal.messages
    )


def test_a_predictor_that_never_moves_has_no_score(ctx, hidden):
    found = scored(ctx, answer(ctx, predictor=Reader(np.zeros((4, 4))), pictures=hidden))
    assert rows_by(found.locality, "concept", "measure")[None, "locality_score"]["value"] is None
    assert any("changed no answer at all" in message["text"] for message in ctx.journal.messages)


def test_unanswered_pictures_are_null_with_a_reason(hidden):
    uris = sorted(set(hidden.views["uri"].to_pylist()))
    values = {uris[0]: np.array([0.5, np.nan])}
    told = answers_of(hidden, {"name": "m", "kind": "chat"}, ["warm", "wide"], values, {(uris[0], 1): "said maybe"})
    rows = told.answers.to_pylist()
    assert {(r["value"], r["reason"]) for r in rows} == {(0.5, None), (None, "said maybe"), (None, "no answer")}
    sample = hidden.views["sample_id"][0].as_py()
    only = answers_of(hidden, {"name": "m"}, ["warm"], {}, {}, only=frozenset({sample}))
    assert set(only.answers["sample_id"].to_pylist()) == {sample}


def test_refused_inputs_say_where(ctx, hidden):
    encoder, reader = ColourEncoder(), Reader(OWN)
    with pytest.raises(StepError, match="no attribute 'red top lift'") as error:
        answer(ctx, predictor=reader, pictures=hidden, concepts={"red top lift": "a"})
    assert "red top left" in str(error.value)
    with pytest.raises(StepError, match="has no label 'rot'"):
        answer(ctx, predictor=reader, pictures=hidden, concepts={"warm": "rot"})
    with pytest.raises(StepError, match="no label with the name of an attribute"):
        answer(ctx, predictor=Reader(OWN, list("abcd")), pictures=hidden)
    with pytest.raises(StepError, match="a classifier has labels"):
        answer(ctx, predictor=reader, pictures=hidden, concepts={"warm": YesNoTexts(yes=["a"], no=["b"])})
    for concepts in (None, {"warm": "a"}):
        with pytest.raises(StepError, match="an image-text encoder needs texts"):
            answer(ctx, predictor=encoder, pictures=hidden, concepts=concepts)
    told = answer(ctx, predictor=reader, pictures=hidden)
    with pytest.raises(StepError, match="two of the predictors are 'reader'"):
        locality(ctx, answers=[told, told])
    with pytest.raises(StepError, match="empty list"):
        locality(ctx, answers=[])
