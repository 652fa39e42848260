"""Step `proactive.make`. Light: imported to validate a spec."""
