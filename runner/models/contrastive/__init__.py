"""Chat models that answer from embeddings: training-free baselines that are no language models."""
