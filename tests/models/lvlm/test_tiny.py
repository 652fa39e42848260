"""The small LLaVA: names of weights, positions, and a folder that the library opens without this package."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM

from runner.errors import ModelRefused
from runner.models.lvlm.loading import Lvlm
from runner.models.lvlm.tiny import (
    Look,
    compose,
    merged,
    read_weights,
    resized_positions,
    set_projector,
    vision_tower,
    write,
)
from tests.chat.tiny_vlm import END, PAD, START, _text, _tokenizer

OPEN = """
import json, sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1])
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32)
turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a cat"}]}]
prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
inputs = processor(text=prompt, images=Image.new("RGB", (50, 30), (200, 30, 30)), return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0, -1]
print(json.dumps({"prompt": prompt, "ids": inputs.input_ids[0].tolist(), "logits": logits.tolist(),
                  "foreign": any(name.startswith("runner") for name in sys.modules)}))
"""


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    net = timm.models.vision_transformer.VisionTransformer(
        img_size=70, patch_size=14, embed_dim=64, depth=2, num_heads=1, init_values=0.5, num_classes=0
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1)
    return net.eval(), {name: value.clone() for name, value in net.state_dict().items()}


def language(seed=0):
    tokenizer = _tokenizer((PAD, START, END))
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**_text(tokenizer, tie_word_embeddings=True))), tokenizer


def made(weights, **look):
    text, tokenizer = language()
    return compose(text, tokenizer, weights[1], Look(image_size=42, **look))


def inputs_of(processor):
    from PIL import Image

    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a cat"}]}]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
    return processor(text=prompt, images=Image.new("RGB", (50, 30), (200, 30, 30)), return_tensors="pt")


def test_the_tower_gives_what_timm_gives(weights):
    net, named = weights
    pixels = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        theirs, ours = net.forward_features(pixels), vision_tower(named, 70).eval()(pixels).last_hidden_state
    assert torch.allclose(theirs, ours, atol=1e-4)


def test_positions_are_those_the_stock_model_would_take():
    from transformers import Dinov2Config, Dinov2Model

    stock = Dinov2Model(
        Dinov2Config(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, image_size=70, patch_size=14)
    )
    torch.nn.init.normal_(stock.embeddings.position_embeddings)
    theirs = stock.embeddings.interpolate_pos_encoding(torch.zeros(1, 10, 64), 42, 42)
    assert torch.allclose(theirs, resized_positions(stock.embeddings.position_embeddings, 3), atol=1e-6)


@pytest.mark.large
def test_another_process_opens_the_folder_and_gets_the_same_logits(weights, tmp_path):
    model, processor = made(weights)
    with torch.no_grad():
        here = model(**inputs_of(processor)).logits[0, -1]
    write(model, processor, tmp_path / "model", "float32")
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "model")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert torch.allclose(torch.tensor(told["logits"]), here, atol=1e-5)
    assert told["prompt"] == "<|im_start|>user\n<image>a cat<|im_end|>\n<|im_start|>assistant\n" and not told["foreign"]
    assert told["ids"].count(model.config.image_token_id) == 9


def test_the_folder_is_read_with_the_same_logits(weights, tmp_path):
    model, processor = made(weights)
    write(model, processor, tmp_path, "float32")
    again, reader = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        here, there = model(**inputs_of(processor)).logits, again(**inputs_of(reader)).logits
    assert torch.allclose(here, there, atol=1e-5)
    told = Lvlm(tmp_path)
    assert told.small and "not for claims" in told.notes[0]


def test_the_picture_and_the_block_that_is_read_count(weights):
    (last, processor), (before, _) = made(weights), made(weights, feature_layer=-2)
    inputs = inputs_of(processor)
    other = {**inputs, "pixel_values": -inputs["pixel_values"]}
    with torch.no_grad():
        logits = [m(**i).logits[0, -1] for m, i in ((last, inputs), (last, other), (before, inputs))]
    assert not torch.allclose(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])


def test_one_seed_one_projector(weights):
    state = [made(weights, seed=seed)[0].model.multi_modal_projector.state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])
    assert not torch.equal(state[0]["linear_1.weight"], state[2]["linear_1.weight"])


def test_a_projector_and_an_adapter_are_merged(weights, tmp_path):
    (source, processor), (target, _) = made(weights, seed=1), made(weights, seed=2)
    save_file(
        {f"model.multi_modal_projector.{n}": v for n, v in source.model.multi_modal_projector.state_dict().items()},
        tmp_path / "projector.safetensors",
    )
    set_projector(target, read_weights(tmp_path / "projector.safetensors"))
    adapted = get_peft_model(
        source, LoraConfig(r=2, target_modules=r".*language_model.*(q_proj|down_proj)", init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    inputs = inputs_of(processor)
    with torch.no_grad():
        wanted, plain = adapted(**inputs).logits, target(**inputs).logits
        found = merged(target, tmp_path / "adapter")(**inputs).logits
    assert torch.allclose(found, wanted, atol=1e-4) and not torch.allclose(plain, wanted, atol=1e-2)


def test_what_does_not_fit_is_refused(weights, tmp_path):
    model, _ = made(weights)
    with pytest.raises(ModelRefused, match="projector"):
        set_projector(model, {"linear_1.weight": torch.zeros(3, 3)})
    with pytest.raises(ModelRefused, match="adapter_config"):
        merged(model, tmp_path)
    with pytest.raises(ModelRefused, match="multiple"):
        Look(image_size=50)
    with pytest.raises(ModelRefused, match="DINOv2"):
        vision_tower({name: value for name, value in weights[1].items() if not name.endswith("ls1.gamma")}, 42)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelRefused, match=r"bad\.safetensors"):
        read_weights(tmp_path / "bad.safetensors")
