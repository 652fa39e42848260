"""Classification datasets: layouts, splits, groups and the text of their classes.

``{name: dtd, root: ./data/dtd}`` reads one of the ten public datasets of the open-world protocol from a local copy
(``known``), ``{image_folder: ./photos}`` any folder sorted by class, ``{packaged: ...}`` an image set of the asset
registry, ``{source: ...}`` any other image source that has labels or captions. ``specs`` says what may be written,
``loading.load`` reads one dataset, the step ``datasets.load`` several. Pictures are read where they are, never bundled.
"""
