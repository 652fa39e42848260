"""Step `proactive.play`. Light: imported to validate a spec."""
