"""How good an image-text encoder is, whichever one: recall among captions, and accuracy from class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from runner.models.base import ImageTextEncoder
from runner.nodes.clip.augment import plain_view
from runner.nodes.clip.corpus import Captions, Part
from runner.nodes.clip.network import tokenize, unit_texts
from runner.nodes.clip.specs import ClipSize
from runner.nodes.encoder_metrics import Score, accuracy_score, rank_of_own, recall_scores

BATCH = 256


def held_out_recall(
    name: str, network: torch.nn.Module, size: ClipSize, parts: Sequence[Part], captions: Captions, pixels: Tensor
) -> list[Score]:
    """Recall on each source's held-out pictures among all held-out captions, with the network in evaluation mode."""
    held = captions.pictures_held()
    if not held.any():
        return []
    numbers, own = np.unique(captions.number[held], return_inverse=True)
    tokens = tokenize([captions.names[number] for number in numbers], size.context_length)
    device = next(network.parameters()).device
    texts = unit_texts(network, tokens.to(device)).cpu().numpy()
    images = unit_images(network, pixels[torch.from_numpy(held)], size.image_size)
    sources = np.array([part.found.source_id for part in parts for _ in part.captions])[held]
    scores = []
    for source in dict.fromkeys(sources.tolist()):
        ranks = rank_of_own(images[sources == source], texts, own[sources == source])
        scores += recall_scores(name, source, ranks, len(numbers))
    return scores


def unit_images(network: torch.nn.Module, pixels: Tensor, image_size: int) -> NDArray[np.float32]:
    """Unit vectors [n, d] of whole pictures on white, without gradients."""
    device = next(network.parameters()).device
    visual = cast(nn.Module, network.visual)
    with torch.inference_mode():
        parts = [visual(plain_view(part.to(device), image_size)) for part in torch.split(pixels, BATCH)]
    found: NDArray[np.float32] = functional.normalize(torch.cat(parts), dim=1).cpu().numpy()
    return found


def zero_shot(
    name: str,
    dataset: str,
    encoder: ImageTextEncoder,
    images: NDArray[np.float32],
    labels: Sequence[str],
    templates: Sequence[str],
) -> list[Score]:
    """Accuracy of naming pictures by their nearest class prompt, for each template; ``images`` [n, d] unit rows."""
    classes = sorted(set(labels))
    truth = np.array([classes.index(label) for label in labels], np.int64)
    scores = []
    for template in templates:
        prompts = encoder.encode_texts([template.replace("{}", label) for label in classes])
        scores.append(accuracy_score(name, dataset, template, images, prompts, truth))
    return scores
