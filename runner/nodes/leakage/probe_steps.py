"""Step ``leakage.probe``. Light: imported to validate a spec."""
