"""Steps that answer with words of a vocabulary."""
