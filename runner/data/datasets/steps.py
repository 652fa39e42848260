"""Step ``datasets.load``."""
