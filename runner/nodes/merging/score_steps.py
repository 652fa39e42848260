"""Steps `dmo.score`, `dmo.score_trained`. Light: imported to validate a spec."""
