"""Model nodes: the numeric work, one room a method."""
