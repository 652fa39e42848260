"""From YAML text to a validated, resolved spec."""
