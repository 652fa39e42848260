"""Steps ``leakage.mask_pictures``, ``leakage.fit_concepts``, ``leakage.answer``, ``leakage.locality``. Light: imported to validate a spec."""
