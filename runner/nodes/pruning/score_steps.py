"""Step `prune.score`. Light: imported to validate a spec."""
