"""Nouns that packaged cut-outs depict, and how captions name them. Ours. Light."""

from __future__ import annotations

KINDS: dict[str, tuple[str, ...]] = {
    "animal": (
        "dog", "cat", "horse", "cow", "pig", "fish", "bear", "elephant", "lion", "tiger", "rabbit", "frog", "butterfly",
        "spider", "penguin", "duck",
    ),
    "vehicle": ("car", "bus", "train", "airplane", "bicycle", "truck"),
    "food": ("apple", "banana", "lemon", "strawberry", "pear", "pizza", "cake", "mushroom"),
    "plant": ("tree", "flower"),
    "thing": ("house", "book", "clock", "key", "guitar", "drum", "hat", "shoe", "umbrella", "bottle"),
}  # fmt: skip
"""Nouns by what they are a kind of."""
NOUNS: dict[str, str] = {noun: kind for kind, nouns in KINDS.items() for noun in nouns}

ALIASES: dict[str, str] = {
    "plane": "airplane", "aeroplane": "airplane", "bunny": "rabbit", "bike": "bicycle", "lorry": "truck", "puppy": "dog",
    "kitten": "cat", "pony": "horse", "poodle": "dog", "automobile": "car", "taxi": "car", "cottage": "house",
}  # fmt: skip
"""Other head words of captions."""
NOT_THESE = (
    "hot dog", "sea horse", "seahorse", "guinea pig", "pineapple", "teddy bear", "lion fish", "tiger fish", "clown fish", "paw",
    "cat fish", "christmas tree", "family tree", "dead", "tiger lily", "cow boy", "fire", "police box", "sea lion", "crab apple",
    "rice cake", "fish cake", "apple cake", "moon cake", "horse shoe", "tail", "skeleton", "cable car", "railway car", "key hole",
)  # fmt: skip
"""Captions with one of these show something else."""
FACES = ("face", "head")
"""A head word that stands for the animal before it."""
