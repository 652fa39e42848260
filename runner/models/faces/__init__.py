"""Classifiers of aligned faces, and the small executor of the graphs that some of them come as."""
