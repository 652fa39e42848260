"""Steps `proactive.scripted`, `proactive.exact`. Light: imported to validate a spec."""
