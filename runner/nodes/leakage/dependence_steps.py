"""Step ``leakage.dependence``. Light: imported to validate a spec."""
