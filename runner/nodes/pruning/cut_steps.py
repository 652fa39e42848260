"""Steps `prune.cut`, `prune.plan`. Light: imported to validate a spec."""
