"""Parts of vision-language models are found in every layout, or the refusal says what was tried."""

from __future__ import annotations

import pytest

from runner.errors import ModelRefused
from runner.models.lvlm.anatomy import anatomy, text_configs
from tests.nodes.pruning.tiny_lvlms import LAYERS, TEXTS, WRAPPED, network

PLACES = {
    "llava": ("model.language_model", "model.multi_modal_projector", "model.vision_tower", "llama"),
    "qwen2_vl": ("model.language_model", "model.visual.merger", "model.visual", "qwen2_vl_text"),
    "internvl": ("model.language_model", "model.multi_modal_projector", "model.vision_tower", "qwen2"),
    "smolvlm": ("model.text_model", "model.connector", "model.vision_model", "llama"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_models_have_a_decoder_and_no_eyes(name: str) -> None:
    model = network(name)
    found = anatomy(model)
    assert (found.decoder_path, found.decoder, found.layers) == ("model", model.model, model.model.layers)
    assert found.lm_head is model.lm_head
    assert found.projector is None
    assert found.vision is None
    assert found.norm is getattr(model.model, "final_layernorm" if name == "phi" else "norm")
    assert found.architecture == name.split("_")[0]


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_models_show_all_their_parts(name: str) -> None:
    model = network(name)
    found = anatomy(model)
    decoder, projector, vision, architecture = PLACES[name]
    assert (found.decoder_path, found.projector_path, found.vision_path) == (decoder, projector, vision)
    assert found.architecture == architecture
    assert len(found.layers) == LAYERS
    assert found.projector is model.get_submodule(projector)
    assert found.lm_head is model.lm_head
    assert all(config.num_hidden_layers == LAYERS for config in text_configs(model, found))


def test_a_bare_decoder_is_its_own() -> None:
    bare = network("llama").model
    assert anatomy(bare).decoder is bare
    assert anatomy(bare).lm_head is None


def test_a_named_decoder_is_taken_and_a_wrong_name_refused() -> None:
    model = network("llava")
    assert anatomy(model, "model.language_model").decoder is model.model.language_model
    with pytest.raises(ModelRefused, match=r"tried model\.language\.layers"):
        anatomy(model, "model.language")


def test_what_has_no_layers_is_refused_with_all_that_was_tried() -> None:
    with pytest.raises(ModelRefused, match=r"tried model\.layers, language_model\.model\.layers"):
        anatomy(network("llava").model.multi_modal_projector)


def test_mixtures_of_experts_are_refused() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    from tests.nodes.pruning.tiny_lvlms import TEXT

    with pytest.raises(ModelRefused, match="mixture of 4 experts"):
        anatomy(MixtralForCausalLM(MixtralConfig(**{**TEXT, "num_local_experts": 4, "num_hidden_layers": 1})))
