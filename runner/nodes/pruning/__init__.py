"""Structured pruning of vision-language models."""
