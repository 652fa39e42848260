"""The model card that lies beside the weights. Pure: a summary and scores in, Markdown out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.models.encoders.clip import SMALL_FAMILY
from runner.nodes.encoder_metrics import Score

_HEAD = f"""\
# {SMALL_FAMILY}

A small CLIP (image and text encoder) trained from scratch by the step `clip.train` of this project, for its own
experiments. Stock open_clip loads it from this folder (`local-dir:`)."""
_LIMITS = """\
## Limits

- It is small and ours. It is no published CLIP, and no figure of a paper can be compared with what is measured on it.
- It knows the pictures that it was trained on (drawings, small photographs of few kinds), and little of real photographs.
- Captions of people in its data follow the emoji: professions exist as man, woman and person, skin tones as five steps.
  Associations in the sentence encoder that taught its texts, those of gender, origin and skin colour included, are
  handed down. It serves to study such bias, not to judge people.
- The list of nouns is WordNet's, which also holds outdated and offensive words.
- English only; texts are cut after the context length."""


def card(summary: dict[str, Any], scores: Sequence[Score]) -> str:
    """What the model is, how it was trained, on what, how good it is, and where it ends."""
    parts = (_HEAD, _network(summary), _training(summary), _data(summary), _measured(summary, scores), _LIMITS)
    return "\n\n".join(parts) + "\n"


def _network(summary: dict[str, Any]) -> str:
    size = summary["model"]
    return f"""\
## Network

- Vision: transformer with a class token, {size["image_size"]} pixels, patches of {size["patch"]}, width {size["width"]},
  {size["layers"]} layers, {size["width"] // size["head_width"]} heads.
- Text: causal transformer over CLIP's byte-pair tokens, width {size["text_width"]}, {size["text_layers"]} layers,
  {size["text_width"] // size["head_width"]} heads, context {size["context_length"]}.
- Shared space: {size["embed_dim"]} dimensions. {summary["parameters"]:,} parameters, stored as float16; rows of the token
  table that no training text used are zero."""


def _training(summary: dict[str, Any]) -> str:
    plan = summary["training"]
    return f"""\
## Training

- {plan["steps"]} steps of {plan["batch"]} pictures with their captions and {plan["text_batch"]} further texts, seed
  {summary["seed"]}, AdamW at {plan["lr"]}; {summary["seconds"] / 60:.0f} minutes of training.
- Losses: multi-positive InfoNCE between pictures and captions; 1 - cos of texts with the sentence encoder (centred, first
  principal axes); 1 - cos of pictures with the image backbone, carried into that space by a ridge regression; 1 - cos of a
  linear map of the pictures' vectors with the backbone's features.
- Views: crops, mirror images, brightness and contrast; cut-outs on plain colours, and {100 * plan["paste"]:.0f} % of them on
  a picture without transparency of the same batch, which the caption does not name.
- The scheme is ours and follows no paper, except that patches are left out of most steps as in FLIP."""


def _data(summary: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {_cell(name)} | {count} | {_cell(summary['licences'].get(name))} |"
        for name, count in summary["sources"].items()
    )
    return f"""\
## Data

| source | pictures | licence |
|---|---|---|
{rows}

{summary["captions"]} different captions, {summary["captions_held_out"]} of them held out with their pictures.
{summary["texts"]} texts for the text tower: captions in several wordings, and further texts such as nouns and glosses of
WordNet 3.0 (Princeton University). Teachers, unless the training named others: all-MiniLM-L6-v2 (Apache-2.0,
sentence-transformers) and TinyViT-5M (MIT, Microsoft)."""


def _measured(summary: dict[str, Any], scores: Sequence[Score]) -> str:
    recalls = [score for score in scores if score.metric != "accuracy"]
    named = [score for score in scores if score.metric == "accuracy"]
    parts = ["## Measured"]
    if recalls:
        unseen = summary["captions_held_out"]
        parts += [
            f"Recall on pictures of held-out captions, each among all {unseen} of these captions.",
            _table(recalls),
        ]
    if named:
        parts += ["Accuracy of naming pictures by the nearest class prompt. Classes of a source of labelled pictures above were"
                  " captions in training.", _table(named)]  # fmt: skip
    return "\n\n".join(parts)


def _table(scores: Sequence[Score]) -> str:
    rows = [
        f"| {_cell(s.dataset)} | {_cell(s.prompt or s.metric)} | {s.value:.3f} | {s.low:.3f} to {s.high:.3f} | {s.n} |"
        f" {s.chance:.4f} |"
        for s in scores
    ]
    return "\n".join(["| source | what | value | 95 % interval | n | chance |", "|---|---|---|---|---|---|", *rows])


def _cell(text: str | None) -> str:
    return " ".join((text or "not stated").replace("|", "/").split())
