"""Step `proactive.score`. Light: imported to validate a spec."""
