"""Step `questions.make`. Light: imported to validate a spec."""
