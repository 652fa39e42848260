"""Datasets whose pictures carry attributes besides their class: gender, race, place, skin tone, drawing style, safety.

``specs`` says what may be written, ``loading.load`` reads one, the step ``datasets.attributes`` several. Public sets are read
from local copies in the layout of their makers; ``{emoji: [...]}`` makes a factorial of packaged emoji of people, and
``{table: ...}`` reads any table of files, classes and attributes. Pictures are read where they are, never bundled.
"""
