"""Providers ``contrastive`` and ``composed``."""
