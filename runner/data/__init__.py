"""Image sources, decoding and datasets."""
