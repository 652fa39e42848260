"""Training of a small CLIP on captioned pictures with frozen teachers, and the scoring of image-text encoders."""
