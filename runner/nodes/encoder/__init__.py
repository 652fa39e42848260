"""Training and scoring of the embedded mini image-text encoder."""
