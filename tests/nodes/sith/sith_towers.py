"""Random towers, and a reference forward pass that applies D x D value-output matrices head by head."""

import torch
from open_clip.transformer import VisionTransformer
from torch.nn.functional import layer_norm

SIDE, PATCH = 16, 8


def tower(seed=0, *, width=32, layers=2, heads=4, dim=12, dtype=torch.float64, **more):
    """A vision transformer whose norms and biases are far from their neutral values."""
    torch.manual_seed(seed)
    visual = VisionTransformer(SIDE, PATCH, width, layers, heads, 2.0, output_dim=dim, **more)
    for name, value in visual.named_parameters():
        noise = torch.randn_like(value)
        value.data = noise * 0.3 + (1 if "ln_" in name and name.endswith("weight") else 0)
    return visual.to(dtype).eval().requires_grad_(False)


def like(visual, state, **shape):
    """The stock tower with this state dict."""
    other = tower(99, dtype=next(iter(state.values())).dtype, **shape)
    other.load_state_dict(state, strict=True)
    return other


def pictures(seed=0, count=3, dtype=torch.float64):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tokens_after(visual, x, blocks):
    """Residual stream after the first so many blocks."""
    x = visual._embeds(x)
    for block in visual.transformer.resblocks[:blocks]:
        x = block(x)
    return x


def explicit(visual, x, matrices, biases, *, folded):
    """Embeddings with the attention of the blocks in ``matrices`` written out: sum over heads of A n(x) W_VO^h, plus bias.

    ``matrices`` {layer: (H, D, D)}, ``biases`` {layer: (D,)}. Attention weights come from the untouched q and k.
    """
    x = visual._embeds(x)
    for number, block in enumerate(visual.transformer.resblocks):
        if number in matrices:
            x = x + written(block, x, matrices[number], folded=folded).sum(1) + biases[number]
            x = x + block.mlp(block.ln_2(x))
        else:
            x = block(x)
    return visual._pool(x)[0] @ visual.proj


def written(block, x, matrices, *, folded):
    """What each head writes [n, H, tokens, D], without biases."""
    D, H = x.shape[-1], block.attn.num_heads
    y = block.ln_1(x)
    w, b = block.attn.in_proj_weight, block.attn.in_proj_bias
    q, k = (
        (y @ w[i * D : (i + 1) * D].T + b[i * D : (i + 1) * D]).unflatten(-1, (H, -1)).transpose(1, 2) for i in (0, 1)
    )
    attention = (q @ k.transpose(-1, -2) / (D // H) ** 0.5).softmax(-1)
    read = layer_norm(x, (D,), eps=block.ln_1.eps) if folded else y
    return attention @ (read[:, None] @ matrices)
