"""Names of the parts of a face, in the order of the parser's output (CelebAMask-HQ). Light: no torch here."""

PARTS = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_glasses", "l_ear", "r_ear", "ear_ring", "nose",
    "mouth", "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat",
)  # fmt: skip
