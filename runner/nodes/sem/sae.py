"""The sparse autoencoder (SAE) of SEM: raw CLIP embeddings to sparse latents and back. torch; any device.

Symbols as in "SEM: Sparse Embedding Modulation" (arXiv 2603.19028): ``h(z) = ReLU(W_e (z - b_pre) + b_e)``,
``D(h) = W_d h + b_pre``. All latents count at inference; top-k selects during training only. The autoencoders of MSAE ("Interpreting
CLIP with Hierarchical Sparse Autoencoders", arXiv 2502.20578) work on ``(z - mean) scale``; for them both are undone by ``decode``.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.nodes.sem.sae_about import Layout, SaeAbout


class SparseAutoencoder(nn.Module):
    """Parameters ``b_pre`` [d], ``encoder`` (W_e [L, d], b_e [L]), ``decoder`` (W_d [d, L]); buffers ``mean`` [d], ``scale`` [].

    The defaults of the buffers, 0 and 1, give SEM's model. Linear layers start as torch makes them, ``b_pre`` as 0.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, d: int, latents: int, about: SaeAbout | None = None) -> None:
        super().__init__()
        self.about = about or SaeAbout(backbone="")
        self.b_pre = nn.Parameter(torch.zeros(d))
        self.encoder = nn.Linear(d, latents)
        self.decoder = nn.Linear(latents, d, bias=False)
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("scale", torch.ones(()))

    @property
    def d(self) -> int:
        """Width of the embeddings."""
        return self.encoder.in_features

    @property
    def latents(self) -> int:
        """Number of latents L."""
        return self.encoder.out_features

    @property
    def encoder_rows(self) -> Tensor:
        """W_e [L, d]: the direction that each latent listens to."""
        return self.encoder.weight.detach()

    @property
    def kept(self) -> int:
        """Latents of a row that may be active at inference: k for ``topk`` and ``batch_topk`` (ours), else all of them."""
        return self.about.levels[-1] if self.about.architecture in ("topk", "batch_topk") else self.latents

    def standardised(self, z: Tensor) -> Tensor:
        """Embeddings [..., d] as the layers see them."""
        return (z - self.mean) * self.scale

    def pre_activations(self, x: Tensor) -> Tensor:
        """``W_e (x - b_pre) + b_e`` [..., L] of standardised embeddings [..., d]."""
        pre: Tensor = self.encoder(x - self.b_pre)
        return pre

    def encode(self, z: Tensor, top_k: int | None = None) -> Tensor:
        """Latents [..., L] of raw embeddings [..., d]: ReLU of all, or of the ``top_k`` largest (None: as ``kept`` says).

        Raises ValueError for another width.
        """
        if z.shape[-1] != self.d:
            raise ValueError(f"this sparse autoencoder takes embeddings of width {self.d}, not {z.shape[-1]}")
        return keep_largest(self.pre_activations(self.standardised(z)), self.kept if top_k is None else top_k)

    def decode(self, h: Tensor) -> Tensor:
        """Embeddings [..., d] of latents [..., L]."""
        x: Tensor = self.decoder(h) + self.b_pre
        return x / self.scale + self.mean

    def forward(self, z: Tensor) -> Tensor:
        """Reconstruction ``D(h(z))`` [..., d]."""
        return self.decode(self.encode(z))

    @torch.no_grad()
    def scale_decoder_to_unit(self) -> None:
        """Give every decoder direction the norm 1 and its latent's encoder row and bias the inverse.

        Leaves the reconstruction from all latents as it is; which latents are among the top k may change. A direction of
        norm 0 stays.
        """
        norms = self.decoder.weight.norm(dim=0)
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        self.decoder.weight.div_(norms)
        self.encoder.weight.mul_(norms[:, None])
        self.encoder.bias.mul_(norms)

    @torch.no_grad()
    def folded(self) -> SparseAutoencoder:
        """The same function with ``mean`` 0 and ``scale`` 1: SEM's class.

        With ``x = (z - m) s``: ``b_pre' = m + b_pre / s``, ``W_e' = s W_e``, ``W_d' = W_d / s``.
        """
        plain = SparseAutoencoder(self.d, self.latents, replace(self.about, target_norm=None))
        plain.b_pre.copy_(self.mean + self.b_pre / self.scale)
        plain.encoder.weight.copy_(self.encoder.weight * self.scale)
        plain.encoder.bias.copy_(self.encoder.bias)
        plain.decoder.weight.copy_(self.decoder.weight / self.scale)
        return plain

    def digest(self) -> str:
        """SHA-256 (hex) over the values of all tensors, by name."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def keep_largest(pre: Tensor, k: int) -> Tensor:
    """ReLU of the ``k`` largest of each row of ``pre`` [..., L], zero elsewhere. Raises ValueError for k < 1."""
    if k < 1:
        raise ValueError(f"at least one latent must be kept, not {k}")
    if k >= pre.shape[-1]:
        return pre.relu()
    values, where = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, where, values.relu())


def keep_largest_of_batch(pre: Tensor, k: int) -> Tensor:
    """ReLU of the ``k n`` largest of all of ``pre`` [n, L], zero elsewhere: rows share their budget (BatchTopK)."""
    return keep_largest(pre.flatten(), k * len(pre)).view_as(pre)


@torch.no_grad()
def initialise(
    sae: SparseAutoencoder,
    *,
    how: Literal["sem", "msae"] = "msae",
    mean: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Starting values, in place. ``generator``: on the CPU, whatever the device.

    ``sem``: linear layers uniform within +- 1/sqrt(inputs), as torch makes them. ``msae``: decoder directions of random
    orientation and norm 0.1, encoder their transpose, biases 0. ``b_pre`` is ``mean`` [d] in the layers' space
    (ours), else 0.
    """
    if how == "sem":
        for layer in (sae.encoder, sae.decoder):
            layer.weight.copy_(_uniform(layer.weight.shape, layer.in_features, generator))
        sae.encoder.bias.copy_(_uniform(sae.encoder.bias.shape, sae.d, generator))
    else:
        # Kaiming-uniform entries, whose bound the rescaling takes away.
        directions = functional.normalize(_uniform((sae.latents, sae.d), 1, generator), dim=1) * 0.1
        sae.decoder.weight.copy_(directions.T)
        sae.encoder.weight.copy_(directions)
        sae.encoder.bias.zero_()
    sae.b_pre.copy_(torch.zeros_like(sae.b_pre) if mean is None else mean)


def _uniform(shape: torch.Size | tuple[int, ...], inputs: int, generator: torch.Generator | None) -> Tensor:
    bound = float(inputs) ** -0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def read_sae(path: str | Path, layout: Layout | None = None, about: SaeAbout | None = None) -> SparseAutoencoder:
    """A sparse autoencoder from the folder or file of ``runner.nodes.sem.sae_files``, in evaluation mode on the CPU.

    ``about`` goes before what the file says; a file that says nothing (MSAE, or an unusual name) needs it. Raises
    ``ModelRefused`` where the file is damaged, holds more than tensors, or its parts do not fit.
    """
    from runner.nodes.sem.sae_files import read_stored

    stored = read_stored(Path(path), layout, about)
    latents, d = stored.tensors["encoder.weight"].shape
    sae = SparseAutoencoder(d, latents, stored.about)
    sae.load_state_dict(stored.tensors)
    return sae.eval().requires_grad_(False)


def write_sae(sae: SparseAutoencoder, path: str | Path, layout: Layout = "native") -> Path:
    """Write ``sae`` and return where: ``native`` two files into the folder ``path``, ``sem`` and ``msae`` one ``.pth`` there.

    The layout ``sem`` has no place for ``mean`` and ``scale``, which are folded into the weights, nor for a top k at
    inference: raises ValueError for ``topk`` and ``batch_topk``.
    """
    from runner.nodes.sem.sae_files import Stored, write_stored

    if layout == "sem" and sae.kept < sae.latents:
        raise ValueError(f"SEM's layout cannot hold an autoencoder that keeps {sae.kept} latents at inference")

    written = sae.folded() if layout == "sem" else sae
    tensors = {name: value.detach().cpu().contiguous() for name, value in written.state_dict().items()}
    return write_stored(Stored(tensors, sae.about), Path(path), layout)
