"""Classifier bias audit (C2B): scores, statistics, assessment."""
