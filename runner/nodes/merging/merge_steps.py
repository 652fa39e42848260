"""Steps `merge.experts`, `merge.write`. Light: imported to validate a spec."""
