"""Step ``parts.load``: a public or own dataset with part masks. Light: imported to validate a spec."""
