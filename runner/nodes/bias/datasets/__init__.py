"""Labelled data sets with known biases, for checking an audit: CelebA and ImageNet-X. Readers parse; pictures open later."""
