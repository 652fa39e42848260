"""Providers of vision backbones in a spec. Light: imported to validate a spec."""
