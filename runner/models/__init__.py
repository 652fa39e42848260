"""Model handles: kinds, providers and safe loading."""
