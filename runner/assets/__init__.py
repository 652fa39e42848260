"""Packaged models and images: registry, fetching, verification."""
