"""Miniature data sets and models with planted gaps, for the tests of the steps that check an audit."""

import base64
import io
import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from runner.nodes.bias.datasets.imagenet_x import FACTORS

NAMES = ["Smiling", "Eyeglasses", "Wearing_Hat", "Male", "Young"]
CLASSES = ["cat, house cat", "crane", "crane"]
CELL, SIDE = 8, 40


def network(path, labels, *, row):
    """Logit i = 10 * (mean of the red channel of cell i in the given row of cells) - 5."""
    weights = np.zeros((len(labels), 75), np.float32)
    for i in range(len(labels)):
        weights[i, row * 5 + i] = 10
    nodes = [
        helper.make_node("AveragePool", ["x"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
    ]
    constants = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.full(len(labels), -5, np.float32), "b"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(labels)])]
    graph = helper.make_graph(nodes, "cells", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def draw(path, signals, marks, number):
    """Row 0: what the classifier reads; row 1: what is truly there; the rest tells the pictures apart."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for row, cells in enumerate((signals, marks)):
        for i, bright in enumerate(cells):
            pixels[row * CELL : (row + 1) * CELL, i * CELL : (i + 1) * CELL] = 220 if bright else 30
    pixels[24:, :, 1:] = np.random.default_rng(number).integers(0, 255, (2, 5, 2)).repeat(8, 0).repeat(8, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=95)


def seen(path, row):
    """The cells of a stored picture, by plain loops."""
    pixels = np.asarray(Image.open(path).convert("RGB"), float)
    cells = []
    for i in range(5):
        total = 0.0
        for y in range(row * CELL, (row + 1) * CELL):
            for x in range(i * CELL, (i + 1) * CELL):
                total += pixels[y, x, 0] / 255
        cells.append(total / CELL**2)
    return cells


def face(labels, rng):
    """Smiling is missed on half of the pictures with eyeglasses, Male on most without a hat; the rest is read right."""
    signals = list(labels)
    if labels[0] and labels[1]:
        signals[0] = rng.random() < 0.5
    if labels[3] and not labels[2]:
        signals[3] = rng.random() < 0.2
    return signals


def make_celeba(root):
    rng = np.random.default_rng(5)
    lines, parts = [], []
    for number in range(1, 81):
        labels = rng.random(5) < 0.5
        name = f"{number:06d}.jpg"
        signals = face(labels, rng)
        draw(root / "img_align_celeba" / name, signals, labels, number)
        lines.append(f"{name}  " + " ".join(" 1" if v else "-1" for v in labels))
        parts.append(f"{name} {1 if number > 16 else 0}")
        words = [w for w, v in zip(("glasses", "a big hat"), labels[1:3], strict=True) if v]
        text = f"a person with {' and '.join(words) or 'nothing special'} in a park\n"
        (root / "img_align_celeba" / f"{number:06d}.txt").write_text(text)
    (root / "img_align_celeba/000080.jpg").write_bytes(b"cut off")
    (root / "list_attr_celeba.txt").write_text(f"80\n{' '.join(NAMES)} \n" + "\n".join(lines) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


def make_tree(root):
    """The audit's pictures: eyeglasses hurt Smiling, a hat helps nobody, and for Male a hat hurts (the truth says: it helps)."""
    number = 1000
    for target, attribute, value, good, bad in (
        ("Smiling", "accessory", "eyeglasses", 10, 10),
        ("Smiling", "accessory", "wearing hat", 20, 0),
        ("Male", "headwear", "wearing hat", 5, 15),
        ("Male", "headwear", "bare head", 20, 0),
        ("Young", "accessory", "eyeglasses", 20, 0),
        ("Young", "accessory", "wearing hat", 19, 1),
    ):
        for right in [True] * good + [False] * bad:
            number += 1
            signals = [name == target and right for name in NAMES]
            draw(root / target / attribute / value / f"{number}.jpg", signals, [False] * 5, number)


def make_things(folder):
    """Three classes, two of one name; class 0 is missed whenever it is darker; `pose` is there once a class."""
    number, lines = 2000, []
    for label, wnid in enumerate(("n01", "n02", "n03")):
        for i in range(12):
            number += 1
            darker, pose = i % 3 == 0, i == 5
            wrong = (label == 0 and darker) or (label == 1 and i == 4)
            draw(
                folder / "val" / wnid / f"v_{number}.JPEG",
                [j == ((label + wrong) % 3) for j in range(3)] + [0, 0],
                [0] * 5,
                number,
            )
            ticked = {"darker": darker, "pose": pose}
            factors = {f: int(ticked.get(f, False)) for f in FACTORS}
            lines.append(
                {"file_name": f"v_{number}.JPEG", "class": label, **factors, "justification": "", "one_word": ""}
            )
    (folder / "factors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_clip(folder):
    import open_clip
    import torch
    from safetensors.torch import save_file

    size = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": size, "text_cfg": text}, "preprocess_cfg": {"size": 32}}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def answer(body):
    """A vision-language model that looks: at the second row of cells, or (for a caption) at the first."""
    parts = next(m["content"] for m in body["messages"] if m["role"] == "user")
    text = next(p["text"] for p in parts if p["type"] == "text")
    url = next(p["image_url"]["url"] for p in parts if p["type"] == "image_url")
    image = io.BytesIO(base64.b64decode(url.partition(",")[2]))
    if text.startswith("Describe"):
        return "A blue thing on the floor." if seen(image, 0)[1] > 0.5 else "Something in a dark room!"
    marks = [cell > 0.5 for cell in seen(image, 1)]
    if "headwear" in text:
        return "Wearing a hat" if marks[2] else "Bare head.\nNothing else."
    return "The eyeglasses" if marks[1] else "wearing hat"
