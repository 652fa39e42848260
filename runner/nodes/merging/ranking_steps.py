"""Steps `dmo.mixtures`, `dmo.rank`, `dmo.search`, `dmo.baselines`, `dmo.quota`. Light: imported to validate a spec."""
