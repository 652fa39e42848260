"""A tiny CLIP of random weights on disk, an exact autoencoder, prompts, and pictures made of text embeddings."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from results.tables import arrow_table
from runner.artifacts import AttributedImages, DebiasPrompts, ImageFeatures, SparseCoder
from runner.models.encoders.providers import OpenClip
from runner.models.registry import Services
from runner.nodes.sem.sae import SaeAbout, SparseAutoencoder, write_sae

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
BIRDS = ["a photo of a landbird", "a photo of a waterbird"]
PLACES = ["land", "water"]


def write_clip(folder, seed=0):
    """An open_clip model in the files of a real one; its text tower is scaled up, so that texts differ."""
    import open_clip

    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"size": 32}}))
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    with torch.no_grad():
        model.token_embedding.weight.mul_(30)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def load_clip(folder):
    return OpenClip.model_validate({"provider": "open_clip", "checkpoint": str(folder)}).load(Services())


def exact_sae(clip, folder, *, width=None, backbone=None, shift=0.0):
    """Latents relu(z) and relu(-z): decoding gives z back. ``shift`` is added to the decoder's offset to spoil it."""
    d = width or clip.dim
    sae = SparseAutoencoder(d, 2 * d, SaeAbout(backbone=backbone or clip.name, levels=(d // 2, d), weighting="reverse"))
    with torch.no_grad():
        eye = torch.eye(d)
        sae.encoder.weight.copy_(torch.cat([eye, -eye]))
        sae.encoder.bias.zero_()
        sae.decoder.weight.copy_(torch.cat([eye, -eye], 1))
        sae.b_pre.add_(shift * torch.arange(d))
        if shift:
            sae.encoder.weight.zero_()
    write_sae(sae, folder)
    row = {
        "sae_id": "0" * 64, "backbone": backbone or clip.name, "small": True, "architecture": "msae", "d": d,
        "latents": 2 * d, "levels": [d // 2, d], "layout": "sem",
    }  # fmt: skip
    return SparseCoder(folder, arrow_table("sae_model", [row]))


def prompt(kind, text, idx=0, *, value=None, query=None):
    return {
        "set_id": "s", "kind": kind, "attribute": "place", "class_name": value, "query": query, "idx": idx, "text": text,
        "source": "spec", "retries": 0,
    }  # fmt: skip


def bird_prompts(queries=BIRDS, classes=PLACES):
    """Every kind of prompt for birds on land and water."""
    rows = [prompt("query", q, i, query=q) for i, q in enumerate(queries)]
    things = [
        "a cup",
        "two dogs",
        "the old market",
        "a guitar",
        "rain",
        "a red car",
        "bread",
        "a clock",
        "a tall tower",
    ]
    rows += [prompt("diverse", f"{thing} in the morning", i) for i, thing in enumerate(things)]
    for value in classes:
        rows += [
            prompt("bias", f"{word} {value}", i, value=value) for i, word in enumerate(("much", "only", "the open"))
        ]
        rows.append(prompt("spurious", f"a photo of {value}", value=value))
    for query in queries:
        forms = [query, query.replace("photo", "picture"), query.replace("photo", "painting")]
        rows += [prompt("paraphrase", text, i, query=query) for i, text in enumerate(forms)]
        rows.append(prompt("content", query.replace("a photo of ", ""), query=query))
        for value in classes:
            named = f"{query} on {value}"
            rows += [prompt(kind, named, value=value, query=query) for kind in ("candidate", "augmented")]
    pairs = {"harmful": ("a green background", "a blue background"), "helpful": ("webbed feet", "claws")}
    for kind, sides in pairs.items():
        rows += [prompt(kind, text, value=side) for side, text in zip("ab", sides, strict=True)]
    rows += [
        prompt("scene", f"a {{target}} near the {{bias}} at {time}", i) for i, time in enumerate(("noon", "night"))
    ]
    return DebiasPrompts("place", list(classes), list(queries), arrow_table("prompt_set", rows))


def without(prompts, **columns):
    """The prompts but those whose columns are as given."""
    rows = [row for row in prompts.prompts.to_pylist() if any(row[k] != v for k, v in columns.items())]
    return DebiasPrompts(prompts.attribute, prompts.classes, prompts.queries, arrow_table("prompt_set", rows))


def added(prompts, *rows):
    table = arrow_table("prompt_set", [*prompts.prompts.to_pylist(), *rows])
    return DebiasPrompts(prompts.attribute, prompts.classes, prompts.queries, table)


def bird_pictures(clip, *, n=240, seed=0, name="birds", pull=1.2):
    """Features and attributes of ``n`` pictures: the class's text, ``pull`` times the place's, and noise; 80 % confounded."""
    rng = np.random.default_rng(seed)
    birds = clip.encode_texts(BIRDS)
    places = clip.encode_texts([f"a photo of {place}" for place in PLACES])
    target = np.arange(n) % 2
    value = np.where(rng.random(n) < 0.8, target, 1 - target)
    vectors = birds[target] + pull * places[value] + rng.normal(0, 0.08, (n, clip.dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    classes = ["landbird", "waterbird"]
    images = [
        {
            "dataset": name, "split": "test" if i % 3 else "train", "sample_id": f"b{i}", "source_id": "s",
            "uri": f"{i}.png", "target": classes[t], "class_index": int(t), "thumbnail": None,
        }
        for i, t in enumerate(target)
    ]  # fmt: skip
    about = [{"dataset": name, "classes": classes, "group": None, "template": "a photo of a {}", "licence": "ours"}]
    owned = [
        {"dataset": name, "sample_id": f"b{i}", "attribute": attribute, "value": values[v]}
        for i, v in enumerate(value)
        for attribute, values in (("place", PLACES), ("size", ["small", "large"]))
    ]
    attributed = AttributedImages(
        datasets=about, corpus=[], images=arrow_table("dataset_image", images),
        about=[{"dataset": name, "attributes": {"place": PLACES, "size": ["small", "large"]}, "class_attribute": None}],
        attributes=arrow_table("dataset_attribute", owned),
    )  # fmt: skip
    return features_of(clip, attributed, vectors), attributed


def features_of(clip, images, vectors):
    names = ("name", "family", "identity", "dim", "logit_scale")
    info = {name: getattr(clip, name) for name in names}
    rows = images.images.select(["dataset", "split", "sample_id", "target", "class_index"])
    return ImageFeatures(images.datasets, info, {"features": vectors}, rows)


def messages(ctx):
    return [message["text"] for message in ctx.journal.messages]
