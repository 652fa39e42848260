"""Steps `proactive.load`, `proactive.keep`, `proactive.probe`. Light: imported to validate a spec."""
