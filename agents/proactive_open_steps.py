"""Step `proactive.open`. Light: imported to validate a spec."""
