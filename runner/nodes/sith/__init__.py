"""SITH: what the heads of a CLIP vision transformer write, read from the weights, and edited there."""
