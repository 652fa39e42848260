"""Steps `evaluate.compare`, `evaluate.loss`, `evaluate.import_lmms_eval`, `evaluate.speed`. Light: imported to validate a spec."""
