"""Steps `proactive.conversations`, `proactive.train`. Light: imported to validate a spec."""
