"""Step ``leakage.features``. Light: imported to validate a spec."""
