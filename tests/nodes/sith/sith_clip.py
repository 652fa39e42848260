"""A very small random CLIP in the files of a real one."""

import json

import torch
from safetensors.torch import save_file

from runner.models.encoders.providers import OpenClip
from runner.models.registry import Services

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def load_clip(folder, seed=0):
    """Written to ``folder`` and loaded; its text tower is scaled up, so that texts differ."""
    import open_clip

    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"size": 32}}))
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    with torch.no_grad():
        model.token_embedding.weight.mul_(30)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return OpenClip.model_validate({"provider": "open_clip", "checkpoint": str(folder)}).load(Services())
