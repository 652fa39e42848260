"""Classification datasets: layouts, splits, groups and the text of their classes."""
