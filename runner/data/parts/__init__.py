"""Datasets with masks of parts and attributes of parts: layouts, masks, readers."""
