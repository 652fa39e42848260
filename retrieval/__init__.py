"""From a corpus to embeddings to ranked, filtered images."""
