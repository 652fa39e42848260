"""Steps ``parts.openmoji``, ``parts.planted``, ``parts.tree``. Light: imported to validate a spec."""
