"""Steps `benchmarks.load`, `conversations.load`. Light: imported to validate a spec."""
