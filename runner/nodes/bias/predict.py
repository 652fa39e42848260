"""The earlier name of ``runner.nodes.predicting``, which all methods share."""

from runner.nodes.predicting import Outputs, Place, predict, read_pictures

__all__ = ["Outputs", "Place", "predict", "read_pictures"]
