"""Aligning a LLaVA's projector with the words that answer questions about pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.errors import DataError, ModelRefused
from runner.models.lvlm.alignment import fit

NO_WORDS = frozenset({"yes", "no"})
"""Answers that name nothing in a picture."""


def answer_words(turns: Sequence[Sequence[str]], tokenizer: Any) -> set[int]:
    """First tokens of the answers of a conversation that name something."""
    said = {text.strip() for role, text in turns if role == "assistant"}
    named = [text for text in sorted(said) if text.casefold() not in NO_WORDS]
    return {tokenizer(text, add_special_tokens=False).input_ids[0] for text in named if text}


def word_targets(records: Sequence[Mapping[str, Any]], tokenizer: Any) -> tuple[list[int], list[int], Tensor]:
    """Numbers of the records whose answers name something, the vocabulary, and which words belong to which (N, V) float32.

    Raises ``DataError`` where no record does.
    """
    words = [answer_words(json.loads(record["turns"]), tokenizer) for record in records]
    kept = [number for number, found in enumerate(words) if found and len(records[number]["uris"]) == 1]
    vocabulary = sorted({word for number in kept for word in words[number]})
    if len(vocabulary) < 2:
        raise DataError("no two answers about pictures differ: there is nothing to align a projector with")
    place = {word: column for column, word in enumerate(vocabulary)}
    targets = torch.zeros(len(kept), len(vocabulary))
    for row, number in enumerate(kept):
        targets[row, [place[word] for word in words[number]]] = 1
    return kept, vocabulary, targets


def projector_of(network: Any) -> Any:
    """The projector of a LLaVA. Raises ``ModelRefused`` for another layout."""
    if getattr(network.config, "model_type", "") != "llava":
        raise ModelRefused(f"questions.align knows LLaVA's layout only, not {network.config.model_type}")
    return network.model.multi_modal_projector


@torch.no_grad()
def picture_features(network: Any, pixels: Tensor) -> Tensor:
    """What the tower hands to the projector (B, T, F), as the stock forward picks it; one or several blocks."""
    config = network.config
    hidden = network.model.vision_tower(pixels.to(network.dtype), output_hidden_states=True).hidden_states
    layers = config.vision_feature_layer
    picked = [hidden[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    if config.vision_feature_select_strategy == "default":
        picked = [states[:, 1:] for states in picked]
    return torch.cat(picked, -1)


def aligned(
    network: Any,
    features: Tensor,
    vocabulary: Sequence[int],
    targets: Tensor,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
) -> Iterator[float]:
    """Train the projector (made float32) in place; yields the mean loss of each epoch."""
    projector = projector_of(network).float().requires_grad_(True)
    embeddings = network.get_input_embeddings().weight
    draw = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.split(torch.randperm(len(features), generator=draw), batch_size):
            yield features[chosen], targets[chosen]

    yield from fit(projector, batches, embeddings[[*vocabulary]].detach(), embeddings, epochs=epochs, lr=lr)
