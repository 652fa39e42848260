"""A tiny image backbone and a tiny sentence encoder with random weights, in the file layouts of the real ones."""

import json

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "square", "photo", "of", "a", "##s"]


def write_backbone(path, dim=12, seed=0):
    """Mean colour of 16 blocks, then a random matrix: [n, 3, 224, 224] -> [n, dim]."""
    weight = np.random.default_rng(seed).normal(size=(48, dim)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["blocks"], kernel_shape=[56, 56], strides=[56, 56]),
        helper.make_node("Flatten", ["blocks"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["output"]),
    ]
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 224, 224])
    y = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", dim])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())  # fmt: skip
    return path


def write_sentences(folder, seed=0):
    """A one-layer BERT with a word-level tokenizer."""
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=300,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
