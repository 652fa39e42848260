"""Image classifiers from files that strangers made: recognised by content, refused by default, checked after loading."""

from runner.models.classifier.loader import load_classifier

__all__ = ["load_classifier"]
