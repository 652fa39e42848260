"""Benchmarks of visual question answering, read from local files."""
