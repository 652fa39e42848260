"""Losses of recovery training, where readers of the pruning papers look for them."""

from runner.nodes.finetuning.losses import forward_kl, hidden_l2, reverse_kl

__all__ = ["forward_kl", "hidden_l2", "reverse_kl"]
