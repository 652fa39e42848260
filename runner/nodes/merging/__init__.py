"""Merging of models, and merged models as stand-ins for mixtures of data."""
