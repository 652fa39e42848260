"""Debiasing of CLIP's text embeddings: sparse embedding modulation (SEM), its sparse autoencoder, its baselines, its evaluation."""
