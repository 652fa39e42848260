"""Step `evaluate.vqa`. Light: imported to validate a spec."""
