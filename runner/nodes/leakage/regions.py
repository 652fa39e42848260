"""Regions that controls pool instead of a part, and pictures that they look at (definitions of this project).

Pure functions on tensors. B pictures, P parts, N patches of a square grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runner.nodes.leakage.masks import strict_pixels
from runner.nodes.leakage.token_norms import high_norm


def random_regions(inside: Tensor, parts: Tensor, places: Tensor) -> Tensor:
    """A region of the object of as many patches as each part: bool [B, P, N].

    It lies in what the part leaves of the object where that has as many patches; else it is drawn from the whole object and
    overlaps the part (all of it, where the part is the object). ``inside`` bool [B, N]: patches of the object; ``parts`` bool [B, P, N];
    ``places`` float [B, P] in [0, 1): which of those patches the region grows around. It is that patch and the nearest ones
    (Euclidean; equally near ones row by row). Empty where a part is absent or the object has fewer patches.
    """
    patches, counts = inside.shape[-1], parts.sum(-1, keepdim=True)
    rest = inside[:, None] & ~parts
    room = torch.where(rest.sum(-1, keepdim=True) >= counts, rest, inside[:, None])
    size = room.sum(-1, keepdim=True)
    wanted = (places[..., None] * size).long().clamp_max((size - 1).clamp_min(0))
    centre = ((room.cumsum(-1) - 1 == wanted) & room).to(torch.uint8).argmax(-1)
    order = _nearness(patches, inside.device)[centre].masked_fill(~room, patches**3)
    return (order.argsort(-1).argsort(-1) < counts) & (counts <= size)


def _nearness(patches: int, device: torch.device) -> Tensor:
    """Int64 [N, N]: grows with the distance of two patches; no two of a row are equal."""
    across = round(patches**0.5)
    number = torch.arange(patches, device=device)
    row, column = number // across, number % across
    apart = (row[:, None] - row).square() + (column[:, None] - column).square()
    nearness: Tensor = apart * patches + number
    return nearness


def without_high_norm(weights: Tensor, tokens: Tensor) -> Tensor:
    """Masks or weights [B, P, N] without the tokens [B, N, D] whose norm is above median + 5 MAD of their picture.

    On a flat background the deviation is tiny and ordinary tokens of the object are left out as well (see ``token_norms``)."""
    return weights * ~high_norm(tokens.float().norm(dim=-1))[:, None]


def constant_pictures(images: Tensor, fill: Tensor) -> Tensor:
    """Pictures of one colour, [B, 3, H, W]: black where what surrounds a part is bright, else white, so that a mask shows.

    ``fill``: a colour [3] or a picture [3, H, W] for all. Raises ``ValueError`` for fills by picture: the colour would tell of it.
    """
    if fill.dim() > 3:
        raise ValueError(f"one fill for all pictures, [3] or [3, H, W], not {list(fill.shape)}")
    return torch.full_like(images, 0.0 if float(fill.float().mean()) > 0.5 else 1.0)


def in_other_pictures(images: Tensor, masks: Tensor, donors: Tensor) -> Tensor:
    """Each part pasted, at its place, into another picture: [B, 3, H, W], bool [B, P, H, W], [B, 3, H, W] -> [B, P, 3, H, W]."""
    return strict_pixels(images, masks, donors)


def extended(masks: Tensor, whole: Tensor, sources: tuple[str, ...]) -> Tensor:
    """Masks of parts [B, P, H, W] followed by the object (``whole`` [B, H, W]) and its complement where they are asked for; the
    complement is empty where there is no object."""
    beyond = ~whole & whole.flatten(1).any(1)[:, None, None]
    more = {"whole": whole, "background": beyond}
    return torch.cat([masks, *(more[name][:, None] for name in sources)], 1)
