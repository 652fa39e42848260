"""Providers `lvlm`, `lvlm_classifier`. Light: imported to validate a spec."""
