"""What questions are made of besides nouns: colours, words, styles and wordings. Ours. Light."""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 32), "orange": (246, 140, 20), "yellow": (246, 220, 32), "green": (32, 150, 48), "blue": (36, 72, 214),
    "purple": (136, 40, 168), "pink": (250, 140, 186), "brown": (124, 76, 36), "black": (16, 16, 16), "white": (250, 250, 250),
}  # fmt: skip
"""Centres of colours, sRGB 0..255; each drawing moves a little from there."""
SHAPES = ("circle", "square", "triangle", "star")
STYLES: dict[str, str] = {"google-emoji": "emoji", "fluent-3d": "render", "openclipart": "drawing", "cifar": "photo"}
"""Sets, by the style in which they depict."""
PLACES = ("left", "right", "above", "below")
TEXTS = (
    "STOP", "EXIT", "OPEN", "SALE", "TAXI", "CAFE", "BANK", "HOTEL", "PARK", "FIRE", "NORTH", "SOUTH", "EAST", "WEST", "PUSH",
    "PULL", "FREE", "MILK", "TEA", "SUGAR", "SALT", "RICE", "BREAD", "BEER", "GOLD", "LOVE", "HELP", "YES", "NO", "HOME", "BOOK",
    "TOYS",
)  # fmt: skip
"""Words that are drawn."""

ASKED: dict[str, tuple[str, ...]] = {
    "what": ("What is it?", "What is in the picture?", "Which object is shown?", "What does the picture show?"),
    "present": ("Is there a {noun}?", "Is a {noun} in the picture?", "Do you see a {noun}?"),
    "kind": ("What kind of thing is it?", "Is it an animal, a vehicle, food, a plant or a thing?", "Which kind is it?"),
    "either": ("Is it a {first} or a {second}?", "Which is it, a {first} or a {second}?", "Is a {first} or a {second} shown?"),
    "count": ("How many {noun}s are there?", "How many {noun}s do you see?", "Count the {noun}s."),
    "count_any": ("How many objects are there?", "How many things do you see?", "Count the objects."),
    "more_than": ("Are there more than {number} {noun}s?", "Do you see more than {number} {noun}s?",
                  "Is the number of {noun}s above {number}?"),
    "counted": ("What is counted?", "What are they?", "Which objects are shown?"),
    "colour": ("What colour is the {noun}?", "Which colour does the {noun} have?", "The {noun} has which colour?"),
    "background": ("What colour is the background?", "Which colour is behind the {noun}?", "The background has which colour?"),
    "is_colour": ("Is the {noun} {colour}?", "Does the {noun} look {colour}?", "Is {colour} the colour of the {noun}?"),
    "shape": ("What is drawn?", "Which object or shape is it?", "What is coloured here?"),
    "read": ("What is written?", "Which word is it?", "Read the word."),
    "initial": ("What is the first letter?", "With which letter does the word begin?", "Which letter comes first?"),
    "says": ("Does it say {word}?", "Is the word {word}?", "Is {word} written here?"),
    "letters": ("How many letters does the word have?", "How many letters are there?", "Count the letters."),
    "across": ("Is the {first} left or right of the {second}?", "On which side of the {second} is the {first}, left or right?",
               "Left or right: where is the {first}, seen from the {second}?"),
    "along": ("Is the {first} above or below the {second}?", "Is the {first} over or under the {second}, above or below?",
              "Above or below: where is the {first}, seen from the {second}?"),
    "at": ("What is {place} the {noun}?", "Which object is {place} the {noun}?", "What do you see {place} the {noun}?"),
    "is_at": ("Is the {first} {place} the {second}?", "Is it true that the {first} is {place} the {second}?",
              "Does the {first} stand {place} the {second}?"),
    "style": ("What style is it?", "Is it an emoji, a render, a drawing or a photo?", "Which style does the picture have?"),
    "is_style": ("Is this a {style}?", "Does it look like a {style}?", "Is the style that of a {style}?"),
}  # fmt: skip
"""Wordings of each kind of question."""
BESIDE = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
