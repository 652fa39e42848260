"""Counterfactuals on generated faces: people who do not exist, changed in one respect at a time."""
