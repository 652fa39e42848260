"""A zero-shot classifier of debiased vectors: the answers of the evaluation, and what does not fit."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from steps_material import bird_prompts, exact_sae, load_clip, write_clip

from runner.context import local_context
from runner.errors import ModelRefused
from runner.models.classifier.providers import ZeroShot
from runner.models.registry import Services
from runner.nodes.sem.methods_specs import Methods
from runner.nodes.sem.steps import texts

LABELS = ["landbird", "waterbird"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("classifier")


@pytest.fixture(scope="module")
def clip(home):
    return load_clip(write_clip(home / "clip"))


@pytest.fixture(scope="module")
def debiased(clip, home):
    specs = TypeAdapter(Methods).validate_python(["vanilla", "sem", "prism_mini"])
    sae = exact_sae(clip, home / "sae")
    return texts(local_context(home / "texts"), clip=clip, prompts=bird_prompts(), sae=sae, methods=specs)


def load(clip, vectors, **fields):
    fields = {"labels": LABELS, "method": "sem_bi"} | fields
    config = ZeroShot.model_validate(
        {"provider": "zero_shot", "encoder": "$clip", "vectors": "$made.vectors", **fields}
    )
    return config.load(Services(linked={"encoder": clip, "vectors": vectors}))


@pytest.fixture
def batch():
    return np.random.default_rng(0).normal(0, 1, (5, 3, 32, 32)).astype(np.float32)


def test_logits_are_scaled_cosines_to_the_debiased_vectors(clip, debiased, batch):
    images = clip.encode_prepared(batch)
    for method in ("vanilla", "sem_bi"):
        found = load(clip, debiased.vectors, method=method).logits(batch)
        np.testing.assert_allclose(found, clip.logit_scale * images @ debiased.vectors[method].T, atol=1e-4)
    prompts = ZeroShot(encoder="$clip", labels=LABELS).load(Services(linked={"encoder": clip}))
    np.testing.assert_allclose(
        prompts.logits(batch), load(clip, debiased.vectors, method="vanilla").logits(batch), atol=1e-4
    )


def test_images_are_mapped_where_the_method_does_so(clip, debiased, batch):
    mapped = clip.encode_prepared(batch) @ debiased.vectors["prism_mini/image_map"]
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    expected = clip.logit_scale * mapped @ debiased.vectors["prism_mini"].T
    np.testing.assert_allclose(load(clip, debiased.vectors, method="prism_mini").logits(batch), expected, atol=1e-4)
    each = debiased.vectors | {"prism_mini/image_map": np.stack([debiased.vectors["prism_mini/image_map"]] * 2)}
    np.testing.assert_allclose(load(clip, each, method="prism_mini").logits(batch), expected, atol=1e-4)


def test_identities_follow_the_vectors(clip, debiased):
    names = {load(clip, debiased.vectors, method=method).identity for method in ("vanilla", "sem_bi", "prism_mini")}
    assert len(names) == 3
    assert "sem_bi" in load(clip, debiased.vectors).name


def test_vectors_that_do_not_fit_are_refused(clip, debiased, home):
    with pytest.raises(ModelRefused, match="has 2 vectors of 16 numbers, for 3 labels"):
        load(clip, debiased.vectors, labels=[*LABELS, "gull"])
    with pytest.raises(ModelRefused, match="there is no method 'sem'"):
        load(clip, debiased.vectors, method="sem")
    with pytest.raises(ModelRefused, match="debiased for another encoder"):
        load(load_clip(write_clip(home / "other", seed=1)), debiased.vectors)
    with pytest.raises(ModelRefused, match="there is no method"):
        load(clip, debiased.vectors, method="prism_mini/image_map")


@pytest.mark.parametrize("fields", [{"method": "x"}, {"vectors": "$a.vectors"}])
def test_vectors_and_method_go_together(fields):
    with pytest.raises(ValidationError, match="give vectors and method"):
        ZeroShot.model_validate({"encoder": "$clip", "labels": LABELS, **fields})
    with pytest.raises(ValidationError, match="templates would be ignored"):
        ZeroShot.model_validate(
            {"encoder": "$c", "labels": LABELS, "vectors": "$a.vectors", "method": "x", "templates": ["{}"]}
        )
