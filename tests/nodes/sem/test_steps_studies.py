"""The studies on texts: leakage of an attribute into a task, content preservation and bias neutralisation."""

import numpy as np
import pytest
from pydantic import TypeAdapter
from steps_material import bird_prompts, exact_sae, load_clip, write_clip

from runner.context import local_context
from runner.errors import DataError
from runner.nodes.sem.methods_specs import Methods
from runner.nodes.sem.steps import cp_bn, disentanglement
from runner.nodes.sem.texts_prism import filled, sentences

SUBJECTS = ["duck", "owl", "heron", "sparrow"]
TEMPLATES = [
    f"{start} {{value}} {{subject}}" for start in ("a", "a photo of a", "here is the", "look at a", "this is a")
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(write_clip(tmp_path_factory.mktemp("studies") / "clip"))


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


def methods(*specs):
    return TypeAdapter(Methods).validate_python(list(specs))


def test_neutralisation_is_the_cosine_of_the_values_and_preservation_that_to_the_neutral_text(ctx, clip, tmp_path):
    asked = {"clip": clip, "prompts": bird_prompts(), "values": ["land", "water"], "subjects": SUBJECTS}
    made = cp_bn(
        ctx,
        sae=exact_sae(clip, tmp_path / "sae"),
        methods=methods("vanilla", "sem", {"sem": {"variant": "i"}}),
        **asked,
    )
    rows = {r["method"]: r for r in made.scores.to_pylist()}
    named = np.stack(
        [clip.encode_texts([f"A photo of a {value} {subject}." for value in ("land", "water")]) for subject in SUBJECTS]
    ).astype(np.float64)
    plain = clip.encode_texts([f"A photo of {'an' if s == 'owl' else 'a'} {s}." for s in SUBJECTS]).astype(np.float64)
    assert rows["vanilla"]["bn"] == pytest.approx(np.mean((named[:, 0] * named[:, 1]).sum(1)), abs=1e-5)
    assert rows["vanilla"]["cp"] == pytest.approx(np.mean((named * plain[:, None]).sum(-1)), abs=1e-5)
    assert rows["sem_i"]["bn"] == pytest.approx(1) and rows["vanilla"]["n"] == 4


def test_every_kind_of_text_method_can_be_studied(ctx, clip, tmp_path):
    made = cp_bn(
        ctx, clip=clip, prompts=bird_prompts(), sae=exact_sae(clip, tmp_path / "sae"), values=["land", "water"],
        subjects=SUBJECTS, methods=methods("vanilla", "orth_proj", "orth_cali", "bend_vlm", "prism_mini", {"sae_top_k": {"k": 2}}),
    )  # fmt: skip
    rows = {r["method"]: r["bn"] for r in made.scores.to_pylist()}
    # Candidates differ in the value only, so calibration draws them together.
    assert rows["orth_cali"] > rows["vanilla"] and rows["bend_vlm"] == pytest.approx(1)


def test_leakage_is_told_for_embeddings_and_latents(ctx, clip, tmp_path):
    made = disentanglement(
        ctx, clip=clip, sae=exact_sae(clip, tmp_path / "sae"), attribute="place", values=["land", "water"], task="bird",
        subjects=SUBJECTS, templates=TEMPLATES, folds=5,
    )  # fmt: skip
    rows = {r["features"]: r for r in made.study.to_pylist()}
    assert set(rows) == {"clip", "sae"}
    for row in rows.values():
        assert (row["n"], row["folds"], row["chance"], row["task"]) == (40, 5, 0.5, "bird")
        assert 0 <= row["acc_leak"] <= 1 and (row["d"] is None or 0 <= row["d"] <= 1)
    again = disentanglement(
        ctx, clip=clip, attribute="place", values=["land", "water"], task="bird", subjects=SUBJECTS, templates=TEMPLATES
    )
    assert again.study.to_pylist() == [rows["clip"]]


def test_studies_that_cannot_be_made_are_refused(ctx, clip):
    asked = {"clip": clip, "attribute": "place", "task": "bird", "templates": TEMPLATES}
    with pytest.raises(DataError, match="values: 'land' stands twice"):
        disentanglement(ctx, values=["land", "land"], subjects=SUBJECTS, **asked)
    with pytest.raises(DataError, match="20 folds need"):
        disentanglement(ctx, values=["land", "water"], subjects=SUBJECTS, folds=20, **asked)
    with pytest.raises(DataError, match="subjects: 'owl' stands twice"):
        cp_bn(
            ctx,
            clip=clip,
            prompts=bird_prompts(),
            methods=methods("vanilla"),
            values=["a", "b"],
            subjects=["owl", "owl"],
        )


def test_words_enter_scenes_as_data():
    words = {"target": "{bias} owl", "bias": "sea"}
    assert filled("A {target} near an {bias}, a {place}", words) == "A {bias} owl near a sea, a {place}"
    assert (
        filled("An {target}", {"target": "eagle"}) == "An eagle"
        and filled("data {target}", {"target": "x"}) == "data x"
    )
    said = [filled("a {target} and An {target}", {"target": word}) for word in ("university", "hour", "umbrella")]
    assert said == ["a university and A university", "an hour and An hour", "an umbrella and An umbrella"]


def test_sentences_change_one_thing_at_a_time():
    made = sentences(
        ["{target} at {bias}", "{bias}: {target}"], [["duck", "gull"], ["owl"]], [["land"], ["sea", "lake"]], 30, 0
    )
    for positives, negatives in zip(*made, strict=True):
        assert len(positives) == len(negatives) == 2
        assert len({text for text in positives if "duck" in text}) in (0, 2)
        assert any(text in positives for text in negatives)
    assert made == sentences(
        ["{target} at {bias}", "{bias}: {target}"], [["duck", "gull"], ["owl"]], [["land"], ["sea", "lake"]], 30, 0
    )
