"""The model card that lies beside the weights. Pure: a summary and scores in, Markdown out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.models.encoders.clip import SMALL_FAMILY
from runner.nodes.encoder_metrics import Score

_LIMITS = """\
- It is small and ours. It is no published CLIP, and no figure of a paper can be compared with what is measured on it.
- It knows drawn pictures (emoji, clip art, stamps) and small photographs of few kinds. It reads little of real photographs.
- Captions of people in its data follow the emoji: professions exist as man, woman and person, skin tones as five steps.
  Associations in the sentence encoder that taught its texts, those of gender, origin and skin colour included, are
  handed down. It serves to study such bias, not to judge people.
- The list of nouns is WordNet's, which also holds outdated and offensive words.
- English only; texts are cut after the context length."""


def card(summary: dict[str, Any], scores: Sequence[Score]) -> str:
    """What the model is, how it was trained, on what, how good it is, and where it ends."""
    model, plan = summary["model"], summary["training"]
    return "\n".join(
        [
            f"# {SMALL_FAMILY}",
            "",
            "A small CLIP (image and text encoder) trained from scratch by the step `clip.train` of this project, for its own",
            "experiments. Stock open_clip loads it from this folder (`local-dir:`).",
            "",
            "## Network",
            "",
            f"- Vision: transformer with a class token, {model['image_size']} pixels, patches of {model['patch']},"
            f" width {model['width']}, {model['layers']} layers, {model['width'] // model['head_width']} heads.",
            f"- Text: causal transformer over CLIP's byte-pair tokens, width {model['text_width']}, {model['text_layers']} layers,"
            f" {model['text_width'] // model['head_width']} heads, context {model['context_length']}.",
            f"- Shared space: {model['embed_dim']} dimensions. {summary['parameters']:,} parameters, stored as float16; rows of the"
            " token table that no training text used are zero.",
            "",
            "## Training",
            "",
            f"- {plan['steps']} steps of {plan['batch']} pictures with their captions and {plan['text_batch']} further texts, seed"
            f" {summary['seed']}, AdamW at {plan['lr']}; {summary['seconds'] / 60:.0f} minutes of training.",
            "- Losses: multi-positive InfoNCE between pictures and captions; 1 - cos of texts with the sentence encoder"
            " (centred all-MiniLM-L6-v2, first principal axes); 1 - cos of pictures with TinyViT-5M carried into that space by a"
            " ridge regression, and with its features.",
            "- The scheme is ours and follows no paper, except that patches are left out of most steps as in FLIP.",
            "",
            "## Data",
            "",
            "| source | pictures | licence |",
            "|---|---|---|",
            *(
                f"| {name} | {count} | {_cell(summary['licences'].get(name))} |"
                for name, count in summary["sources"].items()
            ),
            "",
            f"{summary['captions']} different captions, {summary['captions_held_out']} of them held out with their pictures;"
            f" {summary['texts']} texts for the text tower (captions in several wordings, nouns and glosses of WordNet 3.0).",
            "Teachers: all-MiniLM-L6-v2 (Apache-2.0), TinyViT-5M (MIT).",
            "",
            "## Measured",
            "",
            f"Recall on pictures of held-out captions, among all {summary['captions_held_out']} of these.",
            "",
            "| source | metric | value | 95 % interval | n | chance |",
            "|---|---|---|---|---|---|",
            *(
                f"| {s.dataset} | {s.metric} | {s.value:.3f} | {s.low:.3f} to {s.high:.3f} | {s.n} | {s.chance:.4f} |"
                for s in scores
            ),
            "",
            "## Limits",
            "",
            _LIMITS,
            "",
        ]
    )


def _cell(text: str | None) -> str:
    return " ".join((text or "not stated").replace("|", "/").split())
