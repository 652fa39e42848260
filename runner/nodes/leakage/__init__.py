"""Intra-object leakage: what a part's vector knows of the rest of the object."""
