"""A LLaVA of some hundred thousand random parameters, and coloured squares behind grey ones: what learning to ask can be tried on."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image

from results.tables import arrow_table
from runner.artifacts import Conversations
from runner.artifacts.proactive import ProactiveSamples
from runner.context import local_context
from runner.models.lvlm.loading import Lvlm
from runner.models.lvlm.tiny import TEMPLATE
from runner.nodes.finetuning.specs import Lora, Optim
from runner.nodes.finetuning.steps import finetune
from runner.nodes.proactive.env import make_env, option_kind
from runner.nodes.proactive.grpo_specs import GrpoSpec, RewardSpec
from runner.nodes.proactive.likelihood import option_probabilities
from runner.nodes.proactive.pictures import FramePictures, place_of
from runner.nodes.proactive.records import parse_record
from runner.nodes.proactive.rendering import render
from runner.nodes.proactive.samples import cases_of, sample_row
from runner.nodes.proactive.training_steps import conversations, train

COLOURS: dict[str, tuple[int, int, int]] = {
    "Red": (220, 30, 30), "Green": (30, 200, 30), "Blue": (30, 30, 220), "Yellow": (220, 220, 30), "White": (245, 245, 245),
    "Black": (10, 10, 10),
}  # fmt: skip
GREY = (128, 128, 128)
ASK, ABSTAIN = "Uncover it.", "I cannot tell."
SIDE, PATCH = 28, 14
START, END, PICTURE = "<|im_start|>", "<|im_end|>", "<image>"


def samples(folder: Path, count: int = 64, *, split: str = "train", seed: int = 0) -> ProactiveSamples:
    """``count`` squares of QuickDraw's dynamics with two frames: grey, then coloured. Four samples show the same options in the same
    order, each with another of them behind the grey: before it is uncovered, nothing tells which."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, rows, shown, requests = random.Random(seed), [], [""], [""]
    for number in range(count):
        if number % 4 == 0:
            shown, requests = chance.sample(list(COLOURS), 4), chance.sample([ASK, ABSTAIN], 2)
        colour = shown[number % 4]
        data = {
            "id": number, "image_template": f"{number}-{{image}}.png", "first_image": 0, "num_images": 2, "reference_image": 1,
            "prompt": "Which colour?", "options": requests, "categories": [f"{name}." for name in shown], "answer": f"{colour}.",
        }  # fmt: skip
        for frame, pixels in enumerate((GREY, COLOURS[colour])):
            Image.new("RGB", (SIDE, SIDE), pixels).save(folder / f"{number}-{frame:04d}.png")
        rows.append(sample_row(parse_record("QD", data), source_id="squares", split=split, visible=[0.0, 1.0]))
    about = {"name": "squares", "source": "made", "scenarios": ["QD"], "licences": {}, "notes": [], "filter": None}
    return ProactiveSamples(about, [{"folder": str(folder), "name": "squares"}], arrow_table("pb_samples", rows))


def prompts(made: ProactiveSamples) -> list[str]:
    """Texts of all first turns."""
    records = [parse_record(row["scenario"], json.loads(row["record"])) for row in made.samples.to_pylist()]
    return [render(env.observation(env.initial())) for env in map(make_env, records)]


def make_model(folder: Path, lines: Sequence[str], *, seed: int = 0, hidden: int = 64) -> Path:
    """A LLaVA in the stock layout: CLIP tower and Llama of two layers each, random, and a tokenizer that knows the words of ``lines``."""
    import torch
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = _tokenizer(lines)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.1}
    vision = {"hidden_size": 32, "intermediate_size": 64, "patch_size": PATCH, "image_size": SIDE, **sizes}
    text = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "max_position_embeddings": 512, **sizes}
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **vision},
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), "tie_word_embeddings": False, **ids, **text},
        image_seq_length=(SIDE // PATCH) ** 2 + 1, vision_feature_select_strategy="full",
        image_token_index=tokenizer.convert_tokens_to_ids(PICTURE),
    ))  # fmt: skip
    for name, value in ids.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    return folder


def _tokenizer(lines: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", START, END, PICTURE]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(
        [*lines, "user assistant", *(f"{name}." for name in COLOURS), ASK, ABSTAIN] * 4, trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token="<|endoftext|>", additional_special_tokens=[PICTURE]
    )


# --- a whole course --------------------------------------------------------------------------------------------------

MIXTURE: dict[Any, float] = {"abstain": 0.7, "guess": 0.15, "ask": 0.15}


def warmed(
    home: Path, made: ProactiveSamples, *, seed: int, steps: int, hidden: dict[Any, float] = MIXTURE, slips: float = 0.0
) -> Lvlm:
    """A model that has learnt to name the colours and, of hidden ones, the mixture. ``slips``: share of all replies that are any of the
    options instead: what is never tried cannot be learnt."""
    context = local_context(home, seed=seed)
    start = Lvlm(make_model(home / "random", prompts(made), seed=seed), dtype="float32")
    data = conversations(context, samples=made, form="text", hidden=hidden, eval_fraction=0.0)
    if slips:
        data = slipped(data, slips, seed)
    optim = Optim(lr=3e-3, steps=steps, batch_size=32, precision="fp32", warmup_ratio=0.05)
    found = finetune(context, model=start, data=data, train="full", label="warm", optim=optim)
    return Lvlm(found.checkpoint, dtype="float32")


def slipped(data: Conversations, share: float, seed: int) -> Conversations:
    """The same questions, a share of them answered by any of their options."""
    chance, rows = random.Random(seed), data.records.to_pylist()
    for row in rows:
        turns = json.loads(row["turns"])
        if chance.random() < share:
            options = re.findall(r"^[A-Z]\. (.*)$", turns[-2][1], re.MULTILINE)
            turns[-1][1] = chance.choice(options)
        row["turns"] = json.dumps(turns)
    return dataclasses.replace(data, records=pa.Table.from_pylist(rows, schema=data.records.schema))


def asked(
    home: Path, model: Lvlm, made: ProactiveSamples, *, ask: float, seed: int, steps: int, lr: float, size: int = 32
) -> tuple[Lvlm, list[dict[str, Any]]]:
    """The model after learning to ask, and the rows of its steps."""
    spec = GrpoSpec(prompts_per_step=size, rollouts_per_prompt=8, steps=steps, lr=lr, precision="fp32")
    lora, reward = Lora(r=16, alpha=32), RewardSpec(ask=ask)
    found = train(
        local_context(home, seed=seed), model=model, samples=made, label="asks", form="text", reward=reward, grpo=spec, lora=lora,
        merge=True,
    )  # fmt: skip
    return Lvlm(found.checkpoint, dtype="float32"), found.steps.to_pylist()


class Shares(NamedTuple):
    """Mean probabilities: of asking and abstaining before, of asking and the right answer after the square is uncovered."""

    hidden_ask: float
    hidden_abstain: float
    visible_ask: float
    visible_correct: float

    @property
    def separate(self) -> bool:
        """Asks where it cannot see and answers where it can."""
        return self.hidden_ask > 0.8 and self.visible_correct > 0.8


def shares_of(model: Lvlm, made: ProactiveSamples) -> Shares:
    """Of the options' likelihoods as replies."""
    found: dict[tuple[int, str], list[float]] = {}
    cases = cases_of(made, split="train")
    pictures = FramePictures(made.corpus)
    states = [(case, state) for case in cases for state in case.env.ask_path()]
    places = [place_of(case, state) for case, state in states]
    images: Any = pictures.images(places)
    shown = [case.env.shown(state) for case, state in states]
    told = option_probabilities(
        model.load(), [images[place] for place in places], [render(case.env.observation(state)) for case, state in states],
        [[option.text for option in some] for some in shown], form="text", batch_size=32,
    )  # fmt: skip
    for (_, state), some, values in zip(states, shown, told, strict=True):
        for kind in ("ask", "abstain", "category_true"):
            parts = [v for option, v in zip(some, values, strict=True) if option_kind(option).startswith(kind)]
            found.setdefault((state.turn, kind), []).append(float(sum(parts)))
    mean = {key: sum(values) / len(values) for key, values in found.items()}
    return Shares(mean[0, "ask"], mean[0, "abstain"], mean[1, "ask"], mean[1, "category_true"])
