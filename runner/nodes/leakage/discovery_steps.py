"""Step ``leakage.discover``. Light: imported to validate a spec."""
