"""Steps `lvlm.finetune`, `dmo.train_experts`, `dmo.train_mixtures`. Light: imported to validate a spec."""
