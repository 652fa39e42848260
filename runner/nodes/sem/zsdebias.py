"""ZSDebias: a variational adaptor that parts image embeddings into a neutral and a biased half. Pure torch.

Source: Jang et al. (2025), "Target Bias Is All You Need", in the re-implementation that SEM's evaluation compares with (the
paper itself was not read). Texts stay as they are. The corpus of texts about the attribute is the caller's. Library only: no step
of a spec trains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.nodes.sem.checks import check_rows, unit_rows

_SLOPE, _DROPOUT, _LAST_LR = 0.3, 0.3, 1e-8
_ROWS_AT_ONCE = 2048


class Weights(NamedTuple):
    """Weights of the loss. ``kl`` is reached at the end of every cycle of ``cycle`` epochs, from 0 at its start."""

    reconstruction: float = 100.0
    bias_alignment: float = 10.0
    independence: float = 10.0
    contrast: float = 10.0
    kl: float = 0.01
    cycle: int = 50


class Terms(NamedTuple):
    """Scalars of one batch: the terms of the loss as they are, before weighting."""

    reconstruction: Tensor
    bias_alignment: Tensor
    independence: Tensor
    contrast: Tensor
    kl: Tensor


class ZsDebias(nn.Module):
    """Encoder to mean and log variance of a latent as wide as the embedding, and a decoder; 2-layer perceptrons.

    The first half of the latent (rounded down) is neutral, the rest holds the bias.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.neutral = width, width // 2
        self.encoder, self.decoder = _perceptron(width, 2 * width), _perceptron(width, width)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [n, d] of the latents of embeddings [n, d]."""
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        return mean, log_variance

    def decode(self, neutral: Tensor, bias: Tensor) -> Tensor:
        """Embeddings [n, d] from both halves of the latent."""
        made: Tensor = self.decoder(torch.cat([neutral, bias], dim=-1))
        return made


class Trained(NamedTuple):
    """The adaptor of the best epoch, that epoch (from 1), and the validation loss of every epoch."""

    model: ZsDebias
    epoch: int
    validation: list[float]


def kernel_cka(x: Tensor, y: Tensor) -> Tensor:
    """Centred kernel alignment of rows [n, p] and [n, q] with Gaussian kernels, in [0, 1]; 1 for equal geometry.

    The bandwidth of each is the square root of the median squared distance between distinct rows. Source: Kornblith et al. (2019).
    """
    k, m = _centred_kernel(x), _centred_kernel(y)
    eps = 1e-8
    return (k * m).sum() / (((k * k).sum() + eps).sqrt() * ((m * m).sum() + eps).sqrt())


def nearest_bias_texts(images: Tensor, corpus: Tensor, neighbours: int) -> Tensor:
    """The unit mean of the corpus texts [m, d] that are nearest to each image [n, d]; both are scaled to unit norm -> [n, d]."""
    texts = functional.normalize(corpus, dim=-1)
    made = images.new_empty(images.shape)
    for start in range(0, len(images), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        nearest = (functional.normalize(images[rows], dim=-1) @ texts.mT).topk(neighbours, dim=1).indices
        made[rows] = functional.normalize(texts[nearest].mean(1), dim=-1)
    return made


def train_zsdebias(
    images: Tensor,
    corpus: Tensor,
    *,
    epochs: int = 500,
    batch: int = 1024,
    lr: float = 1e-4,
    weight_decay: float = 1e-5,
    patience: int = 50,
    neighbours: int = 10,
    val_fraction: float = 0.3,
    weights: Weights | None = None,
    seed: int = 42,
    swapped: bool = False,
) -> Trained:
    """Fit the adaptor to image embeddings [n, d] as they are, with text embeddings [m, d] about the attribute.

    Adam, gradient norm clipped to 1, learning rate along a cosine to 1e-8; the epoch with the lowest validation loss is
    kept, and ``patience`` epochs without a better one end the training. ``swapped``: join the halves in the wrong order where the
    bias is shuffled (and only there), as the public code does. The global generators are left as they were. Raises ValueError for fewer
    than 16 images, no epoch, a corpus of no more than ``neighbours`` texts, other widths, NaN, a norm of 0.
    """
    check_rows("image embeddings", images, nonzero=True)
    check_rows("corpus embeddings", corpus, images.shape[1], nonzero=True)
    if len(images) < 16 or len(corpus) <= neighbours:
        raise ValueError(
            f"training needs 16 images and more than {neighbours} texts, not {len(images)} and {len(corpus)}"
        )
    if epochs < 1:
        raise ValueError(f"training needs at least one epoch, not {epochs}")
    used = weights or Weights()
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        fit = _Fit(images.float(), nearest_bias_texts(images.float(), corpus.float(), neighbours), used, swapped, batch)
        return fit.run(epochs, lr, weight_decay, patience, val_fraction)


def debias_images(model: ZsDebias, images: Tensor, *, seed: int = 0, sample: bool = True) -> Tensor:
    """Images [n, d] with the biased half of the latent replaced by noise, float32 unit rows.

    ``sample``: the neutral half is drawn too, as published; otherwise its mean is used (ours).
    """
    check_rows("image embeddings", images, model.width, nonzero=True)
    rng = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        mean, log_variance = model.encode(images.float())
        noise = torch.randn(mean.shape, generator=rng).to(mean)
        neutral = mean + noise * (0.5 * log_variance).exp() * sample
        made = model.decode(neutral[:, : model.neutral], noise[:, model.neutral :])
    return unit_rows("debiased images", made).float()


class _Fit:
    """One training: rows, their bias targets, and what the loss is made of."""

    def __init__(self, images: Tensor, targets: Tensor, weights: Weights, swapped: bool, batch: int) -> None:
        self.images, self.targets, self.weights, self.swapped, self.batch = images, targets, weights, swapped, batch
        self.model = ZsDebias(images.shape[1]).to(images.device)

    def run(self, epochs: int, lr: float, weight_decay: float, patience: int, val_fraction: float) -> Trained:
        order = torch.randperm(len(self.images), device=self.images.device)
        held = min(max(int(len(order) * val_fraction), 4), len(order) - 4)
        train, val = order[held:], order[:held]
        optimiser = torch.optim.Adam(self.model.parameters(), lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs, eta_min=_LAST_LR)
        best, state, history = 0, dict[str, Tensor](), list[float]()
        for epoch in range(1, epochs + 1):
            kl = self.weights.kl * ((epoch - 1) % self.weights.cycle) / max(self.weights.cycle - 1, 1)
            self._train_epoch(train[torch.randperm(len(train), device=train.device)], optimiser, kl)
            schedule.step()
            history.append(self._validate(val, kl))
            if not best or history[-1] < history[best - 1]:
                best, state = epoch, {name: value.clone() for name, value in self.model.state_dict().items()}
            if epoch - best >= patience:
                break
        self.model.load_state_dict(state)
        return Trained(self.model.eval(), best, history)

    def _train_epoch(self, rows: Tensor, optimiser: torch.optim.Optimizer, kl: float) -> None:
        self.model.train()
        for part in _even_parts(rows, self.batch):
            optimiser.zero_grad()
            self._loss(part, kl).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()

    def _validate(self, rows: Tensor, kl: float) -> float:
        self.model.eval()
        with torch.no_grad():
            losses = [self._loss(part, kl) for part in _even_parts(rows, self.batch)]
        return float(torch.stack(losses).mean())

    def _loss(self, rows: Tensor, kl: float) -> Tensor:
        t, w = loss_terms(self.model, self.images[rows], self.targets[rows], self.swapped), self.weights
        aligned = w.independence * t.independence - w.bias_alignment * t.bias_alignment
        return w.reconstruction * t.reconstruction + aligned + w.contrast * t.contrast + kl * t.kl


def loss_terms(model: ZsDebias, images: Tensor, targets: Tensor, swapped: bool = False) -> Terms:
    """Terms of the loss for images [n, d] and unit texts [n, d] of their bias; draws from torch's global generator."""
    mean, log_variance = model.encode(images)
    z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    neutral, bias = z[:, : model.neutral], z[:, model.neutral :]
    shuffle = torch.randperm(len(z), device=z.device)
    other_bias = model.decode(bias[shuffle], neutral) if swapped else model.decode(neutral, bias[shuffle])
    other_neutral = model.decode(neutral[shuffle], bias)
    return Terms(
        _squared_error(model.decode(neutral, bias), images),
        kernel_cka(bias, targets),
        kernel_cka(neutral, bias),
        _squared_error(other_bias, images) + _squared_error(other_neutral, images),
        -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean(),
    )


def _perceptron(width: int, out: int) -> nn.Sequential:
    layers = [
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.LeakyReLU(_SLOPE),
        nn.Dropout(_DROPOUT),
        nn.Linear(width, out),
    ]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="leaky_relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _squared_error(made: Tensor, images: Tensor) -> Tensor:
    """Squared error summed over features, mean over rows."""
    return (made - images).square().sum(1).mean()


def _centred_kernel(x: Tensor) -> Tensor:
    products = x @ x.mT
    norms = products.diagonal()
    squares = (norms[:, None] - 2 * products + norms).clamp_min(0)
    apart = squares[~torch.eye(len(x), dtype=torch.bool, device=x.device) & (squares > 0)]
    width = apart.median() if len(apart) else squares.new_ones(())
    kernel = (-squares / (2 * width)).exp()
    rows = kernel.mean(0, keepdim=True)
    return kernel - rows - rows.mT + kernel.mean()


def _even_parts(rows: Tensor, batch: int) -> Iterator[Tensor]:
    """Parts of nearly equal size of at most ``batch``: a last row of its own would have no kernel."""
    yield from rows.tensor_split(max(1, -(-len(rows) // max(batch, 4))))
