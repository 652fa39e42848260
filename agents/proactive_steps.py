"""Step `proactive.evaluate`. Light: imported to validate a spec."""
