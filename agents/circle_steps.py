"""Steps of in-context open-world classification: ``circle.classify`` and ``circle.stream``."""
